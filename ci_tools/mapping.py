"""/mnt/data in code and output, where a session's folder has another path for its kernel.

Models write `/mnt/data/…` because the hosted tools did. Where that path cannot be bound, it is
replaced in the code by the folder's real path, and the real path in the output by `/mnt/data`, so
that code, results, file verbs and `sandbox:/mnt/data/…` names agree. Only the literal text is
mapped: a path that code puts together from pieces is not.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from ci_tools.kernel import DisplayUpdate, KernelEvent
from ci_tools.models import DisplayOutput, ErrorOutput, Json, StreamOutput
from ci_tools.paths import MOUNT

_IN_CODE = re.compile(r"(?<![\w./-])(?:sandbox:)?/mnt/data(?![\w.-])")


class PathMapper:
    """Maps between /mnt/data and the folder's path in the kernel, for one execution."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._held: dict[str, str] = {}

    def to_code(self, code: str) -> str:
        """Return the code as the kernel gets it."""
        if self._root == MOUNT or MOUNT not in code:
            return code
        return _IN_CODE.sub(lambda _: self._root, code)

    def to_text(self, text: str) -> str:
        """Return text of the kernel as readers get it."""
        return text.replace(self._root, MOUNT)

    def to_event(self, event: KernelEvent) -> KernelEvent:
        """Return an event of the kernel as readers get it.

        Stream text that ends within the folder's path is held back until the next text of that
        stream; `rest` returns what is still held at the end.
        """
        if self._root == MOUNT:
            return event
        match event:
            case StreamOutput():
                text = self._held.pop(event.name, "") + event.text
                text = self.to_text(text)
                held = _overlap(text, self._root)
                if held:
                    self._held[event.name] = text[-held:]
                    text = text[:-held]
                return event if text == event.text else replace(event, text=text)
            case DisplayOutput() | DisplayUpdate():
                if not any(_mentions(value, self._root) for value in event.data.values()):
                    return event
                return replace(event, data=self._to_data(event.data))
            case ErrorOutput():
                return replace(
                    event,
                    message=self.to_text(event.message),
                    traceback=self.to_text(event.traceback),
                )
            case _:
                return event

    def rest(self) -> list[StreamOutput]:
        """Return the stream text that was held back."""
        held, self._held = self._held, {}
        return [
            StreamOutput(name="stderr" if name == "stderr" else "stdout", text=text)
            for name, text in held.items()
        ]

    def _to_data(self, data: Mapping[str, Json]) -> dict[str, Json]:
        return {
            media_type: self.to_text(value) if isinstance(value, str) else value
            for media_type, value in data.items()
        }


def _mentions(value: Json, root: str) -> bool:
    return isinstance(value, str) and root in value


def _overlap(text: str, root: str) -> int:
    """Count the characters at the end of `text` that begin `root`, at least a few of them."""
    for size in range(min(len(root) - 1, len(text)), 3, -1):
        if text.endswith(root[:size]):
            return size
    return 0
