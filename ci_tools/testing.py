"""A kernel backend for tests: real Python in small child processes, no Jupyter.

It starts in about 20 ms and passes the contract tests of the real backends. Kernels live as long as
the backend object is open; with `persistent=True` they survive the service, as kernels on a remote
server do, until `aclose`.
"""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from ci_tools.commands import LocalCommands
from ci_tools.errors import KernelDiedError, KernelLostError, KernelStartError
from ci_tools.kernel import (
    ClearOutput,
    CommandRequest,
    DisplayUpdate,
    ExecutionDone,
    KernelEvent,
    KernelRequest,
    Workspace,
    WorkspaceRequest,
)
from ci_tools.models import (
    CommandEvent,
    DisplayOutput,
    ErrorOutput,
    KernelRef,
    KernelSpec,
    StreamOutput,
    Variable,
)
from ci_tools.workspace import LocalWorkspace

_CHILD = Path(__file__).with_name("_fake_kernel.py")


class FakeBackend:
    """Kernels that are plain Python child processes; POSIX only, and never a sandbox."""

    name = "fake"

    def __init__(self, root: Path, *, persistent: bool = False) -> None:
        self._root = root
        self._persistent = persistent
        self._kernels: dict[str, _Process] = {}
        self._commands = LocalCommands()
        self.started = 0
        """How many kernels were ever started."""

        self.unavailable = False
        """Set to refuse new kernels, as a server that is away does."""

        self.preparing: str | None = None
        """What kernels are said to wait for."""

    @property
    def alive(self) -> int:
        """How many kernels are running now."""
        return sum(process.alive for process in self._kernels.values())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Own the kernels that are started inside."""
        try:
            yield
        finally:
            if not self._persistent:
                await self.aclose()

    async def aclose(self) -> None:
        """End every kernel, and the commands beside them."""
        self._commands.end_all()
        while self._kernels:
            _, process = self._kernels.popitem()
            process.kill()

    def servers(self) -> Sequence[str]:
        """Name the one server."""
        return ["embedded"]

    def isolation(self, server: str) -> str:
        """Admit that there is none."""
        return "none"

    async def warm_up(self) -> None:
        """Do nothing."""

    def preparation(self) -> str | None:
        """Return what a test says that kernels wait for."""
        return self.preparing

    async def list_kernelspecs(self, server: str) -> Sequence[KernelSpec]:
        """List the one kind."""
        return [KernelSpec(name="python3", display_name="Python 3 (fake)", language="python")]

    async def open_workspace(self, request: WorkspaceRequest) -> Workspace | None:
        """Return the session's folder under the root."""
        return LocalWorkspace(self._folder(request.session_id))

    async def remove_workspace(self, request: WorkspaceRequest) -> None:
        """Delete the session's folder."""
        folder = self._root / request.session_id
        if folder.exists():
            await anyio.to_thread.run_sync(_remove_tree, folder)

    async def start_kernel(self, request: KernelRequest) -> KernelRef:
        """Start a child process in the session's folder."""
        if self.unavailable:
            raise KernelStartError("The fake server is away.")
        if request.kernelspec not in ("", "python3"):
            raise KernelStartError(f"There is no kernelspec {request.kernelspec!r}.")
        process = _Process(self._folder(request.session_id), request.environment)
        kernel_id = uuid.uuid4().hex
        self._kernels[kernel_id] = process
        self.started += 1
        await process.read()  # that it is ready: before, an interrupt would end it
        return KernelRef(
            server="embedded",
            kernel_id=kernel_id,
            channel_id=request.session_id,
            kernelspec="python3",
            language="python",
        )

    def may_live(self, ref: KernelRef) -> bool:
        """Tell whether the child runs."""
        process = self._kernels.get(ref.kernel_id)
        return process is not None and process.alive

    @asynccontextmanager
    async def connect(self, ref: KernelRef) -> AsyncIterator["FakeKernel"]:
        """Attach to a child that is alive."""
        process = self._kernels.get(ref.kernel_id)
        if process is None or not process.alive:
            raise KernelLostError("The fake kernel is gone.")
        kernel = FakeKernel(ref, process)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            process.kernels.add(kernel)
            tasks.start_soon(kernel.read_events)
            try:
                yield kernel
            except Exception as error:  # noqa: BLE001 - raised again, outside of the task group
                failure = error
            finally:
                process.kernels.discard(kernel)
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def stop_kernel(self, ref: KernelRef) -> None:
        """Kill the child."""
        self._commands.end(ref.kernel_id)
        process = self._kernels.pop(ref.kernel_id, None)
        if process is not None:
            process.kill()

    @asynccontextmanager
    async def run_command(
        self, ref: KernelRef, request: CommandRequest
    ) -> AsyncIterator[AsyncIterator[CommandEvent]]:
        """Run a shell command as another child process in the session's folder."""
        process = self._kernels.get(ref.kernel_id)
        if process is None or not process.alive:
            raise KernelLostError("The fake kernel is gone.")
        folder = self._folder(request.session_id)
        async with self._commands.run(
            ref.kernel_id,
            request,
            folder=folder,
            variables={"PATH": os.defpath, **request.environment},
        ) as events:
            yield events

    def kill_kernel(self, ref: KernelRef) -> None:
        """Kill the child as the operating system would, leaving its record."""
        self._kernels[ref.kernel_id].kill()

    def _folder(self, session_id: str) -> Path:
        folder = self._root / session_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _remove_tree(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


class _Process:
    """A child interpreter and its two pipes."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        requests_read, requests_write = os.pipe()
        replies_read, replies_write = os.pipe()
        # The child's ends must be exactly 3 and 4; it moves them there by way of numbers that are
        # free, as one of the two may have the number that the other is to get.
        script = (
            "import os,sys,runpy;from fcntl import fcntl,F_DUPFD;"
            "ends=[fcntl(int(end),F_DUPFD,5) for end in sys.argv[1:3]];"
            "os.dup2(ends[0],3);os.dup2(ends[1],4);[os.close(end) for end in ends];"
            "sys.argv=sys.argv[3:];runpy.run_path(sys.argv[0],run_name='__main__')"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-u", "-c", script, str(requests_read), str(replies_write), _CHILD],
            cwd=folder,
            pass_fds=(requests_read, replies_write),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        os.close(requests_read)
        os.close(replies_write)
        os.set_blocking(replies_read, False)
        self._requests = requests_write
        self.replies = replies_read
        self._ended = False
        self._rest = b""
        self.reading = anyio.Lock()
        """Held by the one connection that reads for all."""

        self.kernels: set[FakeKernel] = set()

    @property
    def alive(self) -> bool:
        return not self._ended and self._child.poll() is None

    def send(self, request: dict[str, str]) -> None:
        os.write(self._requests, json.dumps(request).encode() + b"\n")

    async def read(self) -> bool:
        """Hand what the child wrote to every connection; False when it has ended."""
        try:
            await anyio.wait_readable(self.replies)
            block = os.read(self.replies, 1 << 20)
        except (OSError, ValueError, anyio.ClosedResourceError):
            block = b""
        # Its pipe ends a moment before the operating system says that the child has.
        self._ended = not block
        *lines, self._rest = (self._rest + block).split(b"\n")
        for message in [json.loads(line) for line in lines] if block else [None]:
            for kernel in self.kernels:
                kernel.put(message)
        return bool(block)

    def interrupt(self) -> None:
        self._child.send_signal(signal.SIGINT)

    def kill(self) -> None:
        if self._requests >= 0:
            self._child.kill()
            self._child.wait()
            os.close(self._requests)
            os.close(self.replies)
            self._requests = self.replies = -1


class FakeKernel:
    """A connection to a child interpreter."""

    workspace = None

    def __init__(self, ref: KernelRef, process: _Process) -> None:
        self.ref = ref
        self._process = process
        self._execution: FakeExecution | None = None
        self._rows: list[list[str]] | None = None
        self._rows_came = anyio.Event()

    async def execute(self, code: str, *, execution_id: str) -> "FakeExecution":
        """Send the code to the child."""
        if not self._process.alive:
            raise KernelLostError("The fake kernel is gone.")
        self._execution = FakeExecution(execution_id)
        await anyio.to_thread.run_sync(self._process.send, {"id": execution_id, "code": code})
        return self._execution

    async def interrupt(self) -> None:
        """Send SIGINT, which the child heeds only while it runs code."""
        self._process.interrupt()

    async def list_variables(self) -> Sequence[Variable]:
        """Ask the child for its variables."""
        if not self._process.alive:
            raise KernelLostError("The fake kernel is gone.")
        self._rows = None
        self._rows_came = anyio.Event()
        await anyio.to_thread.run_sync(self._process.send, {"id": "", "list": "variables"})
        await self._rows_came.wait()
        if self._rows is None:
            raise KernelDiedError("The kernel ended while it listed its variables.")
        return [Variable(name=name, type=kind, detail=text) for name, kind, text in self._rows]

    async def read_events(self) -> None:
        """Read the child's events until it ends; of several connections one reads for all."""
        async with self._process.reading:
            while await self._process.read():
                pass

    def put(self, message: dict[str, Any] | None) -> None:
        """Take a message of the child; None says that it ended."""
        if message is None or message["type"] == "variables":
            self._rows = message["rows"] if message else None
            self._rows_came.set()
        if self._execution is None:
            return
        if message is None:
            self._execution.put(None)
            return
        event = _to_event(message)
        if isinstance(event, ExecutionDone) and message["id"] != self._execution.id:
            return
        if event is not None:
            self._execution.put(event)


class FakeExecution:
    """Code that a child runs, and the events that came of it."""

    def __init__(self, id: str) -> None:
        self.id = id
        self._events: deque[KernelEvent | None] = deque()
        self._ready = anyio.Event()

    def put(self, event: KernelEvent | None) -> None:
        """Add an event; None says that the child ended."""
        self._events.append(event)
        self._ready.set()

    async def receive(self) -> KernelEvent:
        """Wait for the next event."""
        while not self._events:
            self._ready = anyio.Event()
            await self._ready.wait()
        if self._events[0] is None:
            raise KernelDiedError("The kernel ended while it ran code.")
        event = self._events.popleft()
        assert event is not None
        return event


def _to_event(message: dict[str, Any]) -> KernelEvent | None:
    match message["type"]:
        case "stream":
            return StreamOutput(name=message["name"], text=message["text"])
        case "display" | "result" as kind:
            return DisplayOutput(
                kind=kind,
                data=message["data"],
                metadata=message.get("metadata", {}),
                display_id=message.get("display_id"),
                execution_count=message.get("execution_count"),
            )
        case "update":
            return DisplayUpdate(
                display_id=message["display_id"],
                data=message["data"],
                metadata=message["metadata"],
            )
        case "clear":
            return ClearOutput(wait=message["wait"])
        case "error":
            return ErrorOutput(
                name=message["name"], message=message["message"], traceback=message["traceback"]
            )
        case "done":
            return ExecutionDone(
                status=message["status"], execution_count=message["execution_count"]
            )
        case _:
            return None
