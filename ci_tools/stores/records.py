"""Records in SQL: sessions, run steps, files, leases, tokens and tickets.

Every method is one transaction. Methods that take a `principal` see only its records; a foreign id
is `NotFoundError`, like an unknown one. Times come from the database's clock, so that several
processes agree on them. When a database or the object store fails, `StoreError` is raised.

The outputs of a step are a JSON text in its row; a large one is an object of the object store
instead, which is written before its row and deleted with it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial

import anyio
import anyio.lowlevel
from sqlalchemy import Connection, literal, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ci_tools.errors import ConfigurationError, NotFoundError
from ci_tools.extras import install_command
from ci_tools.models import File, KernelRef, RunStep, Session
from ci_tools.settings import Settings
from ci_tools.stores import access, files, loose, placements, sessions, steps
from ci_tools.stores.blobs import BlobStore
from ci_tools.stores.codec import outputs_from_text, outputs_to_text
from ci_tools.stores.database import Database
from ci_tools.stores.journal import ObjectJournal
from ci_tools.stores.migrate import prepare
from ci_tools.stores.nouns import Admission, Load, Placement, StoredFile, Ticket, Token
from ci_tools.stores.sqlite import open_sqlite

__all__ = [
    "Admission",
    "Load",
    "Placement",
    "RecordStore",
    "StoredFile",
    "Ticket",
    "Token",
    "open_records",
]

OUTPUTS_IN_ROW = 256_000
"""Bytes of outputs that are kept in a step's row; larger ones go to the object store."""

_QUICK_OUTPUTS = 32_000
"""Bytes of outputs that are written in no time, so that no thread is worth its cost."""

_CLEAN_UP = 5.0
"""Seconds to delete outputs whose row could not be written."""


