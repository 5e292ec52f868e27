"""Kernels without a sandbox start from processes that wait for them."""

import os
import sys
from pathlib import Path

import anyio
import psutil
import pytest

from ci_tools.kernel import Kernel
from ci_tools_jupyter.backend import JupyterBackend
from ci_tools_jupyter.sandbox import EmbeddedKernels
from ci_tools_jupyter.waiting import WAITING, Kind, WaitingProcesses
from tests.kernels.rig import run
from tests.kernels.test_sandbox import start

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows interrupts kernels by handles made at their start"
)

POOL = {"pool": 1, "preload": ["json.tool", "no_such_module"]}


def list_waiting() -> list[psutil.Process]:
    """List the processes of this one's servers that wait, or have waited."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if str(WAITING) in process.cmdline()]


async def wait_for_one() -> psutil.Process:
    """Wait until exactly one process waits, and return it."""
    with anyio.fail_after(20):
        while len(found := list_waiting()) != 1:
            await anyio.sleep(0.02)
    return found[0]


async def ask(kernel: Kernel, code: str) -> list[str]:
    """Return the words that code prints."""
    return (await run(kernel, code)).text().split()


async def test_a_kernel_is_the_process_that_waited(tmp_path: Path) -> None:
    kernels = EmbeddedKernels(isolation="none", environment={"GIVEN": "yes"}, policy=POOL)
    backend = JupyterBackend(state_dir=tmp_path, kernels=kernels)
    async with backend.open():
        await backend.warm_up()
        waiting = await wait_for_one()
        ref = await start(backend)
        async with backend.connect(ref) as kernel:
            here = await ask(
                kernel,
                "import os, sys\n"
                "print(os.getpid(), os.environ['GIVEN'], __name__, 'json.tool' in sys.modules)\n"
                "print(os.path.basename(os.getcwd()), os.path.basename(sys.argv[0]))\n"
                "print(os.getpgid(0) == os.getpid(), 'ci_tools_jupyter' in str(sys.path))",
            )
            shown = await run(kernel, "import matplotlib.pyplot as plt\nplt.plot([1]); plt.show()")
        with anyio.fail_after(20):
            while not [other for other in list_waiting() if other.pid != waiting.pid]:
                await anyio.sleep(0.02)  # another takes its place

    assert here[:4] == [str(waiting.pid), "yes", "__main__", "True"]
    assert here[5:] == ["ipykernel_launcher.py", "True", "False"]
    assert [event for event in shown.events if "image/png" in getattr(event, "data", {})]
    assert list_waiting() == []


async def test_a_process_that_has_ended_is_not_missed(tmp_path: Path) -> None:
    backend = JupyterBackend(
        state_dir=tmp_path, kernels=EmbeddedKernels(isolation="none", policy=POOL)
    )
    async with backend.open():
        await backend.warm_up()
        (await wait_for_one()).kill()
        async with backend.connect(await start(backend)) as kernel:
            assert await ask(kernel, "print('well')") == ["well"]


async def test_a_kernel_with_variables_of_its_own_is_not_one_that_waited(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "dev", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    usual = Kind.of(command, {"A": "1", "JPY_SESSION_NAME": "x"}, ["numpy"])

    assert usual is not None
    assert usual.python == (sys.executable, "-X", "dev")
    assert usual == Kind.of(command, {"A": "1"}, ["numpy"])
    assert usual != Kind.of(command, {"A": "2"}, ["numpy"])
    assert Kind.of(["R", "--slave"], {}, []) is None


def test_processes_of_a_kind_that_is_asked_for_no_more_end() -> None:
    processes = WaitingProcesses()
    variables = {name: os.environ[name] for name in ("PATH",)}
    first = Kind(python=(sys.executable,), environment=tuple(variables.items()), preload=())
    second = Kind(python=(sys.executable,), environment=(), preload=())
    processes.fill(first, 2)
    old = processes.list_pids()

    processes.fill(second, 1)
    new = processes.list_pids()
    processes.fill(second, 0)
    taken = processes.take(first, {})
    last = processes.take(second, {"cwd": "/", "env": {}, "arguments": ["--version"]})

    assert len(old) == 2
    assert len(new) == 1
    assert not any(psutil.pid_exists(pid) for pid in old)
    assert taken is None
    assert last is not None
    assert last.wait(30) == 0
