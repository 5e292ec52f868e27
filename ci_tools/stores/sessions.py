"""SQL about sessions; each function is the work of one transaction."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from ci_tools.errors import LimitError, NotFoundError
from ci_tools.models import KernelRef, Session
from ci_tools.stores.codec import full_text_from_json, kernel_from_json, kernel_to_json
from ci_tools.stores.loose import loosen
from ci_tools.stores.schema import Now, files, placements, sessions, steps, tickets

_FIND = select(sessions).where(
    sessions.c.id == bindparam("id"), sessions.c.principal == bindparam("principal_")
)

_TOUCH = (
    update(sessions)
    .where(sessions.c.id == bindparam("id_"))
    .values(last_used_at=Now())
    .returning(sessions.c.last_used_at)
)

_TOUCH_BYTES = _TOUCH.values(last_used_at=Now(), workspace_bytes=bindparam("bytes"))


_FEW_STEPS = 50
"""Steps that are deleted with their session at once."""

_STEPS_AT_ONCE = 10
"""Steps deleted by one statement: each may be a quarter of a megabyte, and is overwritten."""

_TURN = 0.01
"""Seconds after which a transaction ends that deletes steps only."""


def to_session(row: Row[Any]) -> Session:
    """Return the session in a row."""
    return Session(
        id=row.id,
        principal=row.principal,
        name=row.name,
        server=row.server,
        kernelspec=row.kernelspec,
        isolation=row.isolation,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        epoch=row.epoch,
        kernel=kernel_from_json(row.kernel),
        lost=row.lost,
        workspace_bytes=row.workspace_bytes,
        network=row.network,
        environment=tuple(row.environment or ()),
    )


def lock_principal(conn: Connection, principal: str) -> None:
    """Let nobody else count or order this principal's records until the transaction ends.

    SQLite has one writer anyway. On PostgreSQL a statement sees what was committed when it began,
    so what counts and then inserts must wait for its turn before it counts.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(principal, 0))))


def add_session(
    conn: Connection,
    session: Session,
    *,
    limit: int,
    environment: Mapping[str, str] | None = None,
) -> Session:
    """Insert a session and its variables' values; its times are the database's."""
    lock_principal(conn, session.principal)
    count = conn.scalar(select(func.count()).where(sessions.c.principal == session.principal))
    if count is not None and count >= limit:
        raise LimitError(
            f"You have {count} sessions and may have {limit}: close one that is not needed."
        )
    row = conn.execute(
        insert(sessions)
        .values(
            id=session.id,
            principal=session.principal,
            name=session.name,
            server=session.server,
            kernelspec=session.kernelspec,
            isolation=session.isolation,
            created_at=Now(),
            last_used_at=Now(),
            epoch=session.epoch,
            kernel=kernel_to_json(session.kernel),
            lost=session.lost,
            workspace_bytes=session.workspace_bytes,
            network=session.network,
            environment=dict(environment) if environment else None,
        )
        .returning(sessions)
    ).one()
    return to_session(row)


def find_or_add_session(conn: Connection, session: Session, *, limit: int) -> Session:
    """Return the principal's oldest session of the same name, or insert this one."""
    lock_principal(conn, session.principal)
    row = conn.execute(
        select(sessions)
        .where(sessions.c.principal == session.principal, sessions.c.name == session.name)
        .order_by(sessions.c.seq)
        .limit(1)
    ).one_or_none()
    return add_session(conn, session, limit=limit) if row is None else to_session(row)


def get_session(conn: Connection, id: str, *, principal: str) -> Session:
    """Return a session of this principal."""
    row = conn.execute(_FIND, {"id": id, "principal_": principal}).one_or_none()
    if row is None:
        raise NotFoundError("session", id)
    return to_session(row)


def get_environment(conn: Connection, id: str) -> dict[str, str]:
    """Return the variables of a session with their values; none if there is no such session."""
    found = conn.scalar(select(sessions.c.environment).where(sessions.c.id == id))
    return dict(found or {})


def list_sessions(conn: Connection, *, principal: str) -> list[Session]:
    """Return the principal's sessions, last used first."""
    rows = conn.execute(
        select(sessions)
        .where(sessions.c.principal == principal)
        .order_by(sessions.c.last_used_at.desc(), sessions.c.seq.desc())
    )
    return [to_session(row) for row in rows]


def touch_session(conn: Connection, id: str, *, workspace_bytes: int | None = None) -> float | None:
    """Note that a session was used now; return the time, or None if there is no such session."""
    now: float | None
    if workspace_bytes is None:
        now = conn.scalar(_TOUCH, {"id_": id})
    else:
        now = conn.scalar(_TOUCH_BYTES, {"id_": id, "bytes": workspace_bytes})
    return now


def set_kernel(
    conn: Connection, id: str, *, epoch: int, kernel: KernelRef, isolation: str | None
) -> Session:
    """Make `kernel` the session's, if the epoch before is stored; return what is stored then."""
    values: dict[str, Any] = {"epoch": epoch, "kernel": kernel_to_json(kernel)}
    if isolation is not None:
        values["isolation"] = isolation
    row = conn.execute(
        update(sessions)
        .where(sessions.c.id == id, sessions.c.epoch == epoch - 1)
        .values(values)
        .returning(sessions)
    ).one_or_none()
    if row is None:
        row = conn.execute(select(sessions).where(sessions.c.id == id)).one_or_none()
    if row is None:
        raise NotFoundError("session", id)
    return to_session(row)