class RecordStore:
    """Records of all principals."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._has_journal = False

    @property
    def database(self) -> Database:
        """The database, in which an adapter may keep tables of its own."""
        return self._database

    async def ping(self) -> None:
        """Raise `StoreError` if the database does not answer."""
        await self._database.read(_ping)

    # Sessions

    async def add_session(
        self, session: Session, *, limit: int, environment: Mapping[str, str] | None = None
    ) -> Session:
        """Store a new session and its variables' values; its times are set here.

        Raises:
            LimitError: The principal has `limit` sessions.
        """
        return await self._database.write(
            partial(sessions.add_session, session=session, limit=limit, environment=environment)
        )

    async def get_environment(self, session_id: str) -> dict[str, str]:
        """Return the variables of a session with their values, which no record shows."""
        return await self._database.read(partial(sessions.get_environment, id=session_id))

    async def find_or_add_session(self, session: Session, *, limit: int) -> Session:
        """Return the principal's oldest session of the same name, or store this one."""
        return await self._database.write(
            partial(sessions.find_or_add_session, session=session, limit=limit)
        )

    async def get_session(self, id: str, *, principal: str) -> Session:
        """Return a session."""
        _check_id("session", id)
        return await self._database.read(partial(sessions.get_session, id=id, principal=principal))

    async def list_sessions(self, *, principal: str) -> list[Session]:
        """Return the principal's sessions, last used first."""
        return await self._database.read(partial(sessions.list_sessions, principal=principal))

    async def touch_session(self, id: str, *, workspace_bytes: int | None = None) -> None:
        """Note that a session was used now; nothing happens if it is gone."""
        await self._database.write(
            partial(sessions.touch_session, id=id, workspace_bytes=workspace_bytes)
        )

    async def set_kernel(
        self, id: str, *, epoch: int, kernel: KernelRef, isolation: str | None = None
    ) -> Session:
        """Make `kernel` the session's, if the epoch before is the stored one.

        Otherwise somebody was first: nothing changes, and what they stored is returned.
        """
        return await self._database.write(
            partial(sessions.set_kernel, id=id, epoch=epoch, kernel=kernel, isolation=isolation)
        )

    async def drop_kernel(
        self, id: str, *, epoch: int, lost: str, idle: float | None = None
    ) -> bool:
        """Forget the kernel of that epoch and keep why; False if it was not the session's.

        With `idle`, also False if a step waits, runs, or ran in the last so many seconds.
        """
        return await self._database.write(
            partial(sessions.drop_kernel, id=id, epoch=epoch, lost=lost, idle=idle)
        )

    async def delete_session(self, id: str, *, principal: str) -> list[str]:
        """Delete a session with all of it; return the object-store keys that are garbage now.

        The steps of a large one go first, a few at a time: others get their turns meanwhile.
        """
        _check_id("session", id)
        keys: list[str] = []
        trim = partial(sessions.trim_session, id=id, principal=principal)
        while (trimmed := await self._database.write(trim, bulk=True)) is not None:
            keys += trimmed
            await anyio.lowlevel.checkpoint()
        delete = partial(sessions.delete_session, id=id, principal=principal)
        return keys + await self._database.write(delete, bulk=True)

    async def list_idle_kernels(self, *, idle: float, limit: int = 100) -> list[Session]:
        """Return sessions with a kernel that no step has used for `idle` seconds."""
        return await self._database.read(
            partial(sessions.list_idle_kernels, idle=idle, limit=limit), bulk=True
        )

    async def list_expired_sessions(
        self, *, retention: float, lifetime: float | None, limit: int = 100
    ) -> list[Session]:
        """Return sessions without unfinished steps that are to be deleted.

        They were not used for `retention` seconds or are older than `lifetime` seconds.
        """
        return await self._database.read(
            partial(
                sessions.list_expired_sessions, retention=retention, lifetime=lifetime, limit=limit
            ),
            bulk=True,
        )

    # Run steps

    async def admit_step(self, step: RunStep, *, lease: str, limit: int) -> Admission:
        """Store a new step: in progress if no earlier one of its session is unfinished, or queued.

        Raises:
            LimitError: The principal has `limit` unfinished steps.
            NotFoundError: The session is gone.
        """
        _check_id("session", step.session_id)
        return await self._database.write(
            partial(steps.admit_step, step=step, lease=lease, limit=limit)
        )

    async def claim_step(self, id: str, *, lease: str) -> Admission:
        """Turn a queued step in progress if it is the oldest unfinished one of its session."""
        return await self._database.write(partial(steps.claim_step, id=id, lease=lease))

    async def finish_step(
        self,
        step: RunStep,
        *,
        lease: str | None,
        workspace_bytes: int | None = None,
        told: int | None = None,
    ) -> RunStep:
        """Store a step's final record and return it; `finished_at` is set here.

        If it is final already, or under another lease (None: any lease will do), nothing changes
        and the stored step is returned. `workspace_bytes`, if given, is noted with the session.
        `told` is the step's epoch, if the step says what became of the kernel before.

        Raises:
            NotFoundError: The step was deleted meanwhile.
        """
        outputs = await self._encode(step)
        work = partial(
            steps.finish_step,
            step=step,
            outputs=outputs,
            lease=lease,
            workspace_bytes=workspace_bytes,
            told=told,
        )
        finished = None
        try:
            finished = await self._database.write(work, bulk=outputs.size > _QUICK_OUTPUTS)
        finally:
            if finished is None and outputs.key is not None:
                with anyio.move_on_after(_CLEAN_UP, shield=True):
                    await self._blobs.delete([outputs.key])
        if finished is not None:
            return finished
        return await self.get_step(step.id, principal=step.principal)

    async def requested_cancels(self, *, lease: str) -> list[str]:
        """Return the ids of this lease's unfinished steps that are to be cancelled."""
        return await self._database.read(partial(steps.requested_cancels, lease=lease))

    async def request_cancel(self, id: str, *, principal: str) -> RunStep:
        """Ask whoever runs a step to cancel it; return the step."""
        _check_id("run step", id)
        loaded = await self._database.write(
            partial(steps.request_cancel, id=id, principal=principal)
        )
        return await self._complete(loaded)

    async def get_step(self, id: str, *, principal: str) -> RunStep:
        """Return a step with its outputs."""
        _check_id("run step", id)
        loaded = await self._database.read(partial(steps.get_step, id=id, principal=principal))
        return await self._complete(loaded)

    async def list_steps(
        self,
        session_id: str,
        *,
        principal: str,
        limit: int,
        before: str | None = None,
        with_outputs: bool = True,
    ) -> list[RunStep]:
        """Return a session's steps, newest first; `before` is the id of a step.

        Without outputs they are much cheaper to read.
        """
        _check_id("session", session_id)
        if before is not None:
            _check_id("run step", before)
        found = await self._database.read(
            partial(
                steps.list_steps,
                session_id=session_id,
                principal=principal,
                limit=limit,
                before=before,
                with_outputs=with_outputs,
            ),
            bulk=with_outputs,
        )
        if not with_outputs:
            return [loaded.step for loaded in found]
        return [await self._complete(loaded) for loaded in found]

    async def list_unfinished_steps(self, session_id: str, *, principal: str) -> list[RunStep]:
        """Return a session's steps that wait or run, oldest first, without outputs."""
        found = await self._database.read(
            partial(steps.list_unfinished_steps, session_id=session_id, principal=principal)
        )
        return [loaded.step for loaded in found]

    async def _encode(self, step: RunStep) -> steps.EncodedOutputs:
        """Turn the outputs into text, and put the text where its size says."""
        if not step.outputs:
            return steps.EncodedOutputs(text=None, key=None, size=0)
        text = outputs_to_text(step.outputs)
        if len(text) <= OUTPUTS_IN_ROW:
            return steps.EncodedOutputs(text=text, key=None, size=len(text))
        key = await self._blobs.put_bytes(text.encode("ascii"), principal=step.principal)
        return steps.EncodedOutputs(text=None, key=key, size=len(text))

    async def _complete(self, loaded: steps.LoadedStep) -> RunStep:
        if loaded.outputs_key is None:
            return loaded.step
        text = await self._blobs.get_bytes(loaded.outputs_key)
        return replace(loaded.step, outputs=outputs_from_text(text.decode("ascii")))

    # Leases

    async def take_lease(self, id: str, *, seconds: float) -> None:
        """Take or renew a lease for so many seconds from now."""
        await self._database.write(partial(steps.take_lease, id=id, seconds=seconds))

    async def release_lease(self, id: str) -> None:
        """Give up a lease; unfinished steps under it become orphans."""
        await self._database.write(partial(steps.release_lease, id=id))

    async def list_orphaned_steps(self, *, limit: int = 100) -> list[RunStep]:
        """Return unfinished steps whose lease has run out or is gone, oldest first."""
        found = await self._database.read(partial(steps.list_orphaned_steps, limit=limit))
        return [loaded.step for loaded in found]

    async def adopt_step(self, id: str, *, lease: str) -> bool:
        """Take over an orphaned step; True for only one of those who try."""
        return await self._database.write(partial(steps.adopt_step, id=id, lease=lease))

    # Files

    async def put_file(
        self, file: File, *, key: str, limit: int, modified_at: float | None = None
    ) -> tuple[File, str | None]:
        """Store a file's record; `modified_at` of it is set here.

        Also returns the key of the file of the same session and path that it replaces, if any. In
        a session its path gets its id; `modified_at` is that of the copy in the session's folder.

        Raises:
            LimitError: The principal would keep more than `limit` bytes: of files, of what steps
                have in the object store, and of workspaces.
        """
        return await self._database.write(
            partial(
                files.put_file,
                file=file,
                key=key,
                limit=limit,
                modified_at=modified_at,
                is_announced=self._has_journal,
            )
        )

    async def keep_file(
        self, file: File, *, session_id: str, key: str, limit: int, modified_at: float | None
    ) -> tuple[File, str | None]:
        """Store a copy of a session's file that outlives the session; its path gets the id.

        Also returns the new key as garbage if the same bytes were kept already under the id.

        Raises:
            LimitError: As for `put_file`.
        """
        return await self._database.write(
            partial(
                files.keep_file,
                file=file,
                session_id=session_id,
                key=key,
                limit=limit,
                modified_at=modified_at,
                is_announced=self._has_journal,
            )
        )

    async def release_file(self, id: str, *, principal: str) -> File:
        """Let a session's upload outlive the session."""
        return await self._database.write(partial(files.release_file, id=id, principal=principal))

    async def check_room(self, file: File, *, limit: int) -> None:
        """Tell beforehand whether `put_file` would take a file.

        Raises:
            LimitError: It would not.
        """
        await self._database.read(partial(files.check_room, file=file, limit=limit))

    async def get_file(self, id: str, *, principal: str) -> StoredFile:
        """Return a file."""
        _check_id("file", id)
        return await self._database.read(partial(files.get_file, id=id, principal=principal))

    async def delete_file(self, id: str, *, principal: str) -> str:
        """Delete a file's record, and its id wherever a path has it; return its key."""
        _check_id("file", id)
        return await self._database.write(partial(files.delete_file, id=id, principal=principal))

    async def place_file(self, placement: Placement, *, principal: str) -> str | None:
        """Give a path of a session a file's id; return the key of an upload that it replaces."""
        return await self._database.write(
            partial(placements.place_file, placement=placement, principal=principal)
        )

    async def name_file(self, placement: Placement, *, principal: str, instead: str | None) -> str:
        """Give a path an id instead of another one or of none; return the id that it has then.

        That is another one if somebody was first.
        """
        return await self._database.write(
            partial(placements.name_file, placement=placement, principal=principal, instead=instead)
        )

    async def find_placement(
        self, session_id: str, path: str, *, principal: str
    ) -> Placement | None:
        """Return under which id a (checked) path of a session is known, if under any."""
        _check_id("session", session_id)
        return await self._database.read(
            partial(
                placements.find_placement, session_id=session_id, path=path, principal=principal
            )
        )

    async def list_placements(
        self, session_id: str, *, principal: str, file_id: str | None = None
    ) -> list[Placement]:
        """Return under which ids a session's paths are known, or those of one id, by path."""
        _check_id("session", session_id)
        if file_id is not None:
            _check_id("file", file_id)
        return await self._database.read(
            partial(
                placements.list_placements,
                session_id=session_id,
                principal=principal,
                file_id=file_id,
            )
        )

    async def remove_path(self, session_id: str, path: str, *, principal: str) -> str | None:
        """Forget a path's id and the upload kept for it alone; return the key of that, if any."""
        _check_id("session", session_id)
        return await self._database.write(
            partial(placements.remove_path, session_id=session_id, path=path, principal=principal)
        )

    async def stored_bytes(self, *, principal: str) -> int:
        """Count the bytes that `put_file` limits."""
        return await self._database.read(partial(files.stored_bytes, principal=principal))

    async def measure_load(self) -> Load:
        """Count what is kept for all principals; for operators."""
        return await self._database.read(files.measure_load)

    # Objects that no record names

    def keep_journal(self, lease: str) -> None:
        """Note, as the process with that lease, which objects are being written."""
        self._blobs.journal = ObjectJournal(self._database, lease)
        self._has_journal = True

    async def claim_garbage(self, *, age: float) -> list[str]:
        """Return keys that were noted `age` seconds ago and that no living process writes under.

        None of them can get a record from then on.
        """
        return await self._database.write(partial(loose.claim_garbage, age=age))

    # Tokens, tickets and principals

    async def add_token(self, token: Token, *, digest: str) -> Token:
        """Store a token under the digest of its secret; `created_at` is set here."""
        return await self._database.write(partial(access.add_token, token=token, digest=digest))

    async def find_token(self, *, digest: str) -> Token | None:
        """Return the token with that digest; None if there is none or it is revoked."""
        return await self._database.read(partial(access.find_token, digest=digest))

    async def list_tokens(self) -> list[Token]:
        """Return every token, oldest first, the revoked ones too."""
        return await self._database.read(access.list_tokens)

    async def revoke_token(self, id: str) -> None:
        """Make a token useless from now on.

        Raises:
            NotFoundError: There is no such token.
        """
        _check_id("token", id)
        await self._database.write(partial(access.revoke_token, id=id))

    async def add_ticket(self, ticket: Ticket, *, digest: str, seconds: float) -> Ticket:
        """Store a ticket under the digest of its secret; it expires `seconds` from now."""
        return await self._database.write(
            partial(access.add_ticket, ticket=ticket, digest=digest, seconds=seconds)
        )

    async def take_ticket(self, *, digest: str, action: str) -> Ticket | None:
        """Return a valid ticket for that action; one for an upload works only once."""
        return await self._database.write(partial(access.take_ticket, digest=digest, action=action))

    async def erase_principal(self, principal: str) -> list[str]:
        """Delete everything of a principal; return the object-store keys that are garbage now.

        In SQLite nothing of it is left on the disk; a PostgreSQL server vacuums in its own time.
        """
        keys = await self._database.write(
            partial(access.erase_principal, principal=principal), bulk=True
        )
        await self._database.forget_deleted()
        return keys


