"""What is replaced between readers and kernels: the path of /mnt/data, and secrets.

Models write `/mnt/data/…` because the hosted tools did. Where that path cannot be bound, it is
replaced in the code by the folder's real path, and the real path in the output by `/mnt/data`, so
that code, results, file verbs and `sandbox:/mnt/data/…` names agree. Only the literal text is
mapped: a path that code puts together from pieces is not.

Values that the operator gave to code and that are secrets are replaced by `***` in the output. This
is against accidents: code that wants to can print a secret in another form.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from ci_tools.kernel import DisplayUpdate, KernelEvent
from ci_tools.models import DisplayOutput, ErrorOutput, Json, StreamOutput
from ci_tools.paths import MOUNT

_IN_CODE = re.compile(r"(?<![\w./-])(?:sandbox:)?/mnt/data(?![\w.-])")


MASK = "***"
"""What stands in the output in place of a secret."""


def mask(text: str, secrets: Sequence[str]) -> str:
    """Return the text without the secrets, whole or as Python or JSON would quote them."""
    for form in _to_forms(secrets):
        text = text.replace(form, MASK)
    return text


def _to_forms(secrets: Sequence[str]) -> list[str]:
    forms = {
        form
        for secret in secrets
        for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])
    }
    return sorted(forms, key=len, reverse=True)  # one may be a part of another


class PathMapper:
    """Maps between /mnt/data and the folder's path in the kernel, and masks, for one execution."""

    def __init__(self, root: str, *, secrets: Sequence[str] = ()) -> None:
        self._root = root
        self._forms = _to_forms(secrets)
        self._held: dict[str, str] = {}

    def to_code(self, code: str) -> str:
        """Return the code as the kernel gets it."""
        if self._root == MOUNT or MOUNT not in code:
            return code
        return _IN_CODE.sub(lambda _: self._root, code)

    def to_text(self, text: str) -> str:
        """Return text of the kernel as readers get it."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return text if self._root == MOUNT else text.replace(self._root, MOUNT)

    def to_event(self, event: KernelEvent) -> KernelEvent:
        """Return an event of the kernel as readers get it.

        Stream text that ends within the folder's path or a secret is held back until the next text
        of that stream; `rest` returns what is still held at the end.
        """
        if self._root == MOUNT and not self._forms:
            return event
        match event:
            case StreamOutput():
                text = self._held.pop(event.name, "") + event.text
                text = self.to_text(text)
                held = self._count_held(text)
                if held:
                    self._held[event.name] = text[-held:]
                    text = text[:-held]
                return event if text == event.text else replace(event, text=text)
            case DisplayOutput() | DisplayUpdate():
                data = {media: self._to_value(value) for media, value in event.data.items()}
                return event if data == event.data else replace(event, data=data)
            case ErrorOutput():
                return replace(
                    event,
                    name=self.to_text(event.name),
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

    def _to_value(self, value: Json) -> Json:
        match value:
            case str():
                return self.to_text(value)
            case dict():
                return {self.to_text(key): self._to_value(item) for key, item in value.items()}
            case list():
                return [self._to_value(item) for item in value]
            case _:
                return value

    def _count_held(self, text: str) -> int:
        """Count the characters at the end that may begin the path (a few) or a secret (any)."""
        path = 0 if self._root == MOUNT else _overlap(text, self._root, least=4)
        return max([path, *(_overlap(text, form, least=1) for form in self._forms)])


def _overlap(text: str, whole: str, *, least: int) -> int:
    """Count the characters at the end of `text` that begin `whole`, at least so many of them."""
    for size in range(min(len(whole) - 1, len(text)), least - 1, -1):
        if text.endswith(whole[:size]):
            return size
    return 0
