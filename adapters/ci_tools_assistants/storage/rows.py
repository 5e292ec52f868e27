"""SQL about the API's objects; each function is the work, or a part of it, of one transaction.

Locks are taken in one order, a thread's row before those of its runs, messages and steps. The
statements are built once: that costs more than running them.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Insert,
    Row,
    Select,
    Update,
    and_,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from ci_tools.stores.codec import to_text
from ci_tools.stores.schema import Now, leases
from ci_tools_assistants.errors import NoSuchObject
from ci_tools_assistants.objects import ACTIVE, Kind, Object, now
from ci_tools_assistants.storage.schema import (
    IS_ACTIVE,
    PARENTS,
    TABLES,
    deleted,
    runs,
    steps,
    thread_metadata,
    threads,
)

_CURSOR_TIME = 24 * 3600
"""Seconds that the place of a deleted object is remembered."""

_ID_LIMIT = 200
"""Characters of an id; what is imported has at most half as many."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of a list, in the order that was asked for."""

    data: list[Object]
    has_more: bool


@dataclass(frozen=True, kw_only=True)
class PageQuery:
    """Which part of a list is wanted; `after` and `before` are ids, exclusive."""

    limit: int
    descending: bool
    after: str | None
    before: str | None
    equals: Mapping[str, str]
    metadata: Mapping[str, str]


def check_id(kind: Kind, id: str) -> None:
    """Refuse what cannot be an id: not every database takes every character, or every length."""
    if len(id) > _ID_LIMIT or not id.isascii() or not id.isprintable():
        raise NoSuchObject(kind, id)


def find_row(
    conn: Connection,
    kind: Kind,
    id: str,
    *,
    principal: str,
    parent: str | None = None,
    lock: bool = False,
) -> Row[Any]:
    """Return the row of an object, locked until the transaction ends if it is to be changed.

    Raises:
        NoSuchObject: There is none of this principal, or it belongs to another parent.
    """
    check_id(kind, id)
    row = find_own(conn, kind, id, principal=principal, lock=lock)
    if row is None or (parent is not None and row.parent != parent):
        raise NoSuchObject(kind, id)
    return row


def find_own(
    conn: Connection, kind: Kind, id: str, *, principal: str, lock: bool = False
) -> Row[Any] | None:
    """Return the row of an object of this principal, if there is one."""
    return conn.execute(_find(kind, lock), {"id_": id, "principal_": principal}).one_or_none()


def add_row(
    conn: Connection,
    kind: Kind,
    item: Object,
    *,
    principal: str,
    parent: str | None = None,
    private: Object | None = None,
    lease: str | None = None,
) -> Object:
    """Insert an object; its parent's ownership has been checked."""
    values = {"id": item["id"], "principal": principal, "private": private, "data": item}
    values |= _columns_of(kind, item)
    if kind in PARENTS:
        values["parent"] = parent
    if kind is Kind.RUN:
        values["lease"] = lease
    result = conn.execute(_insert(kind), values)
    if kind is Kind.THREAD and item["metadata"]:
        primary_key = result.inserted_primary_key
        assert primary_key is not None
        _add_pairs(conn, primary_key[0], item, principal)
    return item


def replace_row(
    conn: Connection, kind: Kind, row: Row[Any], item: Object, *, lease: str | None = None
) -> Object:
    """Write a changed object into its row; a `lease` becomes the run's, none keeps it."""
    values = {"seq_": row.seq, "data": item, **_columns_of(kind, item)}
    if kind is Kind.RUN:
        values["lease"] = (lease or row.lease) if item["status"] in ACTIVE else None
    conn.execute(_update(kind), values)
    if kind is Kind.THREAD and item["metadata"] != row.data["metadata"]:
        conn.execute(delete(thread_metadata).where(thread_metadata.c.thread == row.seq))
        _add_pairs(conn, row.seq, item, row.principal)
    return item


