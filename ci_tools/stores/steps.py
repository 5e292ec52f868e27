"""SQL about run steps and leases; each function is the work of one transaction.

Locks are taken in one order, a session's row before its steps', so that two transactions never
wait for each other. `admit_step` and `finish_step` are on the path of every `run_code`: two
statements each, built once.
"""

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from ci_tools.errors import InvalidArgumentError, LimitError, NotFoundError
from ci_tools.models import RunStep, StepStatus
from ci_tools.stores.codec import (
    error_from_json,
    error_to_json,
    file_from_json,
    file_to_json,
    full_text_from_json,
    full_text_to_json,
    outputs_from_text,
)
from ci_tools.stores.loose import settle
from ci_tools.stores.nouns import Admission
from ci_tools.stores.schema import Now, leases, sessions, steps
from ci_tools.stores.sessions import (
    forget_lost,
    get_session,
    lock_principal,
    to_session,
    touch_session,
)


@dataclass(frozen=True, kw_only=True)
class LoadedStep:
    """A step as its row has it."""

    step: RunStep
    outputs_key: str | None
    """Where the outputs are in the object store, if they are not in `step`."""


@dataclass(frozen=True, kw_only=True)
class EncodedOutputs:
    """The outputs of a step as they are stored: as text, or by a key of the object store."""

    text: str | None
    key: str | None
    size: int


_UNFINISHED: ColumnElement[bool] = steps.c.finished_at.is_(None)

_ENTER = (
    update(sessions)
    .where(sessions.c.id == bindparam("id_"), sessions.c.principal == bindparam("principal_"))
    .values(last_used_at=Now())
    .returning(
        sessions,
        select(func.count())
        .where(steps.c.principal == bindparam("principal_"), _UNFINISHED)
        .scalar_subquery()
        .label("unfinished"),
        select(func.count())
        .where(steps.c.session_id == bindparam("id_"), _UNFINISHED)
        .scalar_subquery()
        .label("earlier"),
    )
)

_INSERT = insert(steps)

_FINISH = (
    update(steps)
    .where(steps.c.id == bindparam("id_"), _UNFINISHED)
    .values(
        status=bindparam("status"),
        epoch=bindparam("epoch"),
        finished_at=bindparam("finished_at"),
        stored_bytes=bindparam("stored_bytes"),
        outputs_key=bindparam("outputs_key"),
        full_text=bindparam("full_text"),
        result=bindparam("result"),
        outputs=bindparam("outputs"),
    )
    .returning(steps.c.created_at, steps.c.started_at)
)

_FINISH_OWN = _FINISH.where(steps.c.lease == bindparam("lease_"))

_FIND = select(steps).where(
    steps.c.id == bindparam("id_"), steps.c.principal == bindparam("principal_")
)

_LIGHT = [column for column in steps.c if column.name != "outputs"]


def to_step(row: Row[Any]) -> LoadedStep:
    """Return the step in a row, with its outputs if the row has them."""
    result = row.result or {}
    text = row._mapping.get("outputs")
    step = RunStep(
        id=row.id,
        session_id=row.session_id,
        principal=row.principal,
        code=row.code,
        status=StepStatus(row.status),
        epoch=row.epoch,
        timeout=row.timeout,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        outputs=outputs_from_text(text) if text else (),
        files=tuple(file_from_json(file) for file in result.get("files", ())),
        error=error_from_json(result.get("error")),
        notices=tuple(result.get("notices", ())),
        execution_count=result.get("execution_count"),
        full_text=full_text_from_json(row.full_text),
        truncated=result.get("truncated", False),
        replays=result.get("replays"),
    )
    return LoadedStep(step=step, outputs_key=row.outputs_key)


