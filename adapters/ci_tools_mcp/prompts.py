"""Prompts that a user can start a conversation with."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import anyio
from mcp.server.mcpserver import MCPServer
from pydantic import Field

from ci_tools import CIToolsError, RunStep, SessionService, Variable
from ci_tools_mcp.access import Access, Call
from ci_tools_mcp.failures import tool_errors

_STEPS = 20
"""Steps that a resumed conversation is told about."""

_FILES = 50
"""Files that a resumed conversation is told about."""

_VARIABLES_WAIT = 2.0
"""Seconds that a resumed conversation waits for them: a busy kernel does not tell them."""

_VARIABLES = 50
"""Variables that a resumed conversation is told about."""

_CODE = 500
"""Characters of a step's code that a resumed conversation is told."""


def add_prompts(server: MCPServer[Access]) -> None:
    """Register the prompts."""
    server.prompt(title="Analyse a file")(analyze_file)
    server.prompt(title="Resume a session")(resume_session)


async def analyze_file(
    context: Call,
    session_id: Annotated[str, Field(description="The session that has the file.")],
    path: Annotated[str, Field(description="The file, relative to /mnt/data.")],
) -> str:
    """Explore a file step by step, and plot what matters in it."""
    service = await context.request_context.lifespan_context.service()
    with tool_errors():
        file = await service.stat_file(session_id, path)
    return (
        f"Analyse the file {file.path!r} ({file.size:,} bytes, {file.media_type}) in session "
        f"{session_id}. Use the tool run_code with this session_id; the file is in the working "
        "directory. Look at its structure first, say what is missing or odd in the data, then "
        "summarise it, plot what matters, and save each plot and table as a file."
    )


async def resume_session(
    context: Call,
    session_id: Annotated[str, Field(description="The session to go on with.")],
) -> str:
    """Go on in an earlier session: what ran there, and which files it has."""
    service = await context.request_context.lifespan_context.service()
    with tool_errors():
        session = await service.get_session(session_id)
        steps = await service.list_run_steps(session_id, limit=_STEPS)
        files = await service.list_files(session_id, limit=_FILES)
        variables = await _list_variables(service, session_id)
    kernelspec = (session.kernel.kernelspec if session.kernel else "") or session.kernelspec
    kernel = f" (kernel {kernelspec})" if kernelspec else ""
    state = "still has its variables" if session.kernel else "has no running kernel: no variables"
    lines = [
        f"Go on in session {session_id}{kernel}; pass this session_id to run_code.",
        *variables,
        f"The session {state}. Its last steps, oldest first:",
        *(_describe(step) for step in reversed(steps)),
        "Its files in /mnt/data:",
        *(f"- {file.path} ({file.size:,} bytes)" for file in files),
    ]
    return "\n".join(lines)


async def _list_variables(service: SessionService, session_id: str) -> list[str]:
    """Return a line with the variables; none where they cannot be had now."""
    found: Sequence[Variable] = ()
    with suppress(CIToolsError), anyio.move_on_after(_VARIABLES_WAIT):
        found = await service.list_variables(session_id)
    named = ", ".join(
        f"{variable.name} ({', '.join(text for text in (variable.type, variable.detail) if text)})"
        for variable in found[:_VARIABLES]
    )
    return [f"Its variables: {named}."] if named else []


def _describe(step: RunStep) -> str:
    return f"- {step.id} ({step.status.value}, kernel {step.epoch}):\n{step.code[:_CODE]}"
