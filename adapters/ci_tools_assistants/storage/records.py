"""The API's objects in the core's database.

Every method is one transaction. A foreign id is `NoSuchObject`, like an unknown one. Objects are
those of `objects.py`; what belongs to one and is never shown (the session of a thread, the bytes
of a file) is its private part, another JSON object.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio
from sqlalchemy import Connection, Row

from ci_tools.stores.codec import to_text
from ci_tools.stores.database import Database
from ci_tools.stores.migrate import Chain, prepare
from ci_tools_assistants.conversations.attachments import attach_files
from ci_tools_assistants.errors import already_active, cannot_add_message
from ci_tools_assistants.objects import Kind, Object
from ci_tools_assistants.storage import outbox, removal, rows
from ci_tools_assistants.storage.rows import Page, PageQuery
from ci_tools_assistants.storage.schema import PARENTS, REVISION, metadata, runs

__all__ = ["Page", "Records", "Remove", "RunLost", "Write", "open_records"]

T = TypeVar("T")

Change = Callable[[Object], Object]

CHAIN = Chain(
    version_table="alembic_version_assistants",
    location="ci_tools_assistants.storage:migrations",
    revision=REVISION,
    metadata=metadata,
)
"""The API's tables as the core's migrations see them."""

_INLINE_PAGE = 200
"""Objects of a page that are read so fast that no thread is worth its cost."""


@dataclass(frozen=True)
class Write:
    """A message or step of a run to be inserted, or replaced if its id is known.

    Stored metadata stays: it is the client's, who may have changed it meanwhile.
    """

    kind: Kind
    object: Object
    parent: str
    private: Object | None = None
    """What is never shown of it; None leaves what is stored."""

    is_new: bool = True
    """Whether it may be inserted; else it was stored before, and stays away if it was deleted."""


@dataclass(frozen=True)
class Remove:
    """A message or step of a run to be deleted, if it is there."""

    kind: Kind
    id: str


class RunLost(Exception):
    """Another process has taken over the run."""


async def open_records(database: Database) -> "Records":
    """Return the records, whose tables are made or brought up to date before."""
    await prepare(database, CHAIN)
    return Records(database)


class Records:
    """The objects of all principals."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.to_event: Callable[[Object], Object | None] | None = None
        """Returns what another server is to be told of the state that a run has come to."""

    async def add(
        self,
        kind: Kind,
        object: Object,
        *,
        principal: str,
        parent: str | None = None,
        private: Object | None = None,
    ) -> Object:
        """Store a new object; `parent` is the thread of a message or run, the run of a step …"""

        def work(conn: Connection) -> Object:
            if parent is not None:
                rows.find_row(conn, PARENTS[kind], parent, principal=principal)
            return rows.add_row(
                conn, kind, object, principal=principal, parent=parent, private=private
            )

        return await self._database.write(work)

    async def get(
        self, kind: Kind, id: str, *, principal: str, parent: str | None = None
    ) -> Object:
        """Return an object.

        Raises:
            NoSuchObject: There is none of this principal, or it belongs to another parent.
        """
        return (await self._row(kind, id, principal=principal, parent=parent)).data  # type: ignore[no-any-return]

    async def find(self, kind: Kind, ids: Sequence[str], *, principal: str) -> list[Object]:
        """Return several objects in the order of `ids`.

        Raises:
            NoSuchObject: One of them is none of this principal; it is named.
        """

        def work(conn: Connection) -> list[Object]:
            return [rows.find_row(conn, kind, id, principal=principal).data for id in ids]

        return await self._database.read(work) if ids else []

    async def page(
        self,
        kind: Kind,
        *,
        principal: str,
        parent: str | None = None,
        limit: int = 20,
        order: str = "desc",
        after: str | None = None,
        before: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **equals: str,
    ) -> Page:
        """Return a page of the principal's objects, or of those of one parent.

        `equals` names columns (`run_id` of messages, `purpose` of files, `status` of runs) with
        the value they must have; `metadata` does the same for the metadata of threads.

        Raises:
            NoSuchObject: The parent or a cursor is none of this principal.
        """
        query = PageQuery(
            limit=limit,
            descending=order != "asc",
            after=after,
            before=before,
            equals=equals,
            metadata=metadata or {},
        )
        return await self._database.read(
            partial(rows.read_page, kind=kind, query=query, principal=principal, parent=parent),
            bulk=limit > _INLINE_PAGE,
        )

    async def change(
        self,
        kind: Kind,
        id: str,
        change: Change,
        *,
        principal: str,
        parent: str | None = None,
    ) -> Object:
        """Replace an object by what `change` makes of it; nothing happens if that raises.

        `change` must return a new object and leave its argument as it is.
        """

        def work(conn: Connection) -> Object:
            row = rows.find_row(conn, kind, id, principal=principal, parent=parent, lock=True)
            return rows.replace_row(conn, kind, row, change(row.data))

        return await self._database.write(work)

    async def delete(
        self, kind: Kind, id: str, *, principal: str, parent: str | None = None
    ) -> Object:
        """Delete an object that is no thread, with its children, and return what it was."""

        def work(conn: Connection) -> Object:
            row = rows.find_row(conn, kind, id, principal=principal, parent=parent, lock=True)
            rows.remove_row(conn, kind, row)
            return row.data  # type: ignore[no-any-return]

        return await self._database.write(work)

    async def get_both(
        self, kind: Kind, id: str, *, principal: str, parent: str | None = None
    ) -> tuple[Object, Object]:
        """Return an object and its private part, empty if it has none."""
        row = await self._row(kind, id, principal=principal, parent=parent)
        return row.data, row.private or {}

    async def get_private(
        self, kind: Kind, id: str, *, principal: str, parent: str | None = None
    ) -> Object:
        """Return the private part of an object, empty if it has none."""
        return (await self._row(kind, id, principal=principal, parent=parent)).private or {}

    async def change_private(
        self,
        kind: Kind,
        id: str,
        change: Change,
        *,
        principal: str,
        parent: str | None = None,
    ) -> Object:
        """Replace the private part of an object by what `change` makes of it; return the new."""

        def work(conn: Connection) -> Object:
            row = rows.find_row(conn, kind, id, principal=principal, parent=parent, lock=True)
            private = change(row.private or {})
            rows.set_private(conn, kind, row, private)
            return private

        return await self._database.write(work)

    # Threads, messages and runs

    async def add_thread(
        self,
        thread: Object,
        messages: Sequence[Object],
        *,
        principal: str,
        file_limit: int | None = None,
    ) -> Object:
        """Store a new thread with its first messages; return it with their files attached."""

        def work(conn: Connection) -> Object:
            stored, private = attach_files(thread, {}, messages, limit=file_limit)
            rows.add_row(conn, Kind.THREAD, stored, principal=principal, private=private or None)
            for message in messages:
                rows.add_row(conn, Kind.MESSAGE, message, principal=principal, parent=thread["id"])
            return stored

        return await self._database.write(work)

    async def delete_thread(self, id: str, *, principal: str) -> bool:
        """Delete a thread; tell whether what was in it is still to be purged."""

        def work(conn: Connection) -> bool:
            return removal.remove_thread(conn, _lock_thread(conn, id, principal))

        return await self._database.write(work, bulk=True)

    async def purge(self) -> None:
        """Delete what is in deleted threads; others get their turns meanwhile."""
        while True:
            seconds = await self._database.write(removal.purge, bulk=True)
            if seconds is None:
                return
            await anyio.sleep(min(seconds, removal.TURN))

    async def add_message(
        self, message: Object, *, principal: str, file_limit: int | None = None
    ) -> Object:
        """Store a user's message, and attach its files to the thread.

        Raises:
            ThreadBusy: A run of the thread is active.
        """

        def work(conn: Connection) -> Object:
            thread = _lock_thread(conn, message["thread_id"], principal)
            if run_id := rows.find_active_run(conn, thread.id):
                raise cannot_add_message(thread.id, run_id)
            return _add_messages(conn, thread, [message], file_limit)[0]

        return await self._database.write(work)

    async def start_run(
        self,
        run: Object,
        messages: Sequence[Object],
        *,
        principal: str,
        lease: str,
        file_limit: int | None = None,
    ) -> Object:
        """Store a new run after additional messages; it locks its thread until it has ended.

        Raises:
            ThreadBusy: Another run of the thread is active.
        """

        def work(conn: Connection) -> Object:
            thread = _lock_thread(conn, run["thread_id"], principal)
            if run_id := rows.find_active_run(conn, thread.id):
                raise already_active(thread.id, run_id)
            _add_messages(conn, thread, messages, file_limit)
            return rows.add_row(
                conn, Kind.RUN, run, principal=principal, parent=thread.id, lease=lease
            )

        return await self._database.write(work)

    async def change_run(
        self,
        run_id: str,
        change: Change,
        *,
        principal: str,
        lease: str | None = None,
        held_by: str | None = None,
        also: Sequence[Write | Remove] = (),
        tell: Callable[[Sequence[Object]], None] | None = None,
    ) -> Object:
        """Move a run to its next state, and write its messages and steps, in one transaction.

        `change` may raise to refuse; then nothing is written. The thread is free as soon as the
        status is final. A `lease` becomes the run's. `tell` is given the messages and steps as
        they are stored.

        Raises:
            RunLost: The run's lease is not `held_by`, if that is given.
        """

        def work(conn: Connection) -> tuple[Object, list[Object]]:
            row = rows.find_row(conn, Kind.RUN, run_id, principal=principal, lock=True)
            if held_by is not None and row.lease != held_by:
                raise RunLost(run_id)
            changed = change(row.data)
            if changed is not row.data or lease:
                rows.replace_row(conn, Kind.RUN, row, changed, lease=lease)
            if self.to_event is not None and changed["status"] != row.data["status"]:
                event = self.to_event(changed)
                if event is not None:
                    body = to_text(event)
                    outbox.add_event(conn, principal=principal, run_id=run_id, body=body)
            return changed, _apply(conn, also, principal)

        run, stored = await self._database.write(work)
        if tell is not None:
            tell(stored)
        return run

    async def save(self, writes: Sequence[Write | Remove], *, principal: str) -> list[Object]:
        """Write messages and steps of a run, and return them as they are stored.

        The lock of the thread is none for the run itself.
        """
        return await self._database.write(partial(_apply, writes=writes, principal=principal))

    async def load_context(
        self, thread_id: str, *, principal: str, limit: int
    ) -> tuple[list[Object], list[Object]]:
        """Return the newest messages of a thread and the steps of their runs, oldest first.

        The steps of the newest run are among them even if no message is of it yet.
        """
        return await self._database.read(
            partial(rows.load_context, thread_id=thread_id, principal=principal, limit=limit),
            bulk=limit > _INLINE_PAGE,
        )

    async def find_active_run(self, thread_id: str, *, principal: str) -> str | None:
        """Return the id of the run that locks a thread."""

        def work(conn: Connection) -> str | None:
            rows.find_row(conn, Kind.THREAD, thread_id, principal=principal)
            return rows.find_active_run(conn, thread_id)

        return await self._database.read(work)

    async def list_orphaned_runs(self) -> list[tuple[str, Object]]:
        """Return runs, each with its principal, that no living process works on.

        Those that wait for tool outputs need none.
        """
        return await self._database.read(
            lambda conn: rows.list_active_runs(conn, rows.is_orphaned())
        )

    async def list_overdue_runs(self, now: int) -> list[tuple[str, Object]]:
        """Return active runs, each with its principal, whose `expires_at` has come."""
        return await self._database.read(
            lambda conn: rows.list_active_runs(conn, runs.c.expires_at <= now)
        )

    async def list_cancelling_runs(self, *, lease: str) -> list[str]:
        """Return the ids of a process's runs that somebody wants cancelled."""
        found = await self._database.read(
            lambda conn: rows.list_active_runs(
                conn, runs.c.lease == lease, runs.c.status == "cancelling"
            )
        )
        return [run["id"] for _, run in found]

    async def adopt_run(self, run_id: str, *, lease: str) -> bool:
        """Take over an orphaned run; tell whether it was one and nobody else was first."""
        return await self._database.write(partial(rows.adopt_run, id=run_id, lease=lease))

    # Other

    async def read(self, work: Callable[[Connection], T], *, bulk: bool = False) -> T:
        """Run other SQL of this package, which only reads."""
        return await self._database.read(work, bulk=bulk)

    async def write(self, work: Callable[[Connection], T], *, bulk: bool = False) -> T:
        """Run other SQL of this package as one transaction."""
        return await self._database.write(work, bulk=bulk)

    async def erase(self, principal: str) -> None:
        """Delete everything of a principal."""
        take = partial(removal.take_threads, principal=principal)
        while await self._database.write(take, bulk=True):
            pass
        await self._database.write(partial(removal.erase_rest, principal=principal), bulk=True)
        await self.purge()

    async def _row(self, kind: Kind, id: str, *, principal: str, parent: str | None) -> Row[Any]:
        return await self._database.read(
            partial(rows.find_row, kind=kind, id=id, principal=principal, parent=parent)
        )


