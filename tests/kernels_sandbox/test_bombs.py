"""Bombs with four neighbours running: they lose nothing, and nothing is left of the bomb.

How long the neighbours take to answer meanwhile is printed.
"""

import contextlib
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import anyio
import pytest

from ci_tools_kernels.cgroups import find_controls
from ci_tools_kernels.host import find_host
from ci_tools_kernels.usage import list_processes
from tests.kernels_sandbox.rig import NEIGHBOURS, Result, Session, need_watcher, open_session

PINGS = 5
"""Of each neighbour while the bomb goes off."""

GONE_TIMEOUT = 15.0
"""Seconds until nothing may be left."""


@dataclass(frozen=True, kw_only=True)
class Bomb:
    """Code that takes all it can get of something, and what is said to that."""

    code: str
    refusal: str
    """What its error or output says, or the limit that it was interrupted or ended for."""

    ends: bool = False
    """Whether the kernel is ended: the code resists its interruption."""

    endless: bool = False
    """Whether the code goes on although it is refused."""


RESISTING = """
import os, time
number = 0
while True:
    try:
        {step}
        number += 1
    except KeyboardInterrupt:
        pass
"""

BOMBS = {
    "fork": Bomb(
        code="import os, time, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "said = False\n"
        "while True:\n"
        "    try:\n"
        "        os.fork()\n"
        "    except OSError as exc:\n"
        "        if not said:\n"
        "            print(exc, flush=True)\n"
        "        said = True\n"
        "        time.sleep(0.01)",
        refusal="Resource temporarily unavailable",
        endless=True,
    ),
    "memory": Bomb(
        code="kept = []\nwhile True:\n    kept.append(bytearray(20 << 20))",
        refusal="MemoryError",
    ),
    "memory of many": Bomb(
        code="import os, signal, time\n"
        "for _ in range(6):\n"
        "    if os.fork() == 0:\n"
        "        signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "        kept = bytearray(200 << 20)\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        "kept = []\n"
        "while True:\n"
        "    try:\n"
        "        kept.append(bytearray(20 << 20))\n"
        "    except BaseException:\n"
        "        time.sleep(0.01)",
        refusal="700 MB of memory",
        ends=True,
    ),
    "disk": Bomb(
        code=RESISTING.format(step="open(f'{number}', 'wb').write(bytes(1 << 20))"),
        refusal="40 MB",
        ends=True,
    ),
    "inode": Bomb(
        code=RESISTING.format(step="open(f'{number}', 'w').close()"),
        refusal="400 files",
        ends=True,
    ),
    "inode in scratch": Bomb(
        code="number = 0\nwhile True:\n    open(f'/tmp/{number}', 'w').close()\n    number += 1",
        refusal="No space left on device",
    ),
    "file descriptor": Bomb(
        code="import os\nkept = []\nwhile True:\n    kept.append(os.pipe())",
        refusal="Too many open files",
    ),
}
"""Bombs that something refuses."""

ENDLESS = {
    "output": "while True:\n    print('x' * 10000)",
    "cpu": "import os\nfor _ in range(8):\n    if os.fork() == 0:\n        break\nwhile True: pass",
}
"""Bombs that go on until their session is interrupted or closed: nothing refuses them."""


async def ping(session: Session, times: list[float]) -> None:
    for _ in range(PINGS):
        started = perf_counter()
        await session.run("x", timeout=60)
        times.append(perf_counter() - started)


async def check_neighbours(
    name: str, neighbours: list[Session], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ask all of them for what they have, while the bomb goes off, and print how long that took."""
    times: list[float] = []
    async with anyio.create_task_group() as group:
        for neighbour in neighbours:
            group.start_soon(ping, neighbour, times)
    with capsys.disabled():
        middle, longest = statistics.median(times) * 1e3, max(times) * 1e3
        print(f"\n{name} bomb: neighbours answer in {middle:.0f} ms, at most {longest:.0f} ms")
    results = [await neighbour.run("x, open('kept').read()") for neighbour in neighbours]

    assert [result.data[0]["text/plain"] for result in results] == [
        f"({number}, '{number}')" for number in range(NEIGHBOURS)
    ]


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What a session has of the machine."""

    namespaces: set[str]
    folders: set[Path]

    def find_left(self) -> list[str]:
        """Return what is still there."""
        left = [str(path) for path in self.folders if path.exists()]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and self.namespaces & find_namespaces(int(entry.name)):
                left.append(str(entry))
        return left


def find_namespaces(pid: int) -> set[str]:
    """Return the mount and pid namespace of a process, if they may be seen."""
    with contextlib.suppress(OSError):
        return {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "pid")}
    return set()


def find_traces(session: Session) -> Traces:
    """Look at a running session from outside."""
    first = session.sandbox.find_pid()
    assert first is not None
    namespaces = {name for pid in list_processes(first) for name in find_namespaces(pid)}
    groups = [
        group
        for parent in find_controls().parents.values()
        for group in parent.glob("ci-tools-*")
        if str(first) in (group / "cgroup.procs").read_text().split()
    ]
    sockets = [path for path in find_host().run_dir.iterdir() if path.is_dir()]
    return Traces(
        namespaces=namespaces - find_namespaces(os.getpid()),
        folders={*groups, *(path for path in sockets if session.manager.ip.startswith(str(path)))},
    )


async def wait_until_gone(traces: Traces) -> None:
    """Wait until nothing is left; fail with what is."""
    left = traces.find_left()
    with anyio.move_on_after(GONE_TIMEOUT):
        while left := traces.find_left():
            await anyio.sleep(0.05)
    assert left == []


async def run_until_written(session: Session, code: str) -> Result:
    """Start code that does not end, and leave it alone once it has written something."""
    session.client.execute(code)
    with anyio.fail_after(60):
        while True:
            message = await session.client.get_iopub_msg(timeout=60)
            if message["msg_type"] == "stream":
                return Result(text=message["content"]["text"])


@pytest.mark.parametrize("name", BOMBS)
async def test_bomb_is_refused_and_neighbours_lose_nothing(
    name: str,
    kernelspecs: Path,
    tmp_path: Path,
    neighbours: list[Session],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bomb = BOMBS[name]
    results: list[Result] = []
    async with open_session(kernelspecs, tmp_path / "bomb", name="small") as session:
        if name in ("disk", "inode"):
            need_watcher(session)
        traces = find_traces(session)

        async def go_off() -> None:
            if bomb.endless:
                results.append(await run_until_written(session, bomb.code))
            elif bomb.ends:
                session.client.execute(bomb.code)
                with anyio.fail_after(60):
                    await session.provisioner.wait()
            else:
                results.append(await session.run(bomb.code, timeout=60))

        async with anyio.create_task_group() as group:
            group.start_soon(go_off)
            await check_neighbours(name, neighbours, capsys)
        said = str(session.provisioner.last_excess)
        said += "".join(result.error + result.text for result in results)
        if not bomb.ends and not bomb.endless:
            after = await session.run("1 + 1")
            assert after.status == "ok"

    assert bomb.refusal in said
    assert traces.namespaces and traces.folders
    await wait_until_gone(traces)


@pytest.mark.parametrize("name", ENDLESS)
async def test_endless_code_can_be_ended_and_neighbours_lose_nothing(
    name: str,
    kernelspecs: Path,
    tmp_path: Path,
    neighbours: list[Session],
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with open_session(kernelspecs, tmp_path / "bomb", name="small") as session:
        traces = find_traces(session)
        session.client.execute(ENDLESS[name])
        await check_neighbours(name, neighbours, capsys)
        await session.manager.interrupt_kernel()

    await wait_until_gone(traces)