def admit_step(conn: Connection, step: RunStep, *, lease: str, limit: int) -> Admission:
    """Insert a step, in progress if its session has no earlier unfinished one, else queued."""
    lock_principal(conn, step.principal)
    row = conn.execute(_ENTER, {"id_": step.session_id, "principal_": step.principal}).one_or_none()
    if row is None:
        raise NotFoundError("session", step.session_id)
    if row.unfinished >= limit:
        raise LimitError(
            f"You have {row.unfinished} steps waiting or running and may have {limit}: "
            "wait until one has ended.",
            retry_after=1.0,
        )
    session = to_session(row)
    now = session.last_used_at
    runs = row.earlier == 0
    step = replace(
        step,
        status=StepStatus.IN_PROGRESS if runs else StepStatus.QUEUED,
        epoch=session.epoch if runs else 0,
        created_at=now,
        started_at=now if runs else None,
    )
    values = {
        "id": step.id,
        "session_id": step.session_id,
        "principal": step.principal,
        "status": step.status.value,
        "epoch": step.epoch,
        "timeout": step.timeout,
        "created_at": step.created_at,
        "started_at": step.started_at,
        "lease": lease,
        "cancel_requested": False,
        "stored_bytes": 0,
        "code": step.code,
    }
    try:
        conn.execute(_INSERT, values)
    except IntegrityError:
        # Its caller made the id. Nothing is chained: databases quote the record that they refuse.
        raise InvalidArgumentError("The step's id is another step's: make a new one.") from None
    return Admission(step=step, session=session)


def claim_step(conn: Connection, id: str, *, lease: str) -> Admission:
    """Turn a queued step in progress if it is the oldest unfinished one of its session."""
    # The lock keeps two processes from both finding their step to be the oldest.
    row = conn.execute(
        select(sessions)
        .join(steps, steps.c.session_id == sessions.c.id)
        .where(steps.c.id == id)
        .with_for_update(of=sessions)
    ).one_or_none()
    if row is None:
        raise NotFoundError("run step", id)
    session = to_session(row)
    earlier = steps.alias("earlier")
    conn.execute(
        update(steps)
        .where(
            steps.c.id == id,
            steps.c.status == StepStatus.QUEUED.value,
            ~select(earlier.c.seq)
            .where(
                earlier.c.session_id == steps.c.session_id,
                earlier.c.seq < steps.c.seq,
                earlier.c.finished_at.is_(None),
            )
            .exists(),
        )
        .values(
            status=StepStatus.IN_PROGRESS.value,
            started_at=Now(),
            epoch=session.epoch,
            lease=lease,
        )
    )
    found = conn.execute(select(*_LIGHT).where(steps.c.id == id)).one_or_none()
    if found is None:
        raise NotFoundError("run step", id)
    return Admission(step=to_step(found).step, session=session)


def finish_step(
    conn: Connection,
    step: RunStep,
    *,
    outputs: EncodedOutputs,
    lease: str | None,
    workspace_bytes: int | None,
    told: int | None,
) -> RunStep | None:
    """Write the final record of a step; None if it is final already or another's."""
    now = touch_session(conn, step.session_id, workspace_bytes=workspace_bytes)
    if now is None:
        raise NotFoundError("run step", step.id)
    full_text_size = step.full_text.size if step.full_text else 0
    values = {
        "id_": step.id,
        "status": step.status.value,
        "epoch": step.epoch,
        "finished_at": now,
        "stored_bytes": full_text_size + (outputs.size if outputs.key else 0),
        "outputs_key": outputs.key,
        "full_text": full_text_to_json(step.full_text),
        "result": {
            "files": [file_to_json(file) for file in step.files],
            "error": error_to_json(step.error),
            "notices": list(step.notices),
            "execution_count": step.execution_count,
            "truncated": step.truncated,
            "replays": step.replays,
        },
        "outputs": outputs.text,
    }
    if lease is None:
        row = conn.execute(_FINISH, values).one_or_none()
    else:
        row = conn.execute(_FINISH_OWN, {**values, "lease_": lease}).one_or_none()
    if row is None:
        return None
    for key in (outputs.key, step.full_text.key if step.full_text else None):
        if key is not None:
            settle(conn, key)
    if told is not None:
        forget_lost(conn, step.session_id, epoch=told)
    return replace(step, created_at=row.created_at, started_at=row.started_at, finished_at=now)


