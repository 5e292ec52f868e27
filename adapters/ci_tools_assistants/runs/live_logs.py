"""What a running cell prints, as text that only grows.

How this works: a client adds up the pieces it is sent, and what it then has must be the `logs` that
are stored. So a piece is sent when nothing can change it any more: a line when it has ended, a
progress bar when it is done. Line breaks at the end are held back, so that `logs` ends with its
last line. Of long output the first half is sent as it comes and the last when the cell ends.
"""

import re
from typing import Literal

from ci_tools.folding import fold_text

LOGS_LIMIT = 200_000
"""Characters of a cell's logs that are sent and stored: the first and the last half of more."""

_FOLDED_AT_ONCE = 100_000
"""Characters of an unfinished line or a drawn screen that are held back at most."""

_MOVES = re.compile(r"(?:\x1b\[|\x9b)[0-9;?]*[ABEFHJTSf]")
"""A control sequence that can reach lines which have ended."""


class LiveLogs:
    """The logs of one cell; each method returns the text that can be sent now, often none."""

    def __init__(self, limit: int = LOGS_LIMIT) -> None:
        self._pending: dict[str, str] = {}
        self._drawn: set[str] = set()
        self._owed = ""
        self._is_fresh = True
        self._head_left = limit // 2
        self._tail_limit = limit - limit // 2
        self._tail = ""
        self._omitted = 0

    def add(self, name: Literal["stdout", "stderr"], text: str) -> str:
        """Take a piece of a stream."""
        pending = self._pending.get(name, "") + text
        if _MOVES.search(text) is not None:
            self._drawn.add(name)
        end = len(pending)
        if end <= _FOLDED_AT_ONCE:
            end = 0 if name in self._drawn else pending.rfind("\n") + 1
        self._pending[name] = pending[end:]
        return self._emit(fold_text(pending[:end])) if end else ""

    def add_block(self, text: str) -> str:
        """Take text that stands on lines of its own: a result, a display, a traceback."""
        if not text:
            return ""
        started = self._flush("stdout") if "\r" not in self._pending.get("stdout", "") else ""
        return started + self._on_new_line(text + "\n")

    def end_segment(self) -> str:
        """Note that an image comes next: what follows it are other logs."""
        started = self._flush("stdout") if "\r" not in self._pending.get("stdout", "") else ""
        self._owed = ""
        self._is_fresh = True
        return started

    def drop(self) -> None:
        """Forget what was not sent yet: the code has cleared its output."""
        self._pending.clear()
        self._drawn.clear()

    def finish(self) -> str:
        """Take the end of the cell; nothing may be added any more."""
        sent = self._flush("stdout") + self._flush("stderr")
        if not self._tail:
            return sent
        self._cut_tail()
        tail = self._tail
        if self._omitted:
            newline = tail.find("\n")
            if 0 <= newline < len(tail) // 4:
                self._omitted += newline + 1
                tail = tail[newline + 1 :]
            tail = f"\n[… {self._omitted:,} characters left out …]\n{tail}"
        self._tail = ""
        self._head_left = len(tail)
        return sent + self._emit(tail)

    def _flush(self, name: str) -> str:
        text = self._pending.pop(name, "")
        self._drawn.discard(name)
        return self._on_new_line(fold_text(text)) if text else ""

    def _on_new_line(self, text: str) -> str:
        if not self._is_fresh and not self._owed and not self._tail:
            self._owed = "\n"
        elif self._tail and not self._tail.endswith("\n"):
            self._keep_tail("\n")
        return self._emit(text)

    def _emit(self, text: str) -> str:
        if self._tail:
            self._keep_tail(text)
            return ""
        text = self._owed + text
        body = text.rstrip("\n")
        self._owed = text[len(body) :]
        if not body:
            return ""
        if len(body) > self._head_left:
            rest = body[self._head_left :] + self._owed
            body, self._owed = body[: self._head_left], ""
            self._keep_tail(rest)
        self._head_left -= len(body)
        self._is_fresh = self._is_fresh and not body
        return body

    def _keep_tail(self, text: str) -> None:
        self._tail += text
        if len(self._tail) > 2 * self._tail_limit:
            self._cut_tail()

    def _cut_tail(self) -> None:
        over = len(self._tail) - self._tail_limit
        if over > 0:
            self._omitted += over
            self._tail = self._tail[over:]
