"""The second channel: commands in a kernel's sandbox that do not wait for the kernel."""

import asyncio
import codecs
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from ci_tools_kernels.template import Sandbox, TemplateError

CHUNK = 1 << 16
"""Bytes that are read from a command at a time."""

DISCARD_LIMIT = 64 << 20
"""Bytes past its output limit that a command may go on to write before it is ended."""


@dataclass(frozen=True, kw_only=True)
class CommandOutput:
    """A piece of what a command wrote."""

    stream: str
    """`stdout` or `stderr`."""

    text: str


@dataclass(frozen=True, kw_only=True)
class CommandDone:
    """How a command ended: always the last event."""

    exit_status: int
    """Negative for a signal."""

    timed_out: bool
    truncated: bool
    """Whether output past the limit was dropped."""


CommandEvent: TypeAlias = CommandOutput | CommandDone


@asynccontextmanager
async def run_command(
    sandbox: Sandbox,
    argv: Sequence[str],
    *,
    env: dict[str, str],
    cwd: str = "/mnt/data",
    input: bytes = b"",
    timeout: float = 60.0,
    output_limit: int = 1_000_000,
) -> AsyncIterator[AsyncIterator[CommandEvent]]:
    """Start a command; iterate for its output and `CommandDone`. Leaving early ends it.

    `timeout` is in seconds, `output_limit` in bytes of both streams together. A process that the
    command left in the background goes on until the kernel ends.

    Raises:
        TemplateError: The sandbox is gone, or the command could not be started.
    """
    with contextlib.ExitStack() as stack:
        pipes = {}
        ends = []
        for name in ("stdout", "stderr"):
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, read_end)
            os.set_blocking(read_end, False)
            pipes[name] = read_end
            ends.append(write_end)
        source = _open_input(input)
        try:
            streams = [source, *ends]
            id, command = sandbox.start_command(argv, cwd=cwd, env=env, streams=streams)
        finally:
            for fd in (source, *ends):
                os.close(fd)
        running = _Running(sandbox, id, pipes, output_limit)
        exited = asyncio.ensure_future(asyncio.wrap_future(command.exited))
        try:
            yield running.events(exited, timeout)
        finally:
            running.stop_reading()
            if not exited.done():
                running.end()  # its end is still told, and read by the thread that waits for all


def _open_input(content: bytes) -> int:
    fd = os.memfd_create("input", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class _Running:
    def __init__(self, sandbox: Sandbox, id: int, pipes: dict[str, int], limit: int) -> None:
        self._sandbox = sandbox
        self._id = id
        self._left = limit
        self._discarded = 0
        self._events: asyncio.Queue[CommandOutput] = asyncio.Queue(maxsize=0)
        self._open = dict(pipes)
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: decoder("replace") for name in pipes}
        self._loop = asyncio.get_running_loop()
        for name, fd in pipes.items():
            self._loop.add_reader(fd, self._read, name)

    async def events(
        self, exited: "asyncio.Future[int]", timeout: float
    ) -> AsyncIterator[CommandEvent]:
        deadline = self._loop.time() + timeout
        timed_out = False
        while not exited.done():
            getting = asyncio.ensure_future(self._events.get())
            left = None if timed_out else max(0.0, deadline - self._loop.time())
            waiting: set[asyncio.Future[Any]] = {getting, exited}
            await asyncio.wait(waiting, timeout=left, return_when="FIRST_COMPLETED")
            if getting.done():
                yield getting.result()
                continue
            getting.cancel()
            if not exited.done():
                timed_out = True
                self.end()
        for name in list(self._open):
            while self._read(name):
                pass
        for name, decoder in self._decoders.items():
            if rest := decoder.decode(b"", final=True):
                self._events.put_nowait(CommandOutput(stream=name, text=rest))
        while not self._events.empty():
            yield self._events.get_nowait()
        status = exited.result()
        yield CommandDone(exit_status=status, timed_out=timed_out, truncated=bool(self._discarded))

    def end(self) -> None:
        self._sandbox.signal_command(self._id, signal.SIGKILL)

    def stop_reading(self) -> None:
        for fd in self._open.values():
            self._loop.remove_reader(fd)
        self._open.clear()

    def _read(self, name: str) -> bool:
        """Take one chunk; False if there is none now."""
        fd = self._open[name]
        try:
            chunk = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(fd)
            del self._open[name]
            return False
        kept = chunk[: self._left]
        self._left -= len(kept)
        self._discarded += len(chunk) - len(kept)
        if self._discarded > DISCARD_LIMIT:
            self.end()
        if text := self._decoders[name].decode(kept):
            self._events.put_nowait(CommandOutput(stream=name, text=text))
        return True


__all__ = ["CommandDone", "CommandEvent", "CommandOutput", "TemplateError", "run_command"]
