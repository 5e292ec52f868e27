"""The output of a running step, kept within its budgets while all of its text is spooled to disk.

How this works: text has a head budget, used up in order of arrival, and a tail of the same size
that later text pushes out of; what falls out is counted where it stood. All text also goes to a
spool file, so that the whole of it can be kept as a file of the step when something was cut, and
so that another process can tell what a killed one had seen.
"""

import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ci_tools.kernel import ClearOutput, DisplayUpdate, KernelEvent, OutputLost
from ci_tools.models import (
    DisplayOutput,
    ErrorOutput,
    Json,
    Output,
    StepDisplayUpdated,
    StepEvent,
    StepOutput,
    StepOutputCleared,
    StreamOutput,
)

logger = logging.getLogger(__name__)

_SPOOL_BLOCK = 1 << 16
"""Bytes of text that are gathered before they are written to the spool file."""

_DISPLAYS = 500
"""Displays and results kept in a step; more are left out, and said."""


_STREAMS = 1000
"""Changes between stdout and stderr that are kept in order; later text joins the last of its kind.

Code can change with every character, and each piece costs a kilobyte of memory.
"""

_ERRORS = 20
"""Errors kept in a step; code can report any number, and the last one says how the step ended."""

_PLAIN = 10_000
"""Characters of an object's plain text that are kept when there is no room for rich output."""

_PIECE = 4096
"""Characters of one piece of the tail; where a piece is cut, the rest of it is copied."""


class OutputLimitError(Exception):
    """The step printed more than may be kept; raised once, after what fits was kept."""


@dataclass
class _Stream:
    name: Literal["stdout", "stderr"]
    head: list[str] = field(default_factory=list)
    tail: deque[str] = field(default_factory=deque)
    omitted: int = 0

    def to_output(self) -> StreamOutput:
        head, tail = "".join(self.head), "".join(self.tail)
        mark = f"\n[… {self.omitted} characters left out …]\n" if self.omitted else ""
        return StreamOutput(name=self.name, text=head + mark + tail, omitted=self.omitted)


