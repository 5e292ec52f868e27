"""Every error of the core.

    CIToolsError
    ├── NotFoundError (LookupError)      not_found: unknown, foreign and expired ids look alike
    ├── InvalidPathError (ValueError)    invalid_path: a file name that is refused
    ├── InvalidArgumentError (ValueError)  invalid_argument: a call that cannot work as it is
    ├── LimitError                       limit_exceeded: a cap of the principal or of the service
    │   └── FileTooLargeError            file_too_large
    ├── ConfigurationError (ValueError)  configuration: a setting that cannot work
    ├── ServiceClosedError               service_closed
    ├── StoreError                       store_error: the database or the object store failed
    └── BackendError                     backend_error: the place where code runs failed
        ├── ServerUnavailableError (ConnectionError)  server_unavailable
        ├── ServerDeniedError (PermissionError)       server_denied
        ├── KernelStartError             kernel_start_failed
        ├── KernelLostError              kernel_lost: that kernel does not exist any more
        └── KernelDiedError              kernel_died: it ended while it was in use

Code that raises is no error of ours: it is an `ErrorOutput` in a failed step.
A message says what happened, to which thing, and what to do; it holds no code, output or secret.
"""


class CIToolsError(Exception):
    """Base of every error of ours; `code` is stable and goes over the wire."""

    code = "error"


class NotFoundError(CIToolsError, LookupError):
    """No such record for this principal: unknown, foreign and expired ids look alike."""

    code = "not_found"

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"No {kind} {id[:200]!r}: it does not exist or has expired.")
        self.kind = kind
        self.id = id


class InvalidPathError(CIToolsError, ValueError):
    """A file name that cannot be used in a session."""

    code = "invalid_path"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"The file name {path[:200]!r} is refused: {reason}.")
        self.path = path


class InvalidArgumentError(CIToolsError, ValueError):
    """An argument of a call that cannot work; the message names it and what would."""

    code = "invalid_argument"


class LimitError(CIToolsError):
    """A cap would be passed; the message names it and what to do."""

    code = "limit_exceeded"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which trying again makes sense; None if waiting does not help."""


class FileTooLargeError(LimitError):
    """A file is larger than the service takes."""

    code = "file_too_large"

    def __init__(self, path: str, limit: int) -> None:
        super().__init__(f"The file {path[:200]!r} is larger than the limit of {limit} bytes.")
        self.path = path
        self.limit = limit


class ConfigurationError(CIToolsError, ValueError):
    """A setting that cannot work, named with its fix."""

    code = "configuration"


class ServiceClosedError(CIToolsError):
    """The service is closing and takes no more work."""

    code = "service_closed"

    def __init__(self) -> None:
        super().__init__("The session service is closed.")


class StoreError(CIToolsError):
    """The database or the object store failed; nothing of the call was stored."""

    code = "store_error"


class BackendError(CIToolsError):
    """The place where code runs failed."""

    code = "backend_error"


class ServerUnavailableError(BackendError, ConnectionError):
    """A Jupyter Server cannot be reached or does not answer sensibly."""

    code = "server_unavailable"


class ServerDeniedError(BackendError, PermissionError):
    """A Jupyter Server refused the token it was given."""

    code = "server_denied"


class KernelStartError(BackendError):
    """A kernel could not be started."""

    code = "kernel_start_failed"


class KernelLostError(BackendError):
    """The kernel that was asked for does not exist any more."""

    code = "kernel_lost"


class KernelDiedError(BackendError):
    """The kernel ended while it was in use."""

    code = "kernel_died"
