"""Code that runs inside a Python kernel, so that output does not fill memory on its way out.

ipykernel sends output from a thread of its own, and what the server has not taken yet waits in
memory. Code that prints in a tight loop makes a gigabyte in a second: it would fill all there is
before a reader could say that it has printed too much. So text goes out in pieces, for which its
writer waits, and what one execution sends beyond `FREE` is slowed down.

Kernels outside of sandboxes get it as source text. It runs on any Python from 3.8, and does nothing
in a kernel that does not gather its output as ipykernel 6 and 7 do.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from typing import Any

PIECE = 1 << 20
"""Characters of text in one message, and of unsent text with which a writer waits."""

FREE = 128 << 20
"""Bytes that one execution may send as fast as it can: more than a step may print, by default."""

PAUSE = 0.125
"""Seconds that each further piece, or rich output, takes; servers relay more than that."""

sent = 0


class Text:
    """What ipykernel has a StringIO for, which would take four bytes for each character."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.size = 0

    def write(self, text: str) -> None:
        """Add text."""
        self.pieces.append(text)
        self.size += len(text)

    def getvalue(self) -> str:
        """Return all of it."""
        return "".join(self.pieces)

    def close(self) -> None:
        """Forget it."""
        self.pieces.clear()


def install() -> None:
    """Change how this kernel sends output; once."""
    try:
        iostream: Any = importlib.import_module("ipykernel.iostream")
        zmqshell: Any = importlib.import_module("ipykernel.zmqshell")
        shell: Any = importlib.import_module("IPython").get_ipython()
    except ImportError:
        return
    known = ("_rotate_buffers", "_flush_buffers", "_schedule_flush")
    if shell is None or not all(hasattr(iostream.OutStream, name) for name in known):
        return
    iostream.StringIO = Text
    _count(iostream.IOPubThread)
    _cut(iostream.OutStream)
    _pace(zmqshell.ZMQDisplayPublisher)

    def start_anew() -> None:
        global sent
        if sent > PIECE:  # IPython keeps what is printed, for one of its magics
            getattr(shell.history_manager, "outputs", {}).clear()
        sent = 0

    shell.events.register("pre_execute", start_anew)


def _count(threads: Any) -> None:
    """Count the bytes of messages."""
    send = threads.send_multipart

    def count_and_send(self: Any, parts: Any, *args: Any, **kwargs: Any) -> Any:
        global sent
        sent += sum(len(part) for part in parts)
        # What orjson makes has room for sixteen times as much, and would keep it while it waits.
        parts = [bytes(memoryview(part)) if type(part) is bytes else part for part in parts]
        return send(self, parts, *args, **kwargs)

    threads.send_multipart = count_and_send


def _cut(streams: Any) -> None:
    """Send text in pieces, and let the writer of one wait until it is on its way."""
    schedule_flush, flush_buffers = streams._schedule_flush, streams._flush_buffers

    # IPython replaces a stream's `write` while code runs; the real one ends with this.
    def schedule_or_flush(self: Any) -> None:
        schedule_flush(self)
        if self.pub_thread.thread is threading.current_thread():
            return
        if sum(getattr(text, "size", 0) for text in [*self._buffers.values()]) >= PIECE:
            self.flush()
            _slow_down()

    def flush_in_pieces(self: Any) -> Iterator[tuple[Any, str]]:
        for parent, text in flush_buffers(self):
            for start in range(0, len(text), PIECE):
                yield parent, _to_whole(text[start : start + PIECE])

    streams._schedule_flush, streams._flush_buffers = schedule_or_flush, flush_in_pieces


def _to_whole(text: str) -> str:
    """Replace halves of characters, for which the whole message would be lost."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _pace(publishers: Any) -> None:
    """Slow down rich output too; its sender does not wait for it to be on its way."""
    publish = publishers.publish

    def slow_down_and_publish(self: Any, *args: Any, **kwargs: Any) -> Any:
        _slow_down()
        return publish(self, *args, **kwargs)

    publishers.publish = slow_down_and_publish


def _slow_down() -> None:
    if sent > FREE:
        time.sleep(PAUSE)  # in which an interrupt is heard
