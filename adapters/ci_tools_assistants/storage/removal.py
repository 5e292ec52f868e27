"""SQL that deletes threads, however much is in them, without keeping others waiting.

How this works: a large thread is first taken from its owner, in one short transaction: its
principal becomes nobody, and what belongs to a thread of nobody's is found by no id. Then what is
in it is deleted a few rows at a time, in as many transactions as it takes and by any process; the
thread's own row goes last. So a process that ends in between leaves nothing that is half visible,
and the next one goes on where it was.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import (
    Connection,
    Delete,
    Row,
    Select,
    bindparam,
    delete,
    select,
    union_all,
    update,
)

from ci_tools_assistants.objects import Kind
from ci_tools_assistants.storage import rows
from ci_tools_assistants.storage.schema import (
    IS_ACTIVE,
    TABLES,
    deleted,
    messages,
    runs,
    steps,
    thread_metadata,
    threads,
    usage,
    webhooks,
)

NOBODY = ""
"""The principal of a thread that has been deleted; nobody can act as it."""

TURN = 0.01
"""Seconds after which a transaction ends that deletes what is in such threads."""

_SMALL = 200
"""Messages, runs and steps of a thread that are deleted with it at once."""

_TAKEN = 500
"""Threads that are taken from their owner at once."""

_ROWS = 20
"""Rows deleted by one statement: each may be a megabyte, and is overwritten."""


def remove_thread(conn: Connection, row: Row[Any]) -> bool:
    """Delete a locked thread for its owner; tell whether there are rows left to purge."""
    inside = conn.scalars(_INSIDE, {"thread_": row.id, "limit_": _SMALL + 1})
    if len(inside.all()) <= _SMALL:
        rows.remove_row(conn, Kind.THREAD, row)
        return False
    _hide(conn, {row.seq: row.id})
    rows.remember_place(conn, row)
    return True


def purge(conn: Connection) -> float | None:
    """Delete some rows of deleted threads.

    Returns the seconds that it took, None if there is nothing left to be done by this process.
    """
    started = time.monotonic()
    # PostgreSQL: another process that is at it needs no help, and no waiting for.
    row = conn.execute(_DELETED_THREAD).first()
    if row is None:
        return None
    for _ in _delete_inside(conn, row.id):
        if time.monotonic() - started > TURN:
            break
    else:
        conn.execute(delete(threads).where(threads.c.seq == row.seq))
    return time.monotonic() - started


def _delete_inside(conn: Connection, thread_id: str) -> Iterator[None]:
    """Delete what is in a thread, some rows before each `yield`."""
    for statement in _DELETES:
        while conn.execute(statement, {"thread_": thread_id, "limit_": _ROWS}).rowcount > 0:
            yield


def is_any_deleted(conn: Connection, thread_ids: Iterable[str]) -> bool:
    """Tell whether one of these is a deleted thread that is still to be purged."""
    return any(rows.find_own(conn, Kind.THREAD, id, principal=NOBODY) for id in thread_ids)


def take_threads(conn: Connection, principal: str) -> bool:
    """Take some threads from their owner for good; tell whether there may be more."""
    mine = select(threads.c.seq, threads.c.id).where(threads.c.principal == principal)
    some = {row.seq: row.id for row in conn.execute(mine.limit(_TAKEN))}
    _hide(conn, some)
    return bool(some)


def _hide(conn: Connection, ids: Mapping[int, str]) -> None:
    """Take threads from their owner; they are given by `seq` and id."""
    conn.execute(delete(thread_metadata).where(thread_metadata.c.thread.in_(ids)))
    # Its process finds it gone, and nobody takes it up.
    conn.execute(delete(runs).where(runs.c.parent.in_(ids.values()), IS_ACTIVE))
    conn.execute(update(threads).where(threads.c.seq.in_(ids)).values(principal=NOBODY))


def erase_rest(conn: Connection, principal: str) -> None:
    """Delete everything of a principal but what is in threads."""
    for table in (*(TABLES[kind] for kind in _OUTSIDE), deleted, usage, webhooks):
        conn.execute(delete(table).where(table.c.principal == principal))


_OUTSIDE = (Kind.ASSISTANT, Kind.FILE, Kind.UPLOAD, Kind.PART)


def _limited(query: Select[tuple[int]]) -> Select[tuple[int]]:
    return query.limit(bindparam("limit_"))


def _delete_some(kind: Kind, query: Select[tuple[int]]) -> Delete:
    table = TABLES[kind]
    return delete(table).where(table.c.seq.in_(_limited(query)))


_MESSAGES = select(messages.c.seq).where(messages.c.parent == bindparam("thread_"))

_RUNS = select(runs.c.seq).where(runs.c.parent == bindparam("thread_"))

_STEPS = (
    select(steps.c.seq)
    .join(runs, runs.c.id == steps.c.parent)
    .where(runs.c.parent == bindparam("thread_"))
)

_INSIDE = _limited(select(union_all(_MESSAGES, _RUNS, _STEPS).subquery().c.seq))

_DELETES = (
    _delete_some(Kind.MESSAGE, _MESSAGES),
    _delete_some(Kind.STEP, _STEPS),
    _delete_some(Kind.RUN, _RUNS),
)

_DELETED_THREAD = (
    select(threads.c.seq, threads.c.id)
    .where(threads.c.principal == NOBODY)
    .order_by(threads.c.seq)
    .limit(1)
    .with_for_update(skip_locked=True)
)
