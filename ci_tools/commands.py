"""A shell command as a child process of ours, for kernels that nothing separates from us."""

import codecs
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ci_tools.errors import BackendError
from ci_tools.kernel import CommandRequest
from ci_tools.mapping import PathMapper
from ci_tools.models import CommandDone, CommandEvent, CommandOutput, StreamOutput
from ci_tools.paths import MOUNT

SHELL = "/bin/sh"

DISCARD_LIMIT = 64 << 20
"""Bytes past its output limit that a command may go on to write before it is ended."""

_PIPE_GRACE = 5.0
"""Seconds to read what is left in the pipes of a command that has ended."""

_MOUNT = re.compile(r"(?<![\w./-])(?:sandbox:)?/mnt/data(?![\w.-])")

_UNSAFE = re.compile(r"[^\w@%+=:,./-]")


class LocalCommands:
    """The commands that run beside each kernel of this process."""

    def __init__(self) -> None:
        self._running: dict[str, set[_Group]] = {}

    @asynccontextmanager
    async def run(
        self,
        kernel_id: str,
        request: CommandRequest,
        *,
        folder: Path,
        variables: Mapping[str, str],
    ) -> AsyncIterator[AsyncIterator[CommandEvent]]:
        """Start a command; iterate for its events. What it left in the background ends with it.

        Raises:
            BackendError: The folder to run it in does not exist, or this system has no shell.
        """
        place = str(folder)
        process = await _start(to_shell(request.command, place), folder / request.cwd, variables)
        group = _Group(process)
        running = self._running.setdefault(kernel_id, set())
        running.add(group)
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                send, receive = anyio.create_memory_object_stream[CommandOutput](16)
                following = _Following(group, send, request)
                tasks.start_soon(following.run)
                with receive:
                    try:
                        yield _to_events(following, receive, PathMapper(place))
                    except Exception as error:  # noqa: BLE001 - raised below; the group wraps it
                        failure = error
                    finally:
                        tasks.cancel_scope.cancel()
        finally:
            running.discard(group)
            if not running and self._running.get(kernel_id) is running:
                del self._running[kernel_id]
            group.kill()
            with anyio.CancelScope(shield=True):
                await process.aclose()
        if failure is not None:
            raise failure

    def end(self, kernel_id: str) -> None:
        """End the commands beside a kernel."""
        for group in self._running.get(kernel_id, ()):
            group.kill()

    def end_all(self) -> None:
        """End every command."""
        for kernel_id in self._running:
            self.end(kernel_id)


def to_shell(command: str, place: str) -> str:
    """Return the command with /mnt/data replaced by the folder's path, quoted as it stands there.

    That path may have blanks in it. Quotes are followed as the shell does, but for here-documents.
    """
    if MOUNT not in command or place == MOUNT:
        return command
    parts: list[str] = []
    quote, at = "", 0
    for match in _MOUNT.finditer(command):
        quote = _quote_after(command[at : match.start()], quote)
        parts += [command[at : match.start()], _quoted(place, quote)]
        at = match.end()
    return "".join([*parts, command[at:]])


def _quote_after(text: str, quote: str) -> str:
    """Return the quotation mark that is open after `text`."""
    escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
    return quote


def _quoted(place: str, quote: str) -> str:
    match quote:
        case "'":
            return place.replace("'", "'\\''")
        case '"':
            return re.sub(r'(["\\$`])', r"\\\1", place)
        case _:
            return _UNSAFE.sub(lambda match: f"\\{match[0]}", place)


async def _start(command: str, folder: Path, variables: Mapping[str, str]) -> Process:
    if os.name == "nt":
        raise BackendError("Shell commands need a POSIX shell, which Windows has not.")
    if not await anyio.Path(folder).is_dir():
        raise BackendError("There is no such folder in /mnt/data to run the command in.")
    return await anyio.open_process(
        [SHELL, "-c", command],
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=variables,
        start_new_session=True,
    )


class _Group:
    """A command's process and all that it has started."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.over = False
        """Set when nothing is left of it: its id may be another's from then on."""

    def kill(self) -> None:
        if not self.over:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


class _Following:
    """Reads a command's output and waits for its end."""

    def __init__(
        self,
        group: _Group,
        send: MemoryObjectSendStream[CommandOutput],
        request: CommandRequest,
    ) -> None:
        self._group = group
        self._process = group.process
        self._send = send
        self._timeout = request.timeout
        self._left = request.output_limit
        self._dropped = 0
        self.timed_out = False

    @property
    def truncated(self) -> bool:
        return self._dropped > 0

    @property
    def exit_status(self) -> int:
        return self._process.returncode if self._process.returncode is not None else 0

    async def run(self) -> None:
        process = self._process
        assert process.stdout is not None and process.stderr is not None
        with self._send:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read, process.stdout, "stdout")
                tasks.start_soon(self._read, process.stderr, "stderr")
                with anyio.move_on_after(self._timeout):
                    await process.wait()
                self.timed_out = process.returncode is None
                # Also where it has ended: children that hold its pipes would keep us waiting.
                self._group.kill()
                await process.wait()
                self._group.over = True
                tasks.cancel_scope.deadline = anyio.current_time() + _PIPE_GRACE
            if tasks.cancel_scope.cancelled_caught:
                self._dropped += 1  # nobody took it in time

    async def _read(self, stream: ByteReceiveStream, name: str) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                chunk = await stream.receive()
                kept = chunk[: self._left]
                self._left -= len(kept)
                self._dropped += len(chunk) - len(kept)
                if self._dropped > DISCARD_LIMIT:
                    self._group.kill()
                await self._tell(name, decoder.decode(kept))
        await self._tell(name, decoder.decode(b"", final=True))

    async def _tell(self, name: str, text: str) -> None:
        if text:
            stream = CommandOutput(name="stderr" if name == "stderr" else "stdout", text=text)
            await self._send.send(stream)


async def _to_events(
    following: _Following,
    outputs: MemoryObjectReceiveStream[CommandOutput],
    mapper: PathMapper,
) -> AsyncIterator[CommandEvent]:
    async for output in outputs:
        mapped = mapper.to_event(StreamOutput(name=output.name, text=output.text))
        if isinstance(mapped, StreamOutput) and mapped.text:
            yield CommandOutput(name=mapped.name, text=mapped.text)
    for rest in mapper.rest():
        yield CommandOutput(name=rest.name, text=rest.text)
    yield CommandDone(
        exit_status=following.exit_status,
        timed_out=following.timed_out,
        truncated=following.truncated,
        via="process",
    )
