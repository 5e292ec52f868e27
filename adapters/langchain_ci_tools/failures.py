"""Errors of the core, and arguments that do not fit, as texts that tell a model what to do next."""

import logging

from langchain_core.tools import ToolException
from pydantic import ValidationError
from pydantic.v1 import ValidationError as OldValidationError

from ci_tools.errors import CIToolsError, LimitError, NotFoundError

logger = logging.getLogger(__name__)

_OPERATOR = "Tell the user: whoever runs it can find the cause with `ci-tools doctor`."

_ADVICE = {
    "not_found": "",
    "invalid_path": "Use a relative path below /mnt/data, such as 'tables/a.csv'.",
    "limit_exceeded": "Delete files that are not needed, or wait.",
    "file_too_large": "Split the file, or make it smaller.",
    "configuration": _OPERATOR,
    "invalid_argument": "",
    "service_closed": "No more code can be run: answer with what you have.",
    "store_error": f"Try again in a moment. {_OPERATOR}",
    "backend_error": f"Try again. {_OPERATOR}",
    "server_unavailable": f"Try again in a moment. {_OPERATOR}",
    "server_denied": _OPERATOR,
    "kernel_start_failed": f"Try again. {_OPERATOR}",
    "kernel_lost": "Run the code again: a new kernel starts, with the files but no variables.",
    "kernel_died": "Run the code again: a new kernel starts, with the files but no variables.",
}
"""What to do, for each `CIToolsError.code`."""

_NOT_FOUND_ADVICE = {
    "run step": "list_run_steps names the steps there are.",
    "file": "list_files names the files there are.",
}
"""What to do about `not_found`, for each kind of record."""


def explain(error: Exception) -> str:
    """Return the error's message and what to do about it; log one that should not happen."""
    if not isinstance(error, CIToolsError):
        logger.exception("a call failed unexpectedly", exc_info=error)
        return (
            f"The code interpreter failed unexpectedly ({type(error).__name__}); its log says more."
        )
    advice = _ADVICE.get(error.code, "")
    if isinstance(error, NotFoundError):
        advice = _NOT_FOUND_ADVICE.get(error.kind, advice)
    if isinstance(error, LimitError) and error.retry_after is not None:
        advice = f"Try again in {max(1, round(error.retry_after))} s."
    return f"{error} {advice}".rstrip()


def to_tool_error(error: Exception) -> ToolException:
    """Return the error as the one exception that tools answer instead of ending an agent."""
    return ToolException(explain(error))


def explain_arguments(error: ValidationError | OldValidationError) -> str:
    """Return what is wrong with the arguments of a call, without repeating them."""
    problems = [
        f"{'.'.join(str(part) for part in item['loc']) or 'arguments'}: {item['msg']}"
        for item in error.errors()
    ]
    return "The tool was not called. " + "; ".join(problems) + ". Correct the arguments."