def requested_cancels(conn: Connection, *, lease: str) -> list[str]:
    """Return the unfinished steps of this lease that somebody wants cancelled."""
    rows = conn.scalars(
        select(steps.c.id)
        .where(_UNFINISHED, steps.c.lease == lease, steps.c.cancel_requested.is_(True))
        .order_by(steps.c.seq)
    )
    return list(rows)


def request_cancel(conn: Connection, id: str, *, principal: str) -> LoadedStep:
    """Note that a step is to be cancelled, if it is unfinished; return it."""
    conn.execute(
        update(steps)
        .where(steps.c.id == id, steps.c.principal == principal, _UNFINISHED)
        .values(cancel_requested=True)
    )
    return get_step(conn, id, principal=principal)


def get_step(conn: Connection, id: str, *, principal: str) -> LoadedStep:
    """Return a step of this principal."""
    row = conn.execute(_FIND, {"id_": id, "principal_": principal}).one_or_none()
    if row is None:
        raise NotFoundError("run step", id)
    return to_step(row)


def list_steps(
    conn: Connection,
    session_id: str,
    *,
    principal: str,
    limit: int,
    before: str | None,
    with_outputs: bool,
) -> list[LoadedStep]:
    """Return a session's steps, newest first, those made before the step `before`."""
    get_session(conn, session_id, principal=principal)
    query = (
        select(*(steps.c if with_outputs else _LIGHT))
        .where(steps.c.session_id == session_id)
        .order_by(steps.c.seq.desc())
        .limit(limit)
    )
    if before is not None:
        seq = conn.scalar(
            select(steps.c.seq).where(steps.c.id == before, steps.c.session_id == session_id)
        )
        if seq is None:
            raise NotFoundError("run step", before)
        query = query.where(steps.c.seq < seq)
    return [to_step(row) for row in conn.execute(query)]


def list_unfinished_steps(conn: Connection, session_id: str, *, principal: str) -> list[LoadedStep]:
    """Return a session's steps that are not final, oldest first, without outputs."""
    rows = conn.execute(
        select(*_LIGHT)
        .where(steps.c.session_id == session_id, steps.c.principal == principal, _UNFINISHED)
        .order_by(steps.c.seq)
    )
    return [to_step(row) for row in rows]


def take_lease(conn: Connection, id: str, *, seconds: float) -> None:
    """Take or renew a lease for so many seconds from now."""
    values = {"id": id, "expires_at": Now() + seconds}
    insert_into = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    statement = insert_into(leases).values(values)
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=[leases.c.id], set_={"expires_at": statement.excluded.expires_at}
        )
    )


def release_lease(conn: Connection, id: str) -> None:
    """Give up a lease, and forget those that ran out long ago."""
    conn.execute(delete(leases).where((leases.c.id == id) | (leases.c.expires_at < Now() - 3600)))


def _is_orphaned() -> ColumnElement[bool]:
    valid = select(leases.c.id).where(leases.c.id == steps.c.lease, leases.c.expires_at >= Now())
    return _UNFINISHED & ~valid.exists()


def list_orphaned_steps(conn: Connection, *, limit: int) -> list[LoadedStep]:
    """Return unfinished steps whose lease has run out or is gone, oldest first."""
    rows = conn.execute(select(*_LIGHT).where(_is_orphaned()).order_by(steps.c.seq).limit(limit))
    return [to_step(row) for row in rows]


def adopt_step(conn: Connection, id: str, *, lease: str) -> bool:
    """Take over an orphaned step; tell whether it was one and nobody else was first."""
    row = conn.execute(select(steps.c.lease).where(steps.c.id == id, _is_orphaned())).one_or_none()
    if row is None:
        return False
    # Compared with the lease seen above: of two that saw it, the second finds it changed.
    adopted = conn.execute(
        update(steps)
        .where(steps.c.id == id, _UNFINISHED, steps.c.lease.is_not_distinct_from(row.lease))
        .values(lease=lease)
        .returning(steps.c.seq)
    )
    return adopted.one_or_none() is not None