def put_row(
    conn: Connection,
    kind: Kind,
    item: Object,
    *,
    principal: str,
    parent: str,
    private: Object | None = None,
    is_new: bool = True,
) -> Object:
    """Insert an object, or replace the one with its id but for its metadata; return what is stored.

    The metadata is its owner's, who may have changed it meanwhile, or (not `is_new`) have deleted
    the object.
    """
    row = find_own(conn, kind, item["id"], principal=principal, lock=True)
    if row is None:
        if is_new:
            add_row(conn, kind, item, principal=principal, parent=parent, private=private)
        return item
    stored = {**item, "metadata": row.data["metadata"]}
    replace_row(conn, kind, row, stored)
    if private is not None:
        set_private(conn, kind, row, private)
    return stored


def set_private(conn: Connection, kind: Kind, row: Row[Any], private: Object) -> None:
    """Write what is never shown of an object."""
    table = TABLES[kind]
    conn.execute(update(table).where(table.c.seq == row.seq).values(private=private))


def remove_row(conn: Connection, kind: Kind, row: Row[Any]) -> None:
    """Delete an object with all that it is the parent of; remember its place in lists."""
    conn.execute(_remove(kind), {"seq_": row.seq})
    remember_place(conn, row)


def remember_place(conn: Connection, row: Row[Any]) -> None:
    """Let a deleted object be a cursor for a while."""
    moment = now()
    conn.execute(
        delete(deleted).where(
            (deleted.c.id == row.id) | (deleted.c.deleted_at < moment - _CURSOR_TIME)
        )
    )
    conn.execute(
        insert(deleted),
        {
            "id": row.id,
            "principal": row.principal,
            "parent": row.parent,
            "seq": row.seq,
            "deleted_at": moment,
        },
    )


def read_page(
    conn: Connection, kind: Kind, query: PageQuery, *, principal: str, parent: str | None
) -> Page:
    """Read a page of the objects of a principal, or of one parent.

    With `before` alone it is the page that ends just above that object, in the same order.
    """
    if parent is not None:
        find_row(conn, PARENTS[kind], parent, principal=principal)
    values: dict[str, object] = {"principal_": principal, "parent_": parent}
    for name, cursor in (("after", query.after), ("before", query.before)):
        if cursor is not None:
            values[f"{name}_"] = _find_place(conn, kind, cursor, principal, parent)
    for name, value in query.equals.items():
        values[f"{name}_"] = value.replace("\0", "\ufffd")  # which not every database takes
    for number, pair in enumerate(query.metadata.items()):
        values[f"pair{number}_"] = _digest(*pair)
    backwards = query.before is not None and query.after is None
    statement = _page(
        kind,
        parent is not None,
        query.descending is not backwards,
        (query.after is not None, query.before is not None, query.descending),
        tuple(query.equals),
        len(query.metadata),
    )
    data = list(conn.scalars(statement, {**values, "limit_": query.limit + 1}))
    page = data[: query.limit]
    return Page(data=page[::-1] if backwards else page, has_more=len(data) > query.limit)


def find_active_run(conn: Connection, thread_id: str) -> str | None:
    """Return the id of the run that locks a thread."""
    return conn.scalar(_ACTIVE_RUN, {"parent_": thread_id})


def load_context(
    conn: Connection, thread_id: str, *, principal: str, limit: int
) -> tuple[list[Object], list[Object]]:
    """Return the newest messages of a thread, and the steps of the runs they are of, oldest first.

    The newest run's steps are among them even if no message is of it yet.
    """
    find_row(conn, Kind.THREAD, thread_id, principal=principal)
    values = {"parent_": thread_id}
    newest = conn.scalars(
        _page(Kind.MESSAGE, True, True, (False, False, True), (), 0), {**values, "limit_": limit}
    )
    found = list(newest)[::-1]
    run_ids = {message["run_id"] for message in found if message["run_id"]}
    if newest_run := conn.scalar(_NEWEST_RUN, values):
        run_ids.add(newest_run)
    if not run_ids:
        return found, []
    of_runs = {"runs_": sorted(run_ids), "principal_": principal}
    return found, list(conn.scalars(_STEPS_OF, of_runs))


