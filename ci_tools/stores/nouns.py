"""What the record store knows beyond the nouns of `ci_tools.models`."""

from dataclasses import dataclass
from typing import Literal

from ci_tools.models import File, RunStep, Session


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What the store said to a new or waiting step."""

    step: RunStep
    """Queued, or in progress: then `started_at` and `epoch` are set."""

    session: Session
    """As it is now: its epoch, kernel and `lost`."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file whose bytes are in the object store."""

    file: File
    key: str
    """Where the bytes are in the object store."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The file id under which a path of a session's folder is known."""

    session_id: str
    path: str
    file_id: str
    size: int | None = None
    """Of the bytes that the id stands for; None: it stands for whatever is there."""

    sha256: str | None = None
    modified_at: float | None = None
    """When the file was written, if a look at the folder can tell that it still is the same."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is kept for all principals together."""

    sessions: int
    kernels: int
    """Sessions that have a kernel, wherever it runs."""

    stored_bytes: int
    """Bytes of files, of texts and outputs of steps, and of workspaces."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A bearer token, whose secret only its holder knows."""

    id: str
    principal: str
    created_at: float
    revoked_at: float | None


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Leave to move one file over HTTP for a short time."""

    principal: str
    session_id: str
    path: str
    action: Literal["upload", "download"]
    expires_at: float
