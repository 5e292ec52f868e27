"""Records in SQL: sessions, run steps, files, leases, tokens and tickets.

Every method is one transaction. Methods that take a `principal` see only its records; a foreign id
is `NotFoundError`, like an unknown one. Times come from the database's clock, so that several
processes agree on them.
"""
# CONTRACT (to be implemented; the service is written against these signatures)

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal

from ci_tools.models import File, KernelRef, RunStep, Session, StepError


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What the store said to a new or waiting step."""

    step: RunStep          # status QUEUED or IN_PROGRESS (then started_at and epoch are set)
    session: Session       # as it is now: its epoch, kernel and `lost`


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    file: File
    key: str               # in the object store


@dataclass(frozen=True, kw_only=True)
class Token:
    id: str
    principal: str
    created_at: float
    revoked_at: float | None


@dataclass(frozen=True, kw_only=True)
class Ticket:
    principal: str
    session_id: str
    path: str
    action: Literal["upload", "download"]
    expires_at: float


class RecordStore:
    """Records of all principals."""


    # open(url, lease_time=...) -> async context manager; creates/migrates the schema.

    # -- sessions
    async def add_session(self, session: Session, *, limit: int) -> Session: ...
    #   LimitError if the principal has `limit` sessions. created_at/last_used_at set by the db clock.
    async def get_session(self, id: str, *, principal: str) -> Session: ...
    async def list_sessions(self, *, principal: str) -> list[Session]: ...          # last used first
    async def touch_session(self, id: str, *, workspace_bytes: int | None = None) -> None: ...
    async def set_kernel(self, id: str, *, epoch: int, kernel: KernelRef, isolation: str | None = None) -> Session: ...
    #   compare-and-set: only if the stored epoch is epoch-1; clears `lost`; else returns what is stored
    async def drop_kernel(self, id: str, *, epoch: int, lost: str) -> bool: ...
    #   kernel=NULL, lost=reason; only if the stored epoch is `epoch` and kernel is not NULL
    async def delete_session(self, id: str, *, principal: str) -> list[str]: ...
    #   deletes session, steps, files, tickets; returns the object-store keys that are now garbage
    async def list_idle_kernels(self, *, idle: float, limit: int = 100) -> list[Session]: ...
    #   sessions with a kernel, last_used_at older than idle seconds and no queued/in_progress step
    async def list_expired_sessions(self, *, retention: float, lifetime: float | None, limit: int = 100) -> list[Session]: ...
    #   no queued/in_progress steps

    # -- run steps
    async def admit_step(self, step: RunStep, *, lease: str, limit: int) -> Admission: ...
    #   ONE hot-path transaction. Inserts the step, IN_PROGRESS if no earlier step of the session is
    #   queued or in progress, else QUEUED. LimitError if the principal has `limit` unfinished steps.
    #   NotFoundError if the session is gone/foreign. Touches session.last_used_at.
    async def claim_step(self, id: str, *, lease: str) -> Admission: ...
    #   turns a QUEUED step IN_PROGRESS if it is the oldest unfinished one of its session
    async def finish_step(self, step: RunStep, *, lease: str | None) -> RunStep: ...
    #   ONE hot-path transaction: final status, outputs (JSON), files, error, ..., finished_at by db clock;
    #   touches the session. Does nothing (returns the stored step) if the step is final already or
    #   its lease is another's. If the step was deleted meanwhile: NotFoundError.
    async def requested_cancels(self, *, lease: str) -> list[str]: ...
    async def request_cancel(self, id: str, *, principal: str) -> RunStep: ...
    async def get_step(self, id: str, *, principal: str) -> RunStep: ...
    async def list_steps(self, session_id: str, *, principal: str, limit: int, before: str | None = None, with_outputs: bool = True) -> list[RunStep]: ...
    #   newest first; `before` is a step id

    # -- leases
    async def take_lease(self, id: str, *, seconds: float) -> None: ...      # insert or renew
    async def release_lease(self, id: str) -> None: ...
    async def list_orphaned_steps(self, *, limit: int = 100) -> list[RunStep]: ...
    #   unfinished steps whose lease has run out or is gone
    async def adopt_step(self, id: str, *, lease: str) -> bool: ...
    #   take over an orphaned step (compare-and-set), so that only one process settles it

    # -- files (uploads whose bytes are in the object store)
    async def put_file(self, file: File, *, key: str, limit: int) -> str | None: ...
    #   insert; replaces a file of the same session and path (returns the replaced key).
    #   LimitError if the principal's bytes (files + full texts + workspace_bytes) would pass `limit`.
    async def find_file(self, session_id: str, path: str, *, principal: str) -> StoredFile | None: ...
    async def get_file(self, id: str, *, principal: str) -> StoredFile: ...
    async def list_stored_files(self, session_id: str, *, principal: str) -> list[StoredFile]: ...
    async def delete_file(self, id: str, *, principal: str) -> str: ...      # returns the key
    async def stored_bytes(self, *, principal: str) -> int: ...

    # -- tokens, tickets, principals
    async def add_token(self, token: Token, *, digest: str) -> None: ...
    async def find_token(self, *, digest: str) -> Token | None: ...          # None if revoked
    async def list_tokens(self) -> list[Token]: ...
    async def revoke_token(self, id: str) -> None: ...                       # NotFoundError
    async def add_ticket(self, ticket: Ticket, *, digest: str) -> None: ...
    async def take_ticket(self, *, digest: str, action: str) -> Ticket | None: ...   # single use for uploads; None if expired/used
    async def erase_principal(self, principal: str) -> list[str]: ...        # everything; returns garbage keys
    async def ping(self) -> None: ...                                        # for /readyz
