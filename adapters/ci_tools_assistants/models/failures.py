"""Why a model did not answer: any provider's exception as one `ModelError`.

What clients see is generic; what the provider said goes to the log.
"""

import logging
import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from langchain_core import exceptions as core

from ci_tools_assistants.objects import Object

logger = logging.getLogger(__name__)

Code: TypeAlias = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
"""The codes that a run's `last_error` can have."""

_LOGGED = 500
"""Characters of a provider's message that are logged."""

_OVERFLOW = re.compile(
    r"context[ _-]?(length|window|size)|prompt is too long|maximum (input|prompt) length"
    r"|input tokens? (count )?(of \d+ )?exceeds?|too many (input )?tokens|exceed_context",
    re.IGNORECASE,
)
_WINDOW = re.compile(
    r"(?:context (?:length|window|size)|n_ctx)\D{0,12}(\d{3,})|> (\d{3,}) max", re.IGNORECASE
)

_NO_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_OVERFLOW_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_TRANSPORTS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "anyio", "ssl"})

_LIMITED = "The model's provider limits the rate of requests. Try again later."
_QUOTA = "The quota at the model's provider is used up. The operator of this server must renew it."
_SERVER = "The model had an error while it processed the request. You can try again."
_LOST = "The model could not be reached, or the connection broke. You can try again."
_SILENT = "The model did not answer in time. You can try again."
_SETUP = "The model cannot be used as it is set up. The log of this server says why."
_REFUSED = "The model's provider rejected the request as invalid."
_LONG = "The conversation is longer than the context window of the model."


class ModelError(Exception):
    """A model did not answer, or not to the end.

    `code` and the text are what a run's `last_error` shows.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        retryable: bool = False,
        is_overflow: bool = False,
        retry_after: float | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.retryable = retryable
        self.is_overflow = is_overflow
        """Whether the prompt was too long; `window` is the model's limit if it was told."""
        self.retry_after = retry_after
        """Seconds that the provider asked to wait."""
        self.window = window

    def to_object(self) -> Object:
        """Return the `last_error` of the run."""
        return {"code": self.code, "message": self.message}


class ModelNotConfigured(ModelError):
    """No entry of the settings answers to the name, or the entry cannot work as it is."""

    def __init__(self, message: str) -> None:
        super().__init__("server_error", message)


def silence() -> ModelError:
    """Return the failure of a model that stalls."""
    return ModelError("server_error", _SILENT, retryable=True)


def to_model_error(error: Exception, *, model: str) -> ModelError:
    """Return what an exception of any provider means; `model` is the name for the log."""
    if isinstance(error, ModelError):
        return error
    failure = _classify(error)
    logger.warning(
        "model %s failed (%s, status %s, code %s): %s",
        model,
        type(error).__name__,
        _find_status(error),
        _find_code(error),
        str(error)[:_LOGGED],
    )
    return failure


def _classify(error: Exception) -> ModelError:
    status, code, text = _find_status(error), _find_code(error), _text(error)
    if (
        isinstance(error, core.ContextOverflowError)
        or code in _OVERFLOW_CODES
        or (status in (None, 400, 413, 422, 500) and _OVERFLOW.search(text))
    ):
        return ModelError("invalid_prompt", _LONG, is_overflow=True, window=_find_window(text))
    if code in _NO_QUOTA or "insufficient_quota" in text:
        return ModelError("rate_limit_exceeded", _QUOTA)
    if status == 429 or isinstance(error, core.ModelRateLimitError):
        wait = _find_wait(error)
        return ModelError("rate_limit_exceeded", _LIMITED, retryable=True, retry_after=wait)
    if isinstance(error, (core.ModelTimeoutError, TimeoutError)):
        return silence()
    if isinstance(error, (core.ModelConnectionError, ConnectionError)) or _is_transport(error):
        return ModelError("server_error", _LOST, retryable=True)
    if status in (401, 403, 404) or isinstance(
        error,
        (core.ModelAuthenticationError, core.ModelPermissionDeniedError, core.ModelNotFoundError),
    ):
        return ModelError("server_error", _SETUP)
    if status in (408, 409):
        return ModelError("server_error", _SERVER, retryable=True)
    is_bad = status is not None and 400 <= status < 500
    if is_bad or isinstance(error, core.ModelInvalidRequestError):
        return ModelError("invalid_prompt", _REFUSED)
    # An error told inside of a stream has no status; it is the provider's own.
    is_theirs = status is not None or isinstance(error, core.ModelError) or hasattr(error, "body")
    return ModelError("server_error", _SERVER, retryable=is_theirs, retry_after=_find_wait(error))


def rejected() -> ModelError:
    """Return the failure of a request that the provider's package does not even send."""
    return ModelError("invalid_prompt", _REFUSED)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(5):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__


def _find_status(error: Exception) -> int | None:
    for cause in _causes(error):
        for name in ("status_code", "code", "status"):
            value = getattr(cause, name, None)
            if isinstance(value, int) and 100 <= value < 600:
                return value
    return None


def _find_code(error: Exception) -> str | None:
    for cause in _causes(error):
        code = getattr(cause, "code", None)
        if isinstance(code, str):
            return code
        body = getattr(cause, "body", None)
        inner = body.get("error", body) if isinstance(body, dict) else None
        if isinstance(inner, dict):
            for key in ("code", "type"):
                if isinstance(inner.get(key), str):
                    return str(inner[key])
    return None


def _text(error: Exception) -> str:
    return " ".join(str(cause) for cause in _causes(error))


def _find_window(text: str) -> int | None:
    found = _WINDOW.search(text)
    return int(found[1] or found[2]) if found else None


def _find_wait(error: Exception) -> float | None:
    for cause in _causes(error):
        headers = getattr(getattr(cause, "response", None), "headers", None)
        if headers is None:
            continue
        for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
            try:
                return max(0.0, float(headers[name]) / unit)
            except (KeyError, ValueError, TypeError):
                continue
    return None


def _is_transport(error: Exception) -> bool:
    return any(type(cause).__module__.split(".")[0] in _TRANSPORTS for cause in _causes(error))
