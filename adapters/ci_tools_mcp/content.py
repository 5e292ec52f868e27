"""Run steps as tool results: one text that is enough by itself, images, and links to files."""

import base64
import mimetypes
from typing import Any

from mcp.types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent

from ci_tools import RunStep, StepStatus
from ci_tools.render import IMAGE_BYTES, Rendered, find_images, render_step
from ci_tools_mcp.times import to_time
from ci_tools_mcp.uris import file_uri, image_uri

META_KEY = "io.github.ci-tools/run"
"""Where programs find a step in the `_meta` of a result."""

_LINKS = 20
"""Files of a step that are linked; the text names more."""


def to_result(
    step: RunStep, *, resource_links: bool, first_image: int = 1, notes: tuple[str, ...] = ()
) -> CallToolResult:
    """Return a step for a model, with what to call next; an error if the step did not complete."""
    rendered = render_step(step, first_image=first_image)
    lines = [step_line(step), "", *notes, rendered.text, *_next_calls(step, rendered)]
    content: list[ContentBlock] = [TextContent(type="text", text="\n".join(lines))]
    for image in rendered.images:
        data = base64.b64encode(image.data).decode("ascii")
        content.append(ImageContent(type="image", data=data, mime_type=image.media_type))
    if resource_links:
        content += _links(step, rendered)
    return CallToolResult(
        content=content,
        is_error=step.status.is_final and step.status is not StepStatus.COMPLETED,
        _meta={META_KEY: to_meta(step, rendered)},
    )


def step_line(step: RunStep) -> str:
    """Return the line that names a step, its session and its status."""
    duration = "" if step.duration is None else f", {step.duration:.3g} s"
    status = step.status.value.replace("_", " ")
    return f"session_id: {step.session_id} | step_id: {step.id} | {status}{duration}"


def to_meta(step: RunStep, rendered: Rendered | None = None) -> dict[str, Any]:
    """Return what programs want to know about a step, without its output."""
    return {
        "session_id": step.session_id,
        "step_id": step.id,
        "status": step.status.value,
        "epoch": step.epoch,
        "execution_count": step.execution_count,
        "created_at": to_time(step.created_at),
        "started_at": to_time(step.started_at),
        "finished_at": to_time(step.finished_at),
        "error": None
        if step.error is None
        else {"code": step.error.code, "message": step.error.message},
        "files": [
            {"path": file.path, "change": file.change, "size": file.size, "sha256": file.sha256}
            for file in step.files
        ],
        "notices": list(step.notices),
        "truncated": step.truncated,
        "omitted_characters": rendered.omitted_characters if rendered else 0,
        "omitted_images": rendered.omitted_images if rendered else 0,
    }


def _next_calls(step: RunStep, rendered: Rendered) -> list[str]:
    """Say which call shows what is not here."""
    lines = []
    if rendered.omitted_characters or step.full_text is not None:
        lines.append(f'To read the whole text: get_run_step(step_id="{step.id}", offset=0).')
    if rendered.omitted_images:
        lines += _image_calls(step, rendered)
    if not step.status.is_final:
        lines.append(
            "The code is not done yet. To wait for it: "
            f'get_run_step(step_id="{step.id}", wait_s=50); to stop it: cancel_run_step.'
        )
    return lines


def _image_calls(step: RunStep, rendered: Rendered) -> list[str]:
    shown = {image.number for image in rendered.images}
    left = [image for image in find_images(step.outputs) if image.number not in shown]
    lines = [
        f"Image {image.number} has {len(image.data):,} bytes, too many to show: "
        "save it at a lower resolution."
        for image in left
        if len(image.data) > IMAGE_BYTES
    ]
    last = max(shown, default=0)
    later = [image.number for image in left if image.number > last]
    small = [image.number for image in left if len(image.data) <= IMAGE_BYTES]
    following = [number for number in later if number in small]
    if following:
        lines.append(
            f'To see the next images: get_run_step(step_id="{step.id}", image={following[0]}).'
        )
    return lines


def _links(step: RunStep, rendered: Rendered) -> list[ContentBlock]:
    links: list[ContentBlock] = []
    if rendered.omitted_images:
        shown = {image.number for image in rendered.images}
        for image in find_images(step.outputs):
            if image.number not in shown:
                uri = image_uri(step.session_id, step.id, image.number, image.media_type)
                name = f"image {image.number}"
                links.append(
                    ResourceLink(
                        type="resource_link",
                        uri=uri,
                        name=name,
                        mime_type=image.media_type,
                        size=len(image.data),
                    )
                )
    for file in step.files:
        if file.size is not None:
            links.append(
                ResourceLink(
                    type="resource_link",
                    uri=file_uri(step.session_id, file.path),
                    name=file.path,
                    mime_type=mimetypes.guess_type(file.path)[0],
                    size=file.size,
                )
            )
    return links[:_LINKS]