def list_active_runs(
    conn: Connection, *conditions: ColumnElement[bool], limit: int = 100
) -> list[tuple[str, Object]]:
    """Return active runs with their principals, oldest first."""
    query = select(runs.c.principal, runs.c.data).where(IS_ACTIVE, *conditions)
    return [
        (row.principal, row.data) for row in conn.execute(query.order_by(runs.c.seq).limit(limit))
    ]


def is_orphaned() -> ColumnElement[bool]:
    """Return the condition for a run that needs a process and whose own is gone."""
    valid = select(leases.c.id).where(leases.c.id == runs.c.lease, leases.c.expires_at >= Now())
    return (runs.c.status != "requires_action") & ~valid.exists()


def adopt_run(conn: Connection, id: str, *, lease: str) -> bool:
    """Take over an orphaned run; tell whether it was one and nobody else was first."""
    row = conn.execute(
        select(runs.c.lease).where(runs.c.id == id, IS_ACTIVE, is_orphaned())
    ).one_or_none()
    if row is None:
        return False
    # Compared with the lease seen above: of two that saw it, the second finds it changed.
    adopted = conn.execute(
        update(runs)
        .where(runs.c.id == id, IS_ACTIVE, runs.c.lease.is_not_distinct_from(row.lease))
        .values(lease=lease)
    )
    return adopted.rowcount == 1


def is_taken(conn: Connection, kind: Kind, id: str) -> bool:
    """Tell whether anybody has an object with that id."""
    check_id(kind, id)
    table = TABLES[kind]
    return conn.scalar(select(table.c.seq).where(table.c.id == id)) is not None


def _columns_of(kind: Kind, item: Object) -> dict[str, Any]:
    """Return the columns that repeat what is in the object, to be filtered by."""
    match kind:
        case Kind.MESSAGE:
            return {"run_id": item["run_id"]}
        case Kind.RUN:
            return {
                "status": item["status"],
                "active": item["status"] in ACTIVE,
                "expires_at": item["expires_at"],
            }
        case Kind.FILE:
            return {"purpose": item["purpose"], "expires_at": item.get("expires_at")}
        case Kind.UPLOAD:
            is_pending = item["status"] == "pending"
            return {"expires_at": item["expires_at"] if is_pending else None}
        case _:
            return {}


def _add_pairs(conn: Connection, seq: int, thread: Object, principal: str) -> None:
    pairs = [
        {"thread": seq, "pair": _digest(key, value), "principal": principal}
        for key, value in (thread["metadata"] or {}).items()
    ]
    if pairs:
        conn.execute(insert(thread_metadata), pairs)


def _digest(key: str, value: str) -> str:
    return hashlib.sha256(to_text([key, value]).encode()).hexdigest()


def _find_place(conn: Connection, kind: Kind, id: str, principal: str, parent: str | None) -> int:
    """Return the `seq` of a cursor, which may have been deleted a while ago."""
    check_id(kind, id)
    values = {"id_": id, "principal_": principal}
    row = conn.execute(_place(kind), values).one_or_none()
    if row is None:
        row = conn.execute(_DELETED_PLACE, values).one_or_none()
    if row is None or (parent is not None and row.parent != parent):
        raise NoSuchObject(kind, id)
    return int(row.seq)


_DELETED_PLACE = select(deleted.c.seq, deleted.c.parent).where(
    deleted.c.id == bindparam("id_"), deleted.c.principal == bindparam("principal_")
)

_ACTIVE_RUN = select(runs.c.id).where(IS_ACTIVE, runs.c.parent == bindparam("parent_"))


_NEWEST_RUN = (
    select(runs.c.id)
    .where(runs.c.parent == bindparam("parent_"))
    .order_by(runs.c.seq.desc())
    .limit(1)
)

_STEPS_OF = (
    select(steps.c.data)
    .where(
        steps.c.parent.in_(bindparam("runs_", expanding=True)),
        # An imported message may name any run.
        steps.c.principal == bindparam("principal_"),
    )
    .order_by(steps.c.seq)
)


def _parent_of(kind: Kind) -> ColumnElement[str | None]:
    table = TABLES[kind]
    # So that every row has a `parent`: those at the top have none.
    return table.c.parent if kind in PARENTS else _NO_PARENT


