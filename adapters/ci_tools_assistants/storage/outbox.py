"""SQL about events that another server is to be told of.

How this works: an event is stored in the transaction that it is about, so that there is none
without the other. A process that tells it first moves the time of its next try, and removes it when
it was taken: an event of a process that ends meanwhile is told by another one, when that time has
come.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from ci_tools.models import new_id
from ci_tools.stores.schema import Now
from ci_tools_assistants.storage.schema import webhooks


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """An event that is to be told now."""

    id: str
    run_id: str
    body: str
    """JSON, the same at each try."""

    tries: int
    """How often it was told in vain."""


def add_event(conn: Connection, *, principal: str, run_id: str, body: str) -> None:
    """Store an event, to be told at once."""
    conn.execute(
        insert(webhooks).values(
            id=new_id("evt_"), principal=principal, run=run_id, body=body, tries=0, due_at=Now()
        )
    )


def claim_events(conn: Connection, *, limit: int, seconds: float) -> list[Waiting]:
    """Return events whose time has come; nobody else is given them for so many seconds."""
    found = conn.execute(
        select(webhooks).where(webhooks.c.due_at <= Now()).order_by(webhooks.c.due_at).limit(limit)
    ).all()
    claimed = []
    for row in found:
        # Compared with the time seen above: of two that saw it, the second finds it changed.
        moved = conn.execute(
            update(webhooks)
            .where(webhooks.c.seq == row.seq, webhooks.c.due_at == row.due_at)
            .values(due_at=Now() + seconds)
        )
        if moved.rowcount == 1:
            claimed.append(Waiting(id=row.id, run_id=row.run, body=row.body, tries=row.tries))
    return claimed


def remove_event(conn: Connection, id: str) -> None:
    """Forget an event: it was told, or given up."""
    conn.execute(delete(webhooks).where(webhooks.c.id == id))


def postpone_event(conn: Connection, id: str, *, seconds: float) -> None:
    """Note that an event was told in vain, and is to be told again in so many seconds."""
    conn.execute(
        update(webhooks)
        .where(webhooks.c.id == id)
        .values(due_at=Now() + seconds, tries=webhooks.c.tries + 1)
    )
