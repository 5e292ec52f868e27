"""Running the real command as a child process, and looking at what it leaves behind."""

import os
import re
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
import psutil
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from mcp import Client, StdioServerParameters

REAL = (sys.executable, "-m", "ci_tools_server")
"""The command as it is."""

FAKE = (sys.executable, str(Path(__file__).with_name("fake_ci_tools.py")))
"""The command with the fake backend."""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A clean environment with the state directory in `folder`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CI_TOOLS_")}
    state = {
        "CI_TOOLS_STATE_DIR": str(folder / "state"),
        "CI_TOOLS_KERNEL_PYTHON": sys.executable,
        "FAKE_FOLDER": str(folder / "fake"),
    }
    return kept | state | more


def stdio(
    folder: Path, *arguments: str, command: Iterable[str] = FAKE, **more: str
) -> StdioServerParameters:
    """How an MCP client starts `ci-tools mcp`."""
    program, *rest = command
    return StdioServerParameters(
        command=program, args=[*rest, "mcp", *arguments], env=environment(folder, **more)
    )


class Serving:
    """A running `ci-tools serve`."""

    def __init__(self, process: Process, log: "Log") -> None:
        self.process = process
        self.log = log
        self.url = ""
        self.token = ""

    async def wait_until_listening(self) -> None:
        await self.wait_until_starting("listening on")

    async def wait_until_starting(self, said: str = "starting on") -> None:
        line = await self.log.wait_for(said)
        found = re.search(r"http://[\w.:\[\]]+", line)
        assert found
        self.url = found[0]
        tokens = re.findall(r"cit_[\w-]+", self.log.text)
        self.token = tokens[0] if tokens else ""


class Log:
    """What a process writes to stderr, line by line."""

    def __init__(self, process: Process) -> None:
        assert process.stderr
        self._lines = TextReceiveStream(process.stderr)
        self._event = anyio.Event()
        self.text = ""
        self.ended = False

    async def read(self) -> None:
        async for chunk in self._lines:
            self.text += chunk
            self._event.set()
            self._event = anyio.Event()
        self.ended = True
        self._event.set()

    async def wait_for(self, text: str) -> str:
        """Return the first line with `text`."""
        with anyio.fail_after(30):
            while True:
                for line in self.text.splitlines(keepends=True):
                    if text in line and line.endswith("\n"):
                        return line
                assert not self.ended, self.text
                await self._event.wait()


@asynccontextmanager
async def serving(
    folder: Path, *arguments: str, command: Iterable[str] = FAKE, **more: str
) -> AsyncIterator[Serving]:
    """Run `ci-tools serve` on a free port; it is ended by SIGTERM."""
    process = await anyio.open_process(
        [*command, "serve", "--port", "0", *arguments],
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        env=environment(folder, **more),
    )
    async with process, anyio.create_task_group() as tasks:
        served = Serving(process, Log(process))
        tasks.start_soon(served.log.read)
        try:
            await served.wait_until_listening()
            yield served
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.terminate()
                await wait_until_gone([process.pid], reap=process)


async def wait_until_gone(pids: Iterable[int], *, reap: Process | None = None) -> None:
    """Wait until none of these processes runs."""
    with anyio.fail_after(20):
        if reap is not None:
            await reap.wait()
        while any(_runs(pid) for pid in pids):
            await anyio.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants(pid: int) -> list[int]:
    """The process and all that it has started."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


async def run(
    folder: Path,
    *arguments: str,
    command: Iterable[str] = FAKE,
    input: bytes = b"",
    limit: float = 60,
    **more: str,
) -> tuple[int, str, str]:
    """Run a command to its end; returns its exit code, stdout and stderr."""
    with anyio.fail_after(limit):
        done = await anyio.run_process(
            [*command, *arguments],
            input=input,
            check=False,
            stderr=PIPE,
            cwd=folder,
            env=environment(folder, **more),
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def call(client: Client, tool: str, **arguments: object) -> str:
    """Call a tool and return the text of its result."""
    result = await client.call_tool(tool, dict(arguments))
    return "\n".join(getattr(block, "text", "") for block in result.content)


def session_of(text: str) -> str:
    """The session id that a result names."""
    found = re.search(r"sess_\w+", text)
    assert found, text
    return found[0]
