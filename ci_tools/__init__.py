"""Stateful code execution for agents: sessions, run steps and files on Jupyter kernels.

"ci" is *code interpreter*. Start with `open_service`; the nouns are in `ci_tools.models`.
"""

import importlib
import typing

from ci_tools.errors import (
    BackendError,
    CIToolsError,
    ConfigurationError,
    FileTooLargeError,
    InvalidArgumentError,
    InvalidPathError,
    KernelDiedError,
    KernelLostError,
    KernelStartError,
    LimitError,
    NotFoundError,
    ServerDeniedError,
    ServerUnavailableError,
    ServiceClosedError,
    StoreError,
)
from ci_tools.models import (
    LOCAL,
    ChangedFile,
    CommandDone,
    CommandEvent,
    CommandOutput,
    CommandResult,
    DisplayOutput,
    ErrorOutput,
    File,
    FullText,
    Json,
    KernelRef,
    KernelSpec,
    Output,
    Restarted,
    RunStep,
    Session,
    StepDisplayUpdated,
    StepError,
    StepErrorCode,
    StepEvent,
    StepFinished,
    StepOutput,
    StepOutputCleared,
    StepQueued,
    StepStarted,
    StepStatus,
    StreamOutput,
    Variable,
)
from ci_tools.render import Image, Rendered, render_step

if typing.TYPE_CHECKING:
    from ci_tools.runtime import open_service
    from ci_tools.service import SessionService
    from ci_tools.settings import JupyterServerProfile, Settings
    from ci_tools.uploads import Uploads

__all__ = [
    "LOCAL",
    "BackendError",
    "CIToolsError",
    "ChangedFile",
    "CommandDone",
    "CommandEvent",
    "CommandOutput",
    "CommandResult",
    "ConfigurationError",
    "DisplayOutput",
    "ErrorOutput",
    "File",
    "FileTooLargeError",
    "FullText",
    "Image",
    "InvalidArgumentError",
    "InvalidPathError",
    "Json",
    "JupyterServerProfile",
    "KernelDiedError",
    "KernelLostError",
    "KernelRef",
    "KernelSpec",
    "KernelStartError",
    "LimitError",
    "NotFoundError",
    "Output",
    "Rendered",
    "Restarted",
    "RunStep",
    "ServerDeniedError",
    "ServerUnavailableError",
    "ServiceClosedError",
    "Session",
    "SessionService",
    "Settings",
    "StepDisplayUpdated",
    "StepError",
    "StepErrorCode",
    "StepEvent",
    "StepFinished",
    "StepOutput",
    "StepOutputCleared",
    "StepQueued",
    "StepStarted",
    "StepStatus",
    "StoreError",
    "StreamOutput",
    "Uploads",
    "Variable",
    "open_service",
    "render_step",
]

_LATE = {
    "JupyterServerProfile": "ci_tools.settings",
    "SessionService": "ci_tools.service",
    "Settings": "ci_tools.settings",
    "Uploads": "ci_tools.uploads",
    "open_service": "ci_tools.runtime",
}
"""Names that load when they are used: clients and tools need the nouns and errors only."""


def __getattr__(name: str) -> typing.Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
