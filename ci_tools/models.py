"""The nouns of the core: sessions, run steps, outputs, files and the events of a running step.

All of them are frozen values. Times are Unix seconds (float), sizes are bytes, ids are a prefix
and letters and digits (`sess_…`, `step_…`, `file-…`) with at least 128 random bits.
"""

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"

LOCAL = "local"
"""The principal of stdio, of the in-process service and of the token printed at first start."""

_ALPHABET = string.ascii_letters + string.digits
_RANDOM_CHARACTERS = 24
"""Letters and digits after an id's prefix; 24 of 62 symbols are 142 bits."""


def new_id(prefix: str) -> str:
    """Return `prefix` and 24 random letters and digits."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))


class StepStatus(StrEnum):
    """Where a run step is; the last four are final."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether the step can no longer change."""
        return self not in (StepStatus.QUEUED, StepStatus.IN_PROGRESS)


StepErrorCode: TypeAlias = Literal[
    "code_error",
    "timeout",
    "cancelled",
    "kernel_died",
    "server_lost",
    "output_limit",
    "result_unknown",
    "service_died",
    "start_failed",
    "internal_error",
]
"""Why a step did not complete.

code_error: the code raised. timeout: it ran past its limit. cancelled: somebody cancelled it.
kernel_died: the kernel's process ended. server_lost: the Jupyter Server could not be reached again.
output_limit: it printed more than is kept. result_unknown: the kernel lives but its reply is lost.
service_died: the service process that ran it ended. start_failed: no kernel could be had for it.
internal_error: the service itself failed, see its log.
"""


@dataclass(frozen=True, kw_only=True)
class StepError:
    """Why a step did not complete, for programs (`code`) and people (`message`)."""

    code: StepErrorCode
    message: str


@dataclass(frozen=True, kw_only=True)
class StreamOutput:
    """Text written to stdout or stderr, as written (carriage returns and terminal codes kept)."""

    name: Literal["stdout", "stderr"]
    text: str
    omitted: int = 0
    """Characters cut out of `text`, where it says so; the step's full text has them."""


@dataclass(frozen=True, kw_only=True)
class DisplayOutput:
    """A result or a display: a MIME bundle as in the Jupyter messaging protocol.

    `data` maps media types to text (for binary types: base64) or, for JSON types, to JSON values.
    https://jupyter-client.readthedocs.io/en/stable/messaging.html#display-data
    """

    kind: Literal["result", "display"]
    data: Mapping[str, Json]
    metadata: Mapping[str, Json] = field(default_factory=dict)
    display_id: str | None = None
    execution_count: int | None = None


@dataclass(frozen=True, kw_only=True)
class ErrorOutput:
    """An exception that the code did not catch; `traceback` may hold terminal colour codes."""

    name: str
    message: str
    traceback: str


Output: TypeAlias = StreamOutput | DisplayOutput | ErrorOutput


@dataclass(frozen=True, kw_only=True)
class ChangedFile:
    """A file that a step created, changed, or deleted (then `size` and `sha256` are None)."""

    path: str
    """Relative to /mnt/data, with forward slashes."""

    size: int | None
    sha256: str | None
    """None also for what is too large to be hashed after every step (2 GiB in all)."""

    change: Literal["created", "changed", "deleted"]


@dataclass(frozen=True, kw_only=True)
class FullText:
    """The whole text of a step whose `outputs` were cut, kept as a file of the step."""

    key: str
    """Where the bytes are in the object store."""

    size: int


@dataclass(frozen=True, kw_only=True)
class RunStep:
    """One piece of code run in a session: what was asked, what came back, how it ended.

    `notices` are sentences for the reader: a restarted kernel, cut output, lost output.
    """

    id: str
    session_id: str
    principal: str
    code: str
    status: StepStatus
    epoch: int
    """Which kernel of the session ran it, counted from 1; 0 while no kernel has."""

    timeout: float
    """Seconds that the code may run."""

    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    outputs: tuple[Output, ...] = ()
    files: tuple[ChangedFile, ...] = ()
    error: StepError | None = None
    notices: tuple[str, ...] = ()
    execution_count: int | None = None
    full_text: FullText | None = None
    truncated: bool = False
    """Whether something was cut from `outputs` or lost; `notices` say what."""

    replays: str | None = None
    """The id of the step that a replay ran again as this one."""

    @property
    def duration(self) -> float | None:
        """Seconds between start and end; None until both are known."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


@dataclass(frozen=True, kw_only=True)
class KernelRef:
    """What a service process needs to find a live kernel again."""

    server: str
    """The profile of the Jupyter Server, or the embedded server's own id."""

    kernel_id: str
    channel_id: str
    """The WebSocket `session_id`: a connection that presents it again gets what it missed."""

    kernelspec: str
    language: str


