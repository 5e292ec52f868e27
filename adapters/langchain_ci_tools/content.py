"""Run steps, commands and files as the content of tool messages: standard content blocks."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ci_tools.folding import fold_text
from ci_tools.models import CommandResult, File, RunStep, StepStatus
from ci_tools.render import IMAGE_LIMIT, Rendered, render_step

Content: TypeAlias = str | list[str | dict[str, Any]]
"""What a tool message holds."""

IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What models can look at."""

_WAYS = {
    "sandbox": "",
    "process": "It ran without a sandbox.",
    "second_kernel": "It ran in a second kernel, for this server offers no other way.",
}
"""What is said of the way that a command went."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a tool gives back: for the model, and for programs."""

    content: Content
    artifact: object
    failed: bool = False


def step_outcome(
    step: RunStep,
    artifact: object,
    *,
    images: bool,
    first_image: int = 1,
    notes: Sequence[str] = (),
) -> Outcome:
    """Return a step: its text, its images, and what to call for the rest."""
    limit = IMAGE_LIMIT if images else 0
    rendered = render_step(step, first_image=first_image, image_limit=limit)
    text = "\n".join(
        [*(f"Note: {note}" for note in notes), rendered.text, *_next_calls(step, rendered, images)]
    )
    blocks: list[str | dict[str, Any]] = [{"type": "text", "text": text}]
    blocks += [image_block(image.media_type, image.data) for image in rendered.images]
    return Outcome(
        content=blocks if rendered.images else text,
        artifact=artifact,
        failed=step.status.is_final and step.status is not StepStatus.COMPLETED,
    )


def command_outcome(result: CommandResult, *, notes: Sequence[str] = ()) -> Outcome:
    """Return what a command wrote, and how it ended."""
    notices = [
        "It was ended: its time was up." if result.timed_out else "",
        "Output past the limit was dropped; write it to a file." if result.truncated else "",
        _WAYS[result.via],
    ]
    line = " ".join([f"Exit status {result.exit_status}.", *(text for text in notices if text)])
    parts = [*(f"Note: {note}" for note in notes), line, fold_text(result.stdout).rstrip("\n")]
    if result.stderr:
        parts += ["[stderr]", fold_text(result.stderr).rstrip("\n")]
    return Outcome(
        content="\n".join(part for part in parts if part),
        artifact=result,
        failed=result.exit_status != 0 or result.timed_out,
    )


def image_block(media_type: str, data: bytes) -> dict[str, Any]:
    """Return an image as a standard content block."""
    return {"type": "image", "base64": _to_base64(data), "mime_type": media_type}


def file_block(file: File, data: bytes) -> dict[str, Any]:
    """Return a file as a standard content block."""
    name = file.path.rpartition("/")[2]
    return {
        "type": "file",
        "base64": _to_base64(data),
        "mime_type": file.media_type,
        "extras": {"filename": name},
    }


def file_line(file: File) -> str:
    """Return one line about a file."""
    return f"{file.path} ({file.size:,} bytes, {file.media_type})"


def to_page(data: bytes, offset: int) -> tuple[int, str] | None:
    """Return where a slice of a text file starts, and the slice; None if it is binary.

    Characters that are cut at its ends are left out.
    """
    if b"\0" in data:
        return None
    start = 0
    while offset and start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    for end in range(len(data), max(start, len(data) - 4), -1):
        try:
            return offset + start, data[start:end].decode()
        except UnicodeDecodeError:
            continue
    return None if data else (offset, "")


def _next_calls(step: RunStep, rendered: Rendered, images: bool) -> list[str]:
    lines = []
    if rendered.omitted_characters or step.full_text is not None:
        lines.append(f'To read the whole text: get_run_step(step_id="{step.id}", offset=0).')
    if rendered.omitted_images and images:
        number = max((image.number for image in rendered.images), default=0) + 1
        lines.append(f'To see more images: get_run_step(step_id="{step.id}", image={number}).')
    return lines


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