def open_records(settings: Settings, blobs: BlobStore) -> AbstractAsyncContextManager[RecordStore]:
    """Open the database that the settings name; by default a SQLite file in the state directory.

    Raises:
        ConfigurationError: The database cannot be used, or a newer release has written it.
    """
    if settings.database_url is not None:
        return open_records_at(settings.database_url.get_secret_value(), blobs)
    path = settings.state_dir / "records.db"
    return open_records_at(URL.create("sqlite", database=str(path)), blobs)


@asynccontextmanager
async def open_records_at(url: str | URL, blobs: BlobStore) -> AsyncIterator[RecordStore]:
    """Open the database at `sqlite:///path` or `postgresql://user:password@host/name`."""
    async with _open_database(url) as database:
        await prepare(database)
        yield RecordStore(database, blobs)


def _open_database(url: str | URL) -> AbstractAsyncContextManager[Database]:
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ConfigurationError("database_url: it is not a URL.") from exc
    match parsed.get_backend_name():
        case "sqlite":
            return open_sqlite(parsed)
        case "postgresql" | "postgres":
            # Who keeps records in a SQLite file need not wait for SQLAlchemy's asyncio side.
            try:
                from ci_tools.stores.postgresql import open_postgresql
            except ImportError as exc:
                raise ConfigurationError(
                    f"PostgreSQL needs asyncpg: {install_command('postgres')}."
                ) from exc
            return open_postgresql(parsed)
        case name:
            raise ConfigurationError(f"database_url: {name!r} is not one of sqlite and postgresql.")


def _ping(conn: Connection) -> None:
    conn.execute(select(literal(1)))


def _check_id(kind: str, id: str) -> None:
    """Refuse what cannot be an id before a driver chokes on it (NUL, lone surrogates)."""
    if not (id.isascii() and id.isprintable()):
        raise NotFoundError(kind, id)
