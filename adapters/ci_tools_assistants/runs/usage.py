"""Sessions of the code interpreter as they are counted.

The hosted API's guides define one: a thread's interpreter is active for an hour, which is one
session however often code runs in it; code after that hour begins another. Two threads at once are
two sessions. https://platform.openai.com/docs/assistants/tools/code-interpreter
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, func, insert, select

from ci_tools.stores.sessions import lock_principal
from ci_tools_assistants.objects import Object, now
from ci_tools_assistants.storage.schema import usage

HOUR = 3600
"""Seconds that a counted session lasts."""


@dataclass(frozen=True, kw_only=True)
class CountedSession:
    """An hour, at most, in which a thread ran code."""

    thread_id: str
    started_at: int


def count_activity(
    conn: Connection, *, principal: str, thread_id: str, moment: int | None = None
) -> bool:
    """Note that a thread runs code now; tell whether that began another session."""
    moment = now() if moment is None else moment
    # Two service processes may run code of one thread one after the other.
    lock_principal(conn, principal)
    began = conn.scalar(
        select(func.max(usage.c.started_at)).where(
            usage.c.thread == thread_id, usage.c.principal == principal
        )
    )
    if began is not None and moment < began + HOUR:
        return False
    conn.execute(insert(usage).values(principal=principal, thread=thread_id, started_at=moment))
    return True


def list_sessions(
    conn: Connection, *, principal: str, since: int = 0, until: int | None = None
) -> list[CountedSession]:
    """Return a principal's sessions that began in a time (Unix seconds), oldest first."""
    query = select(usage.c.thread, usage.c.started_at).where(
        usage.c.principal == principal, usage.c.started_at >= since
    )
    if until is not None:
        query = query.where(usage.c.started_at < until)
    rows = conn.execute(query.order_by(usage.c.started_at, usage.c.seq))
    return [CountedSession(thread_id=row.thread, started_at=row.started_at) for row in rows]


def count_all(conn: Connection) -> int:
    """Count the sessions of all principals that there ever were; for operators."""
    return conn.scalar(select(func.count()).select_from(usage)) or 0


def summarise(principal: str, sessions: Sequence[CountedSession]) -> Object:
    """Return the sessions as a report: in all, by thread and by day (UTC)."""
    threads = Counter(session.thread_id for session in sessions)
    days = Counter(
        datetime.fromtimestamp(session.started_at, UTC).date().isoformat() for session in sessions
    )
    return {
        "principal": principal,
        "code_interpreter_sessions": len(sessions),
        "threads": dict(sorted(threads.items())),
        "days": dict(sorted(days.items())),
    }
