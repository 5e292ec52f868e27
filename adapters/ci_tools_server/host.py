"""The desktop host at the other end of stdin: reading until it goes away.

A host that is killed closes the pipe, unless some other process inherited its end; so the parent's
process id is watched too. Either way, and on SIGTERM, the reader sees the end of the input and the
server stops in order; when that takes too long, the process ends without it, and what it started
notices by itself.
"""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator

_POLL = 1.0
"""Seconds between two looks at the parent."""

_STOP_GRACE = 10.0
"""Seconds after the end of the input until the process ends the hard way."""


@contextlib.contextmanager
def watch_host() -> Iterator[None]:
    """Make `sys.stdin` end when the host closes it, when the host dies, and on SIGTERM."""
    if sys.platform == "win32":
        # No select on pipes there, and closing the pipe is how hosts end a server on that system.
        yield
        return
    source = _HostInput()
    stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BufferedReader(source), encoding="utf-8")
    handlers = {
        number: signal.signal(number, lambda number, frame: source.end())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    threading.Thread(target=_watch_parent, args=(source,), name="parent", daemon=True).start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.stdin = stdin


def _watch_parent(source: "_HostInput") -> None:
    parent = os.getppid()
    while os.getppid() == parent and not source.ended.wait(_POLL):
        pass
    source.end()
    # An ended input is the start of the end: whoever still hangs then is cut off.
    threading.Event().wait(_STOP_GRACE)
    os._exit(1)


class _HostInput(io.RawIOBase):
    """File descriptor 0, which can also be ended from within this process.

    The descriptor itself is pointed at the null device, so that no child inherits the host's pipe.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        self._wake_reader, self._wake_writer = os.pipe()
        self._host = os.dup(0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray", /) -> int:  # type: ignore[override]
        import select

        readable, _, _ = select.select([self._host, self._wake_reader], [], [])
        if self._wake_reader in readable:
            return 0
        chunk = os.read(self._host, len(buffer))
        buffer[: len(chunk)] = chunk
        if not chunk:
            self.end()
        return len(chunk)

    def end(self) -> None:
        """Let this and every later read see the end; safe in a signal handler."""
        if not self.ended.is_set():
            self.ended.set()
            os.write(self._wake_writer, b"\0")
