"""The tools that run code and look at what came of it."""

from typing import Annotated, Any

import anyio
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent
from pydantic import Field

from ci_tools import NotFoundError, RunStep
from ci_tools.folding import fold_text
from ci_tools.render import TEXT_LIMIT, output_text
from ci_tools_mcp.access import Call
from ci_tools_mcp.content import META_KEY, step_line, to_meta, to_result
from ci_tools_mcp.failures import tool_errors
from ci_tools_mcp.progress import wait_for_step
from ci_tools_mcp.times import to_time
from ci_tools_mcp.uris import file_uri
from ci_tools_mcp.versions import notify_changed, takes_resource_links

_PREVIEW = 200
"""Characters of a step's code that a list shows."""


async def run_code(
    context: Call,
    code: Annotated[str, Field(description="IPython code; %pip and ! work too.")],
    session_id: Annotated[
        str | None, Field(description="From an earlier result; keeps variables and files.")
    ] = None,
    kernel: Annotated[
        str | None, Field(description="Kernelspec of a new session; default Python.")
    ] = None,
    timeout_s: Annotated[
        float | None, Field(gt=0, description="Code is interrupted after this; default 300.")
    ] = None,
    wait_s: Annotated[
        float, Field(ge=0, description="Return after this at the latest; the code runs on.")
    ] = 50,
) -> CallToolResult:
    """Run code in a live Jupyter kernel.

    Variables, imports and files in /mnt/data stay for the next calls. The result has the output,
    plots, changed files, and the session_id to pass next time.
    """
    access = context.request_context.lifespan_context
    deadline = anyio.current_time() + min(wait_s, access.options.wait_limit)
    service = await access.service()
    with tool_errors():
        chosen = await _choose_session(context, session_id=session_id, kernel=kernel)
        try:
            step = await service.submit_code(chosen, code, timeout=timeout_s)
        except NotFoundError:
            if session_id:
                raise
            access.forget_default_session(chosen)
            chosen = await _choose_session(context, session_id=None, kernel=kernel)
            step = await service.submit_code(chosen, code, timeout=timeout_s)
        return await _await_result(context, step, deadline=deadline)


async def get_run_step(
    context: Call,
    step_id: str,
    wait_s: Annotated[float, Field(ge=0, description="Wait this long for it to end.")] = 0,
    offset: Annotated[
        int | None, Field(ge=0, description="Read the whole text from here, page by page.")
    ] = None,
    image: Annotated[int, Field(ge=1, description="First image to show.")] = 1,
) -> CallToolResult:
    """Get a step again: wait for running code, read cut text, see more images."""
    access = context.request_context.lifespan_context
    service = await access.service()
    with tool_errors():
        step = await service.get_run_step(step_id)
        if offset is not None:
            return await _read_text(context, step, offset)
        if not step.status.is_final and wait_s > 0:
            seconds = min(wait_s, access.options.wait_limit)
            # Here the caller only looks: hanging up must not stop what another call started.
            step = await wait_for_step(context, service, step_id, seconds=seconds, is_owner=False)
    return to_result(step, resource_links=_links(context), first_image=image)


async def cancel_run_step(context: Call, step_id: str) -> CallToolResult:
    """Stop running or queued code; variables stay."""
    access = context.request_context.lifespan_context
    service = await access.service()
    with tool_errors():
        step = await service.get_run_step(step_id)
        with anyio.move_on_after(access.options.wait_limit):
            step = await service.cancel_run_step(step_id)
    return CallToolResult(
        content=[TextContent(type="text", text=step_line(step))],
        structured_content={"step_id": step.id, "status": step.status.value},
    )


async def list_run_steps(
    context: Call,
    session_id: str | None = None,
    limit: Annotated[int, Field(ge=1, le=100)] = 20,
    before: Annotated[str | None, Field(description="step_id: list older ones.")] = None,
) -> dict[str, Any]:
    """List what ran in a session, newest first."""
    access = context.request_context.lifespan_context
    service = await access.service()
    with tool_errors():
        session = await access.find_session(context, service, session_id)
        steps = await service.list_run_steps(session.id, limit=limit + 1, before=before)
    listed = [_summary(step) for step in steps[:limit]]
    more = {"next": steps[limit - 1].id} if len(steps) > limit else {}
    return {"session_id": session.id, "steps": listed, **more}


async def _choose_session(context: Call, *, session_id: str | None, kernel: str | None) -> str:
    """Return the id of the session that code is for; a new one if need be."""
    access = context.request_context.lifespan_context
    service = await access.service()
    if session_id:
        if kernel:
            session = await service.get_session(session_id)
            actual = session.kernel.kernelspec if session.kernel else session.kernelspec
            if actual not in ("", kernel):
                raise ToolError(
                    f"Session {session_id!r} has the kernel {actual!r}. Leave kernel "
                    "out, or leave session_id out for a session with another kernel."
                )
        return session_id
    key = access.default_key(context)
    if key is not None:
        return await access.default_session(service, key, kernelspec=kernel)
    return (await service.create_session(kernelspec=kernel)).id


async def _await_result(context: Call, step: RunStep, *, deadline: float) -> CallToolResult:
    """Return the step when it is final, or as it is when the call must return."""
    service = await context.request_context.lifespan_context.service()
    # The service may have been opened first, and hosts count from the start of the call.
    seconds = deadline - anyio.current_time()
    if seconds > 0:
        step = await wait_for_step(context, service, step.id, seconds=seconds, is_owner=True)
    result = to_result(step, resource_links=_links(context))
    await notify_changed(context, (file_uri(step.session_id, file.path) for file in step.files))
    return result


async def _read_text(context: Call, step: RunStep, offset: int) -> CallToolResult:
    """Return a page of everything that a step printed.

    Offsets count bytes where the text is kept as a file, and characters where it is not.
    """
    service = await context.request_context.lifespan_context.service()
    if step.full_text is None:
        text = output_text(step)
        page, size = text[offset : offset + TEXT_LIMIT], len(text)
        end = offset + len(page)
    else:
        chunks = []
        async with service.open_full_text(step.id, offset=offset, length=TEXT_LIMIT) as stream:
            async for chunk in stream:
                chunks.append(chunk)
        raw = b"".join(chunks)
        size = step.full_text.size
        end = offset + len(raw)
        if end < size:
            end -= _dangling(raw)
        page = fold_text(raw[: end - offset].decode(errors="replace"))
    lines = [step_line(step), f"Text {offset:,} to {end:,} of {size:,}:", "", page]
    if end < size:
        lines.append(f'To read on: get_run_step(step_id="{step.id}", offset={end}).')
    return CallToolResult(
        content=[TextContent(type="text", text="\n".join(lines))],
        _meta={META_KEY: to_meta(step)},
    )


def _dangling(raw: bytes) -> int:
    """Return how many bytes at the end belong to a character that is cut."""
    for length in range(1, min(4, len(raw) + 1)):
        byte = raw[-length]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return length if length < needed else 0
    return 0


def _links(context: Call) -> bool:
    access = context.request_context.lifespan_context
    return access.options.resource_links and takes_resource_links(context)


def _summary(step: RunStep) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "step_id": step.id,
        "status": step.status.value,
        "epoch": step.epoch,
        "started_at": to_time(step.started_at),
        "duration_s": None if step.duration is None else round(step.duration, 3),
        "code_preview": step.code[:_PREVIEW],
        "files": [file.path for file in step.files],
    }
    if step.error is not None:
        summary["error"] = step.error.code
    return summary
