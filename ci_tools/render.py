"""The one text, and the images, that a model gets for a run step; shared by every adapter."""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from ci_tools.folding import clean_text, fold_text
from ci_tools.models import (
    ChangedFile,
    DisplayOutput,
    ErrorOutput,
    Json,
    Output,
    RunStep,
    StepStatus,
    StreamOutput,
)

TEXT_LIMIT = 20_000
"""Characters of a step's text that a model gets at once."""

IMAGE_LIMIT = 4
"""Images of a step that a model gets at once."""

IMAGE_BYTES = 700_000
"""Bytes of those images together; as base64 they fit into one event of 1 MiB."""

_FILES_LISTED = 50
"""Changed files that are named one by one."""

_IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What models can look at, best first."""

_TEXT_TYPES = ("text/markdown", "text/latex", "text/html", "image/svg+xml")
"""What stands for an object whose plain text says nothing, best first."""

_EMPTY_REPR = re.compile(r"<[\w.]+(?: object(?: at 0x[0-9a-f]+)?| size [^<>]*)>\s*\Z")
"""Plain text such as `<IPython.core.display.HTML object>` or `<Figure size 64x48 with 1 Axes>`."""

_RULE = re.compile(r"\A-{20,}\n")
"""The line that IPython draws above a traceback."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image as a model can take it."""

    media_type: str
    data: bytes
    number: int = 1
    """Its place among the images of the step, counted from 1; the text refers to it."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A step for a model: `text` also names the images and says what was left out."""

    text: str
    images: tuple[Image, ...]
    omitted_images: int
    omitted_characters: int = 0
    """Characters cut from the middle of the output in `text`."""