def drop_kernel(
    conn: Connection, id: str, *, epoch: int, lost: str, idle: float | None = None
) -> bool:
    """Forget the session's kernel of that epoch; tell whether it was still known (and idle)."""
    statement = update(sessions).where(
        sessions.c.id == id, sessions.c.epoch == epoch, sessions.c.kernel.is_not(None)
    )
    if idle is not None:
        statement = statement.where(sessions.c.last_used_at < Now() - idle, _is_quiet())
    dropped = conn.execute(statement.values(kernel=None, lost=lost).returning(sessions.c.seq))
    return dropped.one_or_none() is not None


def forget_lost(conn: Connection, id: str, *, epoch: int) -> None:
    """Note that a step has said why the kernel before that of `epoch` is gone."""
    # If the new kernel is gone too, there is something else to say.
    conn.execute(
        update(sessions)
        .where(sessions.c.id == id, sessions.c.epoch == epoch, sessions.c.kernel.is_not(None))
        .values(lost=None)
    )


def delete_session(conn: Connection, id: str, *, principal: str) -> list[str]:
    """Delete a session and all of it; return the object-store keys that nothing names any more."""
    # The lock keeps steps and files from being added between reading the keys and the end.
    found = conn.execute(_FIND.with_for_update(), {"id": id, "principal_": principal})
    if found.one_or_none() is None:
        raise NotFoundError("session", id)
    return _delete_sessions(conn, [id])


def trim_session(conn: Connection, id: str, *, principal: str) -> list[str] | None:
    """Delete some of the oldest steps of a session that is to be deleted; return their keys.

    None if few are left. So what is large is deleted in short transactions, between which others
    get their turns.
    """
    if conn.execute(_FIND.with_for_update(), {"id": id, "principal_": principal}).first() is None:
        raise NotFoundError("session", id)
    of_session = select(steps.c.seq).where(steps.c.session_id == id)
    if len(conn.scalars(of_session.limit(_FEW_STEPS + 1)).all()) <= _FEW_STEPS:
        return None
    oldest = of_session.where(steps.c.finished_at.is_not(None)).order_by(steps.c.seq)
    keys: list[str] = []
    some = steps.c.seq.in_(oldest.limit(_STEPS_AT_ONCE))
    if not _delete_steps(conn, some, keys):
        return None
    until = time.monotonic() + _TURN
    while time.monotonic() < until and _delete_steps(conn, some, keys):
        pass
    loosen(conn, keys)
    return keys


def delete_sessions_of(conn: Connection, principal: str) -> list[str]:
    """Delete every session of a principal as `delete_session` does."""
    mine = select(sessions.c.id).where(sessions.c.principal == principal).with_for_update()
    return _delete_sessions(conn, conn.scalars(mine).all())


def _delete_sessions(conn: Connection, ids: Sequence[str]) -> list[str]:
    keys: list[str] = []
    for id in ids:
        _delete_steps(conn, steps.c.session_id == id, keys)
        of_files = delete(files).where(files.c.session_id == id).returning(files.c.id, files.c.key)
        for row in conn.execute(of_files).all():
            keys.append(row.key)
            # Other sessions may have a copy of it, which has no upload behind it from now on.
            conn.execute(delete(placements).where(placements.c.file_id == row.id))
        conn.execute(delete(placements).where(placements.c.session_id == id))
        conn.execute(delete(tickets).where(tickets.c.session_id == id))
        conn.execute(delete(sessions).where(sessions.c.id == id))
    loosen(conn, keys)
    return keys


def _delete_steps(conn: Connection, which: ColumnElement[bool], keys: list[str]) -> int:
    """Delete steps and add the keys that they name to `keys`; return how many steps it were."""
    returned = (steps.c.full_text, steps.c.outputs_key)
    rows = conn.execute(delete(steps).where(which).returning(*returned)).all()
    for row in rows:
        full_text = full_text_from_json(row.full_text)
        keys += [full_text.key] if full_text else []
        keys += [row.outputs_key] if row.outputs_key else []
    return len(rows)


def _is_quiet() -> ColumnElement[bool]:
    """Tell in SQL that a session has no unfinished step."""
    unfinished = select(steps.c.seq).where(
        steps.c.session_id == sessions.c.id, steps.c.finished_at.is_(None)
    )
    return ~unfinished.exists()


def list_idle_kernels(conn: Connection, *, idle: float, limit: int) -> list[Session]:
    """Return sessions whose kernel was not used for `idle` seconds."""
    rows = conn.execute(
        select(sessions)
        .where(
            sessions.c.kernel.is_not(None),
            sessions.c.last_used_at < Now() - idle,
            _is_quiet(),
        )
        .order_by(sessions.c.last_used_at)
        .limit(limit)
    )
    return [to_session(row) for row in rows]


def list_expired_sessions(
    conn: Connection, *, retention: float, lifetime: float | None, limit: int
) -> list[Session]:
    """Return sessions that are unused for `retention` or older than `lifetime` seconds."""
    expired: ColumnElement[bool] = sessions.c.last_used_at < Now() - retention
    if lifetime is not None:
        expired = or_(expired, sessions.c.created_at < Now() - lifetime)
    rows = conn.execute(
        select(sessions).where(expired, _is_quiet()).order_by(sessions.c.seq).limit(limit)
    )
    return [to_session(row) for row in rows]