@dataclass(frozen=True, kw_only=True)
class Session:
    """A stateful kernel with a /mnt/data folder and a history of run steps.

    The id outlives the kernel: while `kernel` is None the next step starts one, and `epoch` rises.
    """

    id: str
    principal: str
    name: str | None
    server: str
    """The profile of the Jupyter Server it runs on (`embedded` by default)."""

    kernelspec: str
    isolation: str
    """What separates its code from this machine: `none`, or the sandbox in force."""

    created_at: float
    last_used_at: float
    epoch: int = 0
    kernel: KernelRef | None = None
    lost: str | None = None
    """Why the last kernel is gone, until a step has said so; None when there is nothing to say."""

    workspace_bytes: int = 0
    """Bytes in /mnt/data when last looked at."""

    network: str | None = None
    """What its code reaches: `none`, `allowlist`, `on`, or `remote` for what its server does; None
    for what is usual here."""

    environment: tuple[str, ...] = ()
    """The names of the variables that were set for it; their values are in no record."""


@dataclass(frozen=True, kw_only=True)
class Restarted:
    """What a restart did: the session, and the steps that were run again."""

    session: Session
    replayed: tuple[RunStep, ...] = ()


@dataclass(frozen=True, kw_only=True)
class File:
    """A file in a session's /mnt/data, or an upload that is in no session yet.

    `id` is set for uploads, whose bytes the service keeps; files that code wrote have only a path.
    """

    id: str | None
    principal: str
    session_id: str | None
    path: str
    """Relative to /mnt/data, with forward slashes."""

    size: int
    sha256: str | None
    media_type: str
    modified_at: float


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """A kind of kernel that a Jupyter Server offers."""

    name: str
    display_name: str
    language: str


CommandRoute: TypeAlias = Literal["sandbox", "process", "second_kernel"]
"""Which way a shell command went.

sandbox: in the sandbox of the session's kernel. process: a child process of the service, where
nothing separates code from this machine. second_kernel: a kernel of its own in the session's
folder, on a server that offers no other way.
"""


@dataclass(frozen=True, kw_only=True)
class CommandOutput:
    """A piece of what a shell command wrote."""

    name: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, kw_only=True)
class CommandDone:
    """How a shell command ended: the last event."""

    exit_status: int
    """Negative for a signal."""

    timed_out: bool
    truncated: bool
    """Whether output past the limit, or on the way, was dropped."""

    via: CommandRoute


CommandEvent: TypeAlias = CommandOutput | CommandDone


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """All that a shell command wrote, and how it ended."""

    stdout: str
    stderr: str
    exit_status: int
    """Negative for a signal."""

    timed_out: bool
    truncated: bool
    """Whether output past the limit, or on the way, was dropped."""

    via: CommandRoute


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A variable of a session's kernel."""

    name: str
    type: str
    detail: str
    """Its shape or length and its size, or a number itself; may be empty."""


@dataclass(frozen=True, kw_only=True)
class StepQueued:
    """The step waits for earlier steps of its session."""

    step: RunStep


@dataclass(frozen=True, kw_only=True)
class StepStarted:
    """The kernel has the code; `step.notices` say whether it is a new kernel."""

    step: RunStep


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """The next piece of output, as it came (stream text is the new text only)."""

    output: Output


@dataclass(frozen=True, kw_only=True)
class StepDisplayUpdated:
    """An earlier display with this id has new content."""

    display_id: str
    data: Mapping[str, Json]
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepOutputCleared:
    """All output so far is to be removed: at once, or (`wait`) when the next output comes."""

    wait: bool


@dataclass(frozen=True, kw_only=True)
class StepFinished:
    """The step is final and stored."""

    step: RunStep


StepEvent: TypeAlias = (
    StepQueued | StepStarted | StepOutput | StepDisplayUpdated | StepOutputCleared | StepFinished
)
