"""Errors of the core as texts that tell a model what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager

from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError

from ci_tools import CIToolsError, LimitError, NotFoundError

_OPERATOR = "The person who runs this server can find the cause with `ci-tools doctor`."

_ADVICE = {
    "not_found": "",
    "invalid_path": "Use a relative path below /mnt/data, such as 'tables/a.csv'.",
    "limit_exceeded": "Close sessions or delete files that are not needed, or wait.",
    "file_too_large": "Split the file, or make it smaller.",
    "configuration": "",
    "invalid_argument": "",
    "service_closed": "The server is shutting down: try again in a moment.",
    "store_error": f"Try again in a moment. {_OPERATOR}",
    "backend_error": f"Try again. {_OPERATOR}",
    "server_unavailable": f"Try again in a moment. {_OPERATOR}",
    "server_denied": _OPERATOR,
    "kernel_start_failed": f"Try again, or use another kernel. {_OPERATOR}",
    "kernel_lost": "Run the code again: a new kernel starts, with the files but no variables.",
    "kernel_died": "Run the code again: a new kernel starts, with the files but no variables.",
}
"""What to do, for each `CIToolsError.code`."""

_NOT_FOUND_ADVICE = {
    "session": "list_sessions names yours; create_session makes a new one.",
    "run step": "list_run_steps names the steps of a session.",
    "file": "list_files names the files of a session.",
    "kernelspec": "Leave the kernel out for the default one.",
    "server": "Leave the server out for the default one.",
}
"""What to do about `not_found`, for each kind of record."""


def explain(error: CIToolsError) -> str:
    """Return the error's message and what to do about it."""
    advice = _ADVICE.get(error.code, "")
    if isinstance(error, NotFoundError):
        advice = _NOT_FOUND_ADVICE.get(error.kind, advice)
    if isinstance(error, LimitError) and error.retry_after is not None:
        advice = f"Try again in {max(1, round(error.retry_after))} s."
    return f"{error} {advice}".rstrip()


@contextmanager
def tool_errors() -> Iterator[None]:
    """Convert the core's errors to errors of a tool, which models read."""
    try:
        yield
    except CIToolsError as exc:
        raise ToolError(explain(exc)) from exc


@contextmanager
def resource_errors() -> Iterator[None]:
    """Convert the core's errors, and those of tools, to errors of a resource."""
    try:
        yield
    except NotFoundError as exc:
        raise ResourceNotFoundError(explain(exc)) from exc
    except CIToolsError as exc:
        raise ResourceError(explain(exc)) from exc
    except ToolError as exc:
        raise ResourceError(str(exc)) from exc