_NO_PARENT: ColumnElement[str | None] = bindparam("no_parent_", None).label("parent")


def _owned(kind: Kind) -> ColumnElement[bool]:
    table = TABLES[kind]
    principal: ColumnElement[str] = bindparam("principal_")
    owned = and_(table.c.id == bindparam("id_"), table.c.principal == principal)
    # A deleted thread is nobody's, while what is in it is still being deleted.
    of_owner = select(threads.c.seq).where(threads.c.principal == principal)
    match kind:
        case Kind.MESSAGE | Kind.RUN:
            return and_(owned, of_owner.where(threads.c.id == table.c.parent).exists())
        case Kind.STEP:
            of_run = of_owner.join(runs, runs.c.parent == threads.c.id)
            return and_(owned, of_run.where(runs.c.id == table.c.parent).exists())
        case _:
            return owned


@lru_cache
def _find(kind: Kind, lock: bool) -> Select[Any]:
    table = TABLES[kind]
    columns = [column for column in table.c if column.name != "parent"]
    statement = select(*columns, _parent_of(kind)).where(_owned(kind))
    return statement.with_for_update() if lock else statement


@lru_cache
def _place(kind: Kind) -> Select[Any]:
    return select(TABLES[kind].c.seq, _parent_of(kind)).where(_owned(kind))


@lru_cache
def _insert(kind: Kind) -> Insert:
    return insert(TABLES[kind])


@lru_cache
def _update(kind: Kind) -> Update:
    table = TABLES[kind]
    return update(table).where(table.c.seq == bindparam("seq_")).values(_binds(kind))


def _binds(kind: Kind) -> dict[str, Any]:
    names = {
        Kind.MESSAGE: ("run_id",),
        Kind.RUN: ("status", "active", "expires_at", "lease"),
        Kind.FILE: ("purpose", "expires_at"),
        Kind.UPLOAD: ("expires_at",),
    }
    return {name: bindparam(name) for name in ("data", *names.get(kind, ()))}


@lru_cache
def _remove(kind: Kind) -> Delete:
    table = TABLES[kind]
    return delete(table).where(table.c.seq == bindparam("seq_"))


@lru_cache
def _page(
    kind: Kind,
    of_parent: bool,
    descending: bool,
    cursors: tuple[bool, bool, bool],
    equals: tuple[str, ...],
    pairs: int,
) -> Select[Any]:
    """Return the statement of a page; `descending` is the order in which rows are read."""
    table = TABLES[kind]
    seq: ColumnElement[int] = table.c.seq
    query = select(table.c.data)
    if pairs:
        # Read from the pairs on: threads without them would be looked at one after another.
        seq = thread_metadata.c.thread
        query = query.join(thread_metadata, seq == threads.c.seq).where(
            thread_metadata.c.principal == bindparam("principal_"),
            thread_metadata.c.pair == bindparam("pair0_"),
        )
    elif of_parent:
        query = query.where(table.c.parent == bindparam("parent_"))
    else:
        query = query.where(table.c.principal == bindparam("principal_"))
    after, before, downwards = cursors
    below: Callable[[str], ColumnElement[bool]] = lambda name: seq < bindparam(name)  # noqa: E731
    above: Callable[[str], ColumnElement[bool]] = lambda name: seq > bindparam(name)  # noqa: E731
    if after:
        query = query.where((below if downwards else above)("after_"))
    if before:
        query = query.where((above if downwards else below)("before_"))
    for name in equals:
        query = query.where(table.c[name] == bindparam(f"{name}_"))
    for condition in _has_pairs(pairs):
        query = query.where(condition)
    return query.order_by(seq.desc() if descending else seq.asc()).limit(bindparam("limit_"))


def _has_pairs(count: int) -> Iterable[ColumnElement[bool]]:
    """Return the conditions for all pairs but the first."""
    for number in range(1, count):
        wanted = thread_metadata.alias()
        yield (
            select(wanted.c.thread)
            .where(
                wanted.c.thread == thread_metadata.c.thread,
                wanted.c.pair == bindparam(f"pair{number}_"),
            )
            .exists()
        )