def render_step(
    step: RunStep,
    *,
    text_limit: int = TEXT_LIMIT,
    image_limit: int = IMAGE_LIMIT,
    image_bytes: int = IMAGE_BYTES,
    first_image: int = 1,
) -> Rendered:
    """Return what a model should read and see of a step, within limits.

    Notices come first, then the output in order with progress bars folded to one line, then how
    it ended, then the changed files. Only the output is cut; `text_limit` is in characters.
    """
    images = find_images(step.outputs)
    shown = _choose(images, limit=image_limit, size=image_bytes, first=first_image)
    head = [f"Note: {notice}" for notice in step.notices]
    tail = [part for part in (_ending(step), _file_list(step.files)) if part]
    if len(images) > len(shown):
        tail.append(f"{len(images) - len(shown)} of {len(images)} images are not shown.")
    rest = text_limit - sum(len(part) + 1 for part in (*head, *tail))
    body, omitted = _cut(output_text(step), max(rest, text_limit // 4))
    if not body and not tail:
        body = "(no output)" if step.status.is_final else "(no output yet)"
    return Rendered(
        text=clean_text("\n".join(part for part in (*head, body, *tail) if part)),
        images=shown,
        omitted_images=len(images) - len(shown),
        omitted_characters=omitted,
    )


def output_text(step: RunStep) -> str:
    """Return the output of a step as text, uncut; images and rich output as one line each.

    Streams are labelled only if there is more than one kind of text. A chunk that goes on with an
    unfinished line joins the block which holds it, so that a progress bar stays one line.
    """
    blocks: list[_Block] = []
    images = 0
    for output in step.outputs:
        match output:
            case StreamOutput() if not output.text:
                continue
            case StreamOutput():
                block = _find_unfinished(blocks, output)
                if block is None:
                    block = _Block(output.name)
                    blocks.append(block)
                block.parts.append(output.text)
            case DisplayOutput():
                is_image = _find_image(output.data) is not None
                images += is_image
                text = _display_text(output.data, images if is_image else None)
                blocks.append(_Block("result" if output.kind == "result" else "display", text))
            case ErrorOutput():
                blocks.append(_Block("error", _traceback(output)))
            case _:
                assert_never(output)
    texts = [(block.label, block.text()) for block in blocks]
    texts = [(label, text) for label, text in texts if text]
    labels = {label for label, _ in texts} - {"error", "display"}
    is_labelled = len(labels) > 1 or "stderr" in labels
    return clean_text(
        "\n".join(
            f"{label}:\n{text}" if is_labelled and label in labels else text
            for label, text in texts
        )
    )


def find_images(outputs: Sequence[Output]) -> tuple[Image, ...]:
    """Return every image of these outputs that models can look at, decoded, in order."""
    found = [_find_image(output.data) for output in outputs if isinstance(output, DisplayOutput)]
    decoded = [image for image in found if image is not None]
    return tuple(
        Image(media_type=media_type, data=data, number=number)
        for number, (media_type, data) in enumerate(decoded, start=1)
    )


class _Block:
    """Text of one kind that belongs together."""

    def __init__(self, label: str, text: str = "") -> None:
        self.label = label
        self.parts = [text] if text else []

    @property
    def is_unfinished(self) -> bool:
        return not self.parts[-1].endswith("\n")

    def text(self) -> str:
        return fold_text("".join(self.parts)).rstrip()


def _find_unfinished(blocks: list[_Block], output: StreamOutput) -> _Block | None:
    """Find the block that a piece of a stream continues."""
    own = next((block for block in reversed(blocks) if block.label == output.name), None)
    if own is None:
        return None
    if own is blocks[-1] or own.is_unfinished or output.text.startswith(("\r", "\b", "\x1b[A")):
        return own
    return None


def _find_image(data: Mapping[str, Json]) -> tuple[str, bytes] | None:
    for media_type in _IMAGE_TYPES:
        value = data.get(media_type)
        if isinstance(value, str):
            try:
                return media_type, base64.b64decode(value)
            except (binascii.Error, ValueError):
                continue
    return None


def _choose(images: Sequence[Image], *, limit: int, size: int, first: int) -> tuple[Image, ...]:
    """Return the images that fit, in order; one that is too large does not hide later ones."""
    chosen: list[Image] = []
    for image in images[max(first, 1) - 1 :]:
        if len(chosen) < limit and len(image.data) <= size:
            chosen.append(image)
            size -= len(image.data)
    return tuple(chosen)


def _display_text(data: Mapping[str, Json], image_number: int | None) -> str:
    """Return the best text for a MIME bundle: plain text unless it says nothing."""
    plain = data.get("text/plain")
    if not isinstance(plain, str) or _EMPTY_REPR.match(plain):
        plain = ""
    if image_number is not None:
        return "\n".join(part for part in (plain, f"[image {image_number}]") if part)
    if plain:
        return plain
    for media_type in (*_TEXT_TYPES, *data):
        if media_type in data and media_type != "text/plain":
            return _stand_in(media_type, data[media_type])
    value = data.get("text/plain")
    return value if isinstance(value, str) else ""


def _stand_in(media_type: str, value: Json) -> str:
    if media_type in ("text/markdown", "text/latex") and isinstance(value, str):
        return value
    if media_type == "application/json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    if isinstance(value, str):
        return f"[{media_type}, {len(value):,} characters, not shown as text]"
    return f"[{media_type}, not shown as text]"


def _traceback(error: ErrorOutput) -> str:
    text = _RULE.sub("", fold_text(error.traceback)).rstrip()
    last = fold_text(f"{error.name}: {error.message}" if error.message else error.name)
    return text or last


def _ending(step: RunStep) -> str:
    """Say how a step ended, unless its traceback or its output says it."""
    if step.error is None:
        return "" if step.status is not StepStatus.CANCELLED else "Error (cancelled)."
    raised = any(isinstance(output, ErrorOutput) for output in step.outputs)
    if step.error.code == "code_error" and raised:
        return ""
    return f"Error ({step.error.code}): {step.error.message}"


def _file_list(files: Sequence[ChangedFile]) -> str:
    if not files:
        return ""
    lines = ["Files in /mnt/data:"]
    for file in files[:_FILES_LISTED]:
        size = "" if file.size is None else f" ({file.size:,} bytes)"
        lines.append(f"- {file.change} {file.path}{size}")
    if len(files) > _FILES_LISTED:
        lines.append(f"- and {len(files) - _FILES_LISTED} more")
    return "\n".join(lines)


def _cut(text: str, limit: int) -> tuple[str, int]:
    """Return the head and the tail of a long text, and how many characters are missing."""
    if len(text) <= limit:
        return text, 0
    half = limit // 2
    head, tail = text[:half], text[len(text) - half :]
    # Whole lines read better, if that does not cost much.
    newline = head.rfind("\n")
    if newline > half * 3 // 4:
        head = head[: newline + 1]
    newline = tail.find("\n")
    if 0 <= newline < half // 4:
        tail = tail[newline + 1 :]
    omitted = len(text) - len(head) - len(tail)
    gap = "" if head.endswith("\n") else "\n"
    mark = f"{gap}[… {omitted:,} characters left out; the whole text is kept with the step …]\n"
    return head + mark + tail, omitted
