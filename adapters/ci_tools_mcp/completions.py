"""Completions for the arguments of prompts and resource templates."""

from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import Completion

from ci_tools import CIToolsError, SessionService

_LIMIT = 100
"""Values that the protocol allows in one answer."""

_SCAN = 1_000
"""Records that are looked at for an answer."""


async def complete(
    service: SessionService, name: str, value: str, known: dict[str, str]
) -> Completion:
    """Return the ids, paths or kernels that begin with `value`; nothing for other arguments."""
    try:
        values = await _list_values(service, name, known)
    except (CIToolsError, ToolError):
        values = []
    found = [candidate for candidate in values if candidate.startswith(value)]
    return Completion(values=found[:_LIMIT], total=len(found), has_more=len(found) > _LIMIT)


async def _list_values(service: SessionService, name: str, known: dict[str, str]) -> list[str]:
    session_id = known.get("session_id", "")
    match name:
        case "session_id":
            return [session.id for session in await service.list_sessions()]
        case "step_id" if session_id:
            return [step.id for step in await service.list_run_steps(session_id, limit=_SCAN)]
        case "path" if session_id:
            return [file.path for file in await service.list_files(session_id, limit=_SCAN)]
        case "kernel":
            return [spec.name for spec in await service.list_kernelspecs()]
        case _:
            return []