def _lock_thread(conn: Connection, id: str, principal: str) -> Row[Any]:
    return rows.find_row(conn, Kind.THREAD, id, principal=principal, lock=True)


def _add_messages(
    conn: Connection, thread: Row[Any], messages: Sequence[Object], file_limit: int | None
) -> list[Object]:
    """Insert messages into a locked thread, and attach their files to it."""
    private = thread.private or {}
    changed, attached = attach_files(thread.data, private, messages, limit=file_limit)
    if changed is not thread.data:
        rows.replace_row(conn, Kind.THREAD, thread, changed)
    if attached is not private:
        rows.set_private(conn, Kind.THREAD, thread, attached)
    return [
        rows.add_row(conn, Kind.MESSAGE, message, principal=thread.principal, parent=thread.id)
        for message in messages
    ]


def _apply(conn: Connection, writes: Sequence[Write | Remove], principal: str) -> list[Object]:
    stored = []
    for write in writes:
        if isinstance(write, Write):
            written = rows.put_row(
                conn,
                write.kind,
                write.object,
                principal=principal,
                parent=write.parent,
                private=write.private,
                is_new=write.is_new,
            )
            stored.append(written)
        else:
            row = rows.find_own(conn, write.kind, write.id, principal=principal)
            if row is not None:
                rows.remove_row(conn, write.kind, row)
    return stored
