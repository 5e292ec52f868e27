"""A service process for tests: an embedded server, a kernel, and processes that its code started.

It prints one line of JSON when all of them run, and then waits for its standard input to end.
"""

import json
import sys
from pathlib import Path
from uuid import uuid4

import anyio
import anyio.to_thread

from ci_tools.kernel import KernelRequest
from ci_tools_jupyter import JupyterBackend
from tests.kernels.rig import run

CODE = """
import os, subprocess, sys
x = "from the other process"
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep).pid
daemon = subprocess.run(
    [sys.executable, "-c", "import subprocess, sys\\n"
     "print(subprocess.Popen(sys.argv[1:], start_new_session=True, stdin=subprocess.DEVNULL,"
     " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)", *sleep],
    capture_output=True, text=True).stdout.strip()
print(os.getpid(), os.getppid(), child, daemon)
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
        pids = [int(pid) for pid in outcome.text().split()]
        print(json.dumps({"ref": vars(ref), "pids": pids}), flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
