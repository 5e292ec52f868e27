"""Resources: files, run steps with their whole output, images of steps, and notebooks."""

import json
import mimetypes
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from ci_tools import (
    DisplayOutput,
    ErrorOutput,
    Output,
    RunStep,
    SessionService,
    StreamOutput,
)
from ci_tools.render import find_images
from ci_tools_mcp import uris
from ci_tools_mcp.access import Access, Call
from ci_tools_mcp.content import to_meta
from ci_tools_mcp.failures import resource_errors

RESOURCE_LIMIT = 16_000_000
"""Bytes of a file, or of a step's whole text, that one read returns."""

_TYPES = {".ipynb": "application/x-ipynb+json", ".md": "text/markdown", ".csv": "text/csv"}
"""Media types that the platform's own list may not know."""


def add_resources(server: MCPServer[Access], find_access: Callable[[], Access]) -> None:
    """Register the resource of each address in `ci_tools_mcp.uris`.

    Resources without variables get no request context, hence `find_access`.
    """

    async def read_about() -> str:
        return await _describe(await find_access().service())

    server.resource(
        uris.ABOUT,
        name="about",
        title="About this server",
        description="Kernels, limits and isolation of this code interpreter.",
        mime_type="application/json",
    )(read_about)
    server.resource(
        uris.FILE,
        name="file",
        title="File of a session",
        description="A file in a session's /mnt/data.",
        mime_type="application/octet-stream",
    )(read_file)
    server.resource(
        uris.STEP,
        name="step",
        title="Run step",
        description="A run step with its whole output, as JSON.",
        mime_type="application/json",
    )(read_step)
    server.resource(
        uris.IMAGE,
        name="image",
        title="Image of a run step",
        description="An image of a step by its number, for example 1.png.",
        mime_type="image/png",
    )(read_image)
    server.resource(
        uris.NOTEBOOK,
        name="notebook",
        title="Notebook of a session",
        description="All run steps of a session with their outputs, as a Jupyter notebook.",
        mime_type="application/x-ipynb+json",
    )(read_notebook)
    server.resource(
        uris.VARIABLES,
        name="variables",
        title="Variables of a session",
        description="Name, type, and shape or length of each variable of a Python kernel.",
        mime_type="application/json",
    )(read_variables)


def find_media_type(uri: str) -> str | None:
    """Return the media type of one of our addresses that ends like a file; None if it does not."""
    name = uri.rpartition("/")[2].lower()
    _, dot, extension = name.rpartition(".")
    if not uri.startswith("ci://sessions/") or not dot:
        return None
    return _TYPES.get(f".{extension}") or mimetypes.guess_type(name)[0]


async def read_file(context: Call, session_id: str, path: str) -> str | bytes:
    """Return a file, as text if it is text."""
    service = await _access(context).service()
    with resource_errors():
        file = await service.stat_file(session_id, path)
        if file.size > RESOURCE_LIMIT:
            raise ResourceError(
                f"{file.path} has {file.size:,} bytes, more than a resource may have. Read it in "
                "slices with the tool read_file, or download it by a ticket."
            )
        chunks = []
        async with service.open_file(session_id, file.path) as stream:
            async for chunk in stream:
                chunks.append(chunk)
    return _text_or_bytes(b"".join(chunks))


async def read_step(context: Call, session_id: str, step_id: str) -> str:
    """Return a step as JSON; `text` is everything that it printed, if that is not too long."""
    service = await _access(context).service()
    with resource_errors():
        step = await _get_step(context, session_id, step_id)
        step_dict = _step_to_dict(step)
        if step.full_text is not None:
            step_dict["text_size"] = step.full_text.size
            chunks = []
            async with service.open_full_text(step.id, length=RESOURCE_LIMIT) as stream:
                async for chunk in stream:
                    chunks.append(chunk)
            step_dict["text"] = b"".join(chunks).decode(errors="replace")
    return json.dumps(step_dict)


async def read_image(context: Call, session_id: str, step_id: str, name: str) -> bytes:
    """Return an image of a step."""
    with resource_errors():
        step = await _get_step(context, session_id, step_id)
    number = name.partition(".")[0]
    for image in find_images(step.outputs):
        if str(image.number) == number:
            return image.data
    raise ResourceNotFoundError(f"Step {step_id!r} has no image {name!r}.")


async def read_notebook(context: Call, session_id: str) -> str:
    """Return a session's history as a notebook."""
    service = await _access(context).service()
    with resource_errors():
        return json.dumps(await service.export_notebook(session_id), indent=1)


async def read_variables(context: Call, session_id: str) -> str:
    """Return the variables of a session's kernel as JSON; none if it has no kernel now."""
    service = await _access(context).service()
    with resource_errors():
        found = await service.list_variables(session_id)
    return json.dumps({"variables": [asdict(variable) for variable in found]})


async def _describe(service: SessionService) -> str:
    """Return what this server is and what it offers, as JSON; of the default Jupyter Server."""
    settings, servers = service.settings, service.list_servers()
    with resource_errors():
        kernels = await service.list_kernelspecs()
    about = {
        "kernels": [
            {"name": spec.name, "title": spec.display_name, "language": spec.language}
            for spec in kernels
        ],
        "servers": servers,
        "isolation": settings.isolation if servers[0] == "embedded" else "remote",
        "limits": {
            "step_timeout_s": settings.step_timeout,
            "step_timeout_max_s": settings.step_timeout_max,
            "kernel_idle_timeout_s": settings.kernel_idle_timeout,
            "session_retention_s": settings.session_retention,
            "file_bytes": settings.file_limit,
            "sessions": settings.sessions_per_principal,
        },
    }
    return json.dumps(about, indent=2)


def _access(context: Call) -> Access:
    return context.request_context.lifespan_context


async def _get_step(context: Call, session_id: str, step_id: str) -> RunStep:
    service = await _access(context).service()
    step = await service.get_run_step(step_id)
    if step.session_id != session_id:
        raise ResourceNotFoundError(f"Session {session_id!r} has no step {step_id!r}.")
    return step


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return data


def _step_to_dict(step: RunStep) -> dict[str, Any]:
    return {
        **to_meta(step),
        "code": step.code,
        "timeout": step.timeout,
        "outputs": [_output_to_dict(output) for output in step.outputs],
    }


def _output_to_dict(output: Output) -> dict[str, Any]:
    match output:
        case StreamOutput():
            omitted = output.omitted
            return {"type": output.name, "text": output.text, "omitted_characters": omitted}
        case DisplayOutput():
            return {
                "type": output.kind,
                "data": dict(output.data),
                "metadata": dict(output.metadata),
                "display_id": output.display_id,
            }
        case ErrorOutput():
            return {
                "type": "error",
                "name": output.name,
                "message": output.message,
                "traceback": output.traceback,
            }
