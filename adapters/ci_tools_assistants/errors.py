"""The API's errors, with the texts that existing clients look for.

The body is `{"error": {message, type, param, code}}`, always with all four keys.
https://platform.openai.com/docs/guides/error-codes/api-errors
"""

from collections.abc import Iterable, Sequence
from http import HTTPStatus

from ci_tools import (
    CIToolsError,
    FileTooLargeError,
    InvalidArgumentError,
    InvalidPathError,
    LimitError,
    NotFoundError,
    ServiceClosedError,
)
from ci_tools_assistants.objects import Kind, Object

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
RATE_LIMIT = "rate_limit_exceeded"


class ApiError(Exception):
    """An answer that is an error; every layer may raise it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.retry_after = retry_after
        """Seconds after which trying again makes sense."""

    def to_object(self) -> Object:
        """Return the body."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class NoSuchObject(ApiError):
    """Unknown and foreign ids look alike."""

    def __init__(self, kind: Kind | str, id: str) -> None:
        super().__init__(404, f"No {kind} found with id '{clip(id)}'.")


class ThreadBusy(ApiError):
    """The thread is locked by its active run."""

    def __init__(self, message: str, *, thread_id: str, run_id: str) -> None:
        super().__init__(400, message)
        self.thread_id = thread_id
        self.run_id = run_id


def cannot_add_message(thread_id: str, run_id: str) -> ThreadBusy:
    """Return the refusal of a message in a locked thread."""
    return ThreadBusy(
        f"Can't add messages to {thread_id} while a run {run_id} is active.",
        thread_id=thread_id,
        run_id=run_id,
    )


def already_active(thread_id: str, run_id: str) -> ThreadBusy:
    """Return the refusal of a second run in a thread."""
    return ThreadBusy(
        f"Thread {thread_id} already has an active run {run_id}.",
        thread_id=thread_id,
        run_id=run_id,
    )


def takes_no_outputs(status: str) -> ApiError:
    """Return the refusal of tool outputs by a run that does not wait for any."""
    return ApiError(400, f'Runs in status "{status}" do not accept tool outputs.')


def cannot_cancel(status: str) -> ApiError:
    """Return the refusal to cancel a run that has ended."""
    return ApiError(400, f"Cannot cancel run with status '{status}'.")


def wrong_outputs(expected: Iterable[str], got: Iterable[str]) -> ApiError:
    """Return the refusal of outputs that are not exactly those of the pending calls."""
    return ApiError(400, f"Expected tool outputs for call_ids {list(expected)}, got {list(got)}")


def invalid_value(param: str, message: str, *, code: str | None = "invalid_value") -> ApiError:
    """Return the refusal of one parameter."""
    return ApiError(400, message, param=param, code=code)


def array_too_long(param: str, limit: int, length: int) -> ApiError:
    """Return the refusal of too many items."""
    return ApiError(
        400,
        f"Invalid '{param}': array too long. Expected an array with maximum length {limit}, "
        f"but got an array with length {length} instead.",
        param=param,
        code="array_above_max_length",
    )


def unsupported_extension(filename: str, tool: str, extensions: Sequence[str] = ()) -> ApiError:
    """Return the refusal to attach a file that a tool cannot read."""
    known = f" Supported: {', '.join(extensions)}." if extensions else ""
    dot = filename.rfind(".")
    extension = filename[dot:] if dot > 0 else ""
    named = f"extension '{clip(extension)}'" if extension else "no extension"
    return ApiError(
        400,
        f"File '{clip(filename)}' has {named}, which the tool {tool} does not support.{known}",
        code="unsupported_file",
    )


def not_there_yet(what: str) -> ApiError:
    """Return the answer of an endpoint that this release does not have."""
    return ApiError(
        501,
        f"{what} is not available in this release of ci-tools. Files for the code interpreter "
        "work: give them in tool_resources.code_interpreter or as attachments.",
        type=INVALID_REQUEST,
        code="not_implemented",
    )


def to_api_error(error: CIToolsError) -> ApiError:
    """Return what an error of the core is on the wire."""
    match error:
        case NotFoundError():
            return NoSuchObject(error.kind, error.id)
        case FileTooLargeError():
            return ApiError(413, str(error), code=error.code)
        case LimitError():
            return ApiError(
                429, str(error), type=RATE_LIMIT, code=RATE_LIMIT, retry_after=error.retry_after
            )
        case InvalidArgumentError() | InvalidPathError():
            return ApiError(400, str(error), code=error.code)
        case ServiceClosedError():
            return ApiError(503, str(error), type=SERVER_ERROR, code=error.code, retry_after=1.0)
        case _:
            return ApiError(500, str(error), type=SERVER_ERROR, code=error.code)


def of_status(status: int, message: str | None = None) -> ApiError:
    """Return an error for a bare HTTP status."""
    kind = SERVER_ERROR if status >= 500 else INVALID_REQUEST
    return ApiError(status, message or HTTPStatus(status).phrase, type=kind)


def clip(text: str, limit: int = 200) -> str:
    """Return a user's text short enough to be quoted in a message."""
    return text if len(text) <= limit else text[:limit] + "…"
