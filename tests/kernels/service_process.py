"""A service process for tests: an embedded server, a kernel, and processes that its code started.

It prints one line of JSON when all of them run, and then waits for its standard input to end.
"""

import json
import sys
from pathlib import Path
from uuid import uuid4

import anyio
import anyio.to_thread
import psutil

from ci_tools.kernel import KernelRequest
from ci_tools_jupyter import JupyterBackend
from tests.kernels.rig import run

CODE = """
import subprocess, sys
x = "from the other process"
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
subprocess.Popen(sleep)
subprocess.run(
    [sys.executable, "-c", "import subprocess, sys\\n"
     "subprocess.Popen(sys.argv[1:], start_new_session=True)", *sleep], check=True)
print("all run")
"""


async def main(state_dir: Path) -> None:
    """Start everything, tell about it and wait."""
    backend = JupyterBackend(state_dir=state_dir)
    async with backend.open():
        request = KernelRequest(
            session_id=f"sess_{uuid4().hex}", server="embedded", kernelspec="", epoch=1
        )
        ref = await backend.start_kernel(request)
        async with backend.connect(ref) as kernel:
            outcome = await run(kernel, CODE)
        assert outcome.text() == "all run\n", outcome
        # Not as the code sees them: a sandbox numbers its processes itself.
        pids = [process.pid for process in psutil.Process().children(recursive=True)]
        print(json.dumps({"ref": vars(ref), "pids": pids}), flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
