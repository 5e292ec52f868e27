"""The tool that runs shell commands beside a session's kernel."""

from typing import Annotated

from mcp.types import CallToolResult, TextContent
from pydantic import Field

from ci_tools import CommandResult
from ci_tools.folding import fold_text
from ci_tools_mcp.access import Call
from ci_tools_mcp.failures import tool_errors

_LIMIT_MAX = 100_000
"""Bytes of output that a model may ask for."""

_WAYS = {
    "sandbox": "",
    "process": "It ran without a sandbox, beside the service.",
    "second_kernel": "It ran in a second kernel, for this server offers no other way.",
}
"""What is said of the way that a command went."""


async def run_command(
    context: Call,
    command: str,
    session_id: str | None = None,
    timeout_s: Annotated[float, Field(gt=0, description="At most 50.")] = 30,
    limit: Annotated[int, Field(ge=0, le=_LIMIT_MAX, description="Bytes of output.")] = 20_000,
) -> CallToolResult:
    """Run a shell command in a session's /mnt/data, also while its kernel is busy."""
    access = context.request_context.lifespan_context
    service = await access.service()
    with tool_errors():
        session = await access.find_session(context, service, session_id)
        result = await service.run_command(
            session.id,
            command,
            timeout=min(timeout_s, access.options.wait_limit),
            output_limit=limit,
        )
    return CallToolResult(
        content=[TextContent(type="text", text=_to_text(result))],
        structured_content={
            "session_id": session.id,
            "exit_status": result.exit_status,
            "timed_out": result.timed_out,
            "truncated": result.truncated,
            "via": result.via,
        },
        is_error=result.exit_status != 0 or result.timed_out,
    )


def _to_text(result: CommandResult) -> str:
    notices = [
        "It was ended: its time was up." if result.timed_out else "",
        "Output past the limit was dropped; write it to a file." if result.truncated else "",
        _WAYS[result.via],
    ]
    line = " ".join([f"Exit status {result.exit_status}.", *(text for text in notices if text)])
    parts = [line, fold_text(result.stdout).rstrip("\n")]
    if result.stderr:
        parts += ["[stderr]", fold_text(result.stderr).rstrip("\n")]
    return "\n".join(part for part in parts if part)