class OutputLog:
    """The ordered outputs of one step and the spool of its text."""

    def __init__(
        self, spool: Path, *, text_limit: int, display_limit: int, full_text_limit: int
    ) -> None:
        self._spool = spool
        self._pending: list[str] = []
        self._pending_size = 0
        self._entries: list[_Stream | DisplayOutput | ErrorOutput] = []
        self._tail: deque[tuple[_Stream, int]] = deque()
        self._tail_size = 0
        self._streams: dict[str, _Stream] = {}
        self._stream_count = 0
        self._errors = 0
        self._half = text_limit // 2
        self._head_left = text_limit // 2
        self._display_limit = self._display_left = display_limit
        self._displays = 0
        self._displays_left_out = 0
        self.limit = full_text_limit
        """Bytes of text beyond which the step is stopped."""

        self._clear_next = False
        self._lost: list[str] = []
        self._cut = False
        self.spooled = True
        """Whether the spool has all text so far; a full disk ends that, but not the step."""

        self.size = 0
        """Bytes of text so far, kept or not."""

    @property
    def cut(self) -> bool:
        """Whether text was cut, so that the spool has more than the outputs."""
        return self._cut

    @property
    def truncated(self) -> bool:
        """Whether anything was cut, left out or lost."""
        return bool(self._cut or self._displays_left_out or self._lost)

    def add(self, event: KernelEvent) -> StepEvent | None:
        """Keep an event's output within the budgets; return what watchers are told.

        Raises:
            OutputLimitError: More text came than may be kept even on disk.
        """
        match event:
            case StreamOutput():
                self._clear_if_due()
                self._add_text(event.name, event.text)
                return self._told(StepOutput(output=event))
            case DisplayOutput():
                self._clear_if_due()
                kept = self._add_display(event)
                return self._told(StepOutput(output=kept) if kept else None)
            case ErrorOutput():
                self._clear_if_due()
                return self._told(StepOutput(output=self._add_error(event)))
            case DisplayUpdate():
                return self._update_display(event)
            case ClearOutput():
                self._clear_next = event.wait
                if not event.wait:
                    self._clear()
                return StepOutputCleared(wait=event.wait)
            case OutputLost():
                if event.message not in self._lost:
                    self._lost.append(event.message)
                return None
            case _:
                return None

    def outputs(self) -> tuple[Output, ...]:
        """Return what is kept so far, in order."""
        return tuple(
            entry.to_output() if isinstance(entry, _Stream) else entry for entry in self._entries
        )

    def notices(self) -> tuple[str, ...]:
        """Return sentences that say what was cut, left out or lost."""
        sentences = list(self._lost)
        if self._cut:
            rest = "the full text is kept with the step" if self.spooled else "the rest is lost"
            sentences.append(
                f"The output has {self.size} bytes of text; its head and tail are shown, {rest}."
            )
        if self._displays_left_out:
            sentences.append(
                f"{self._displays_left_out} rich outputs (images, tables) were left out: "
                "the step made more than is kept. Write them to files instead."
            )
        return tuple(sentences)

    def flush(self) -> None:
        """Write what was gathered to the spool file.

        It runs in the event loop on purpose: an append of up to 64 KiB to the page cache takes
        about 20 µs, a hop to a worker thread takes longer.
        """
        if self._pending:
            try:
                if self.spooled:
                    with self._spool.open("ab") as file:
                        file.write("".join(self._pending).encode("utf-8", "replace"))
            except OSError as error:
                logger.warning("the text of a step is not spooled any more: %s", error)
                self.spooled = False
            self._pending.clear()
            self._pending_size = 0

    def discard(self) -> None:
        """Delete the spool file."""
        self._pending.clear()
        self._pending_size = 0
        self._spool.unlink(missing_ok=True)

    def _told(self, event: StepEvent | None) -> StepEvent | None:
        if self.size > self.limit:
            raise OutputLimitError
        return event

    def _clear_if_due(self) -> None:
        if self._clear_next:
            self._clear_next = False
            self._clear()

    def _clear(self) -> None:
        self._head_left = self._half
        self._display_left = self._display_limit
        self._displays = self._errors = self._stream_count = 0
        self._streams.clear()
        self._entries.clear()
        self._tail.clear()
        self._tail_size = 0

    def _spool_text(self, text: str) -> None:
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        self.size += size
        self._pending.append(text)
        self._pending_size += size
        if self._pending_size >= _SPOOL_BLOCK:
            self.flush()

    def _add_text(self, name: Literal["stdout", "stderr"], text: str) -> None:
        if not text:
            return
        self._spool_text(text)
        last = self._stream(name)
        if self._head_left > 0 and not last.tail:
            last.head.append(text[: self._head_left])
            text = text[self._head_left :]
            self._head_left -= len(last.head[-1])
        if not text:
            return
        self._head_left = 0
        if len(text) > self._half:
            last.omitted += len(text) - self._half
            self._cut = True
            text = text[-self._half :]
        for start in range(0, len(text), _PIECE):
            piece = text[start : start + _PIECE]
            last.tail.append(piece)
            self._tail.append((last, len(piece)))
        self._tail_size += len(text)
        while self._tail_size > self._half:
            stream, size = self._tail.popleft()
            over = min(size, self._tail_size - self._half)
            piece = stream.tail.popleft()
            if over < size:
                stream.tail.appendleft(piece[over:])
                self._tail.appendleft((stream, size - over))
            stream.omitted += over
            self._tail_size -= over
            self._cut = True

    def _stream(self, name: Literal["stdout", "stderr"]) -> _Stream:
        """Return the entry that the next text of a stream belongs to."""
        last = self._entries[-1] if self._entries else None
        if isinstance(last, _Stream) and last.name == name:
            return last
        if self._stream_count >= _STREAMS and name in self._streams:
            return self._streams[name]
        stream = _Stream(name=name)
        self._streams[name] = stream
        self._stream_count += 1
        self._entries.append(stream)
        return stream

    def _add_error(self, event: ErrorOutput) -> ErrorOutput:
        self._spool_text((event.traceback or f"{event.name}: {event.message}") + "\n")
        error = ErrorOutput(
            name=self._cut_text(event.name),
            message=self._cut_text(event.message),
            traceback=self._cut_text(event.traceback),
        )
        if self._errors >= _ERRORS:
            self._drop_last_error()
        self._errors += 1
        self._entries.append(error)
        return error

    def _drop_last_error(self) -> None:
        for index in reversed(range(len(self._entries))):
            if isinstance(self._entries[index], ErrorOutput):
                del self._entries[index]
                self._errors -= 1
                self._cut = True
                return

    def _cut_text(self, text: str, limit: int | None = None) -> str:
        half = self._half if limit is None else min(self._half, limit // 2)
        if len(text) <= 2 * half:
            return text
        self._cut = True
        omitted = len(text) - 2 * half
        return f"{text[:half]}\n[… {omitted} characters left out …]\n{text[-half:]}"

    def _add_display(self, output: DisplayOutput) -> DisplayOutput | None:
        data = dict(output.data)
        plain = data.get("text/plain")
        if isinstance(plain, str):
            self._spool_text(plain + "\n")
            data["text/plain"] = self._cut_text(plain)
        kept: dict[str, Json] = {}
        for media_type, value in sorted(data.items(), key=lambda item: item[0] != "text/plain"):
            size = _size_of({media_type: value})
            if size > self._display_left:
                if media_type != "text/plain" or not isinstance(value, str):
                    continue
                value = self._cut_text(value, _PLAIN)
            kept[media_type] = value
            self._display_left = max(0, self._display_left - size)
        rest = _size_of(output.metadata) + len(output.display_id or "")
        fits = self._displays < _DISPLAYS and rest <= max(self._display_left, _PLAIN)
        if len(kept) < len(data) or not fits:
            self._displays_left_out += 1
        if not kept or not fits:
            return None
        self._display_left = max(0, self._display_left - rest)
        self._displays += 1
        entry = replace(output, data=kept)
        self._entries.append(entry)
        return entry

    def _update_display(self, event: DisplayUpdate) -> StepEvent | None:
        found = False
        for index, entry in enumerate(self._entries):
            if isinstance(entry, DisplayOutput) and entry.display_id == event.display_id:
                found = True
                growth = _size_of(event.data) + _size_of(event.metadata)
                growth -= _size_of(entry.data) + _size_of(entry.metadata)
                if growth > self._display_left:
                    self._displays_left_out += 1
                    continue
                self._display_left -= growth
                self._entries[index] = replace(entry, data=event.data, metadata=event.metadata)
        if found:
            return StepDisplayUpdated(
                display_id=event.display_id, data=event.data, metadata=event.metadata
            )
        # The display belongs to an earlier step, whose record is final: show it as a new one.
        display = DisplayOutput(
            kind="display",
            data=event.data,
            metadata=event.metadata,
            display_id=event.display_id,
        )
        return self.add(display)


def read_spool(path: Path, *, limit: int, tail: bool = False) -> str:
    """Return the first (or last) `limit` bytes of a spooled text; nothing if it is gone."""
    try:
        with path.open("rb") as file:
            if tail:
                file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            return file.read(limit).decode("utf-8", "replace")
    except FileNotFoundError:  # the process that wrote it may have stored the step just now
        return ""


def _size_of(data: Mapping[str, Json]) -> int:
    return sum(
        len(key) + (len(value) if isinstance(value, str) else len(repr(value)))
        for key, value in data.items()
    )
