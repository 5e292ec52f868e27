"""SQL about tokens, tickets and principals; each function is the work of one transaction.

Only digests of secrets are stored.
"""

from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from ci_tools.errors import NotFoundError
from ci_tools.stores.files import delete_files_of
from ci_tools.stores.nouns import Ticket, Token
from ci_tools.stores.schema import Now, tickets, tokens
from ci_tools.stores.sessions import delete_sessions_of, get_session, lock_principal

_FIND_TOKEN = select(tokens).where(
    tokens.c.digest == bindparam("digest_"), tokens.c.revoked_at.is_(None)
)
"""Built once: it is asked with every request."""


def to_token(row: Row[Any]) -> Token:
    """Return the token in a row."""
    return Token(
        id=row.id, principal=row.principal, created_at=row.created_at, revoked_at=row.revoked_at
    )


def to_ticket(row: Row[Any]) -> Ticket:
    """Return the ticket in a row."""
    return Ticket(
        principal=row.principal,
        session_id=row.session_id,
        path=row.path,
        action=row.action,
        expires_at=row.expires_at,
    )


def add_token(conn: Connection, token: Token, *, digest: str) -> Token:
    """Insert a token, made now."""
    row = conn.execute(
        insert(tokens)
        .values(
            id=token.id,
            principal=token.principal,
            digest=digest,
            created_at=Now(),
            revoked_at=token.revoked_at,
        )
        .returning(tokens)
    ).one()
    return to_token(row)


def find_token(conn: Connection, *, digest: str) -> Token | None:
    """Return the token with that digest, if it is not revoked."""
    row = conn.execute(_FIND_TOKEN, {"digest_": digest}).one_or_none()
    return None if row is None else to_token(row)


def list_tokens(conn: Connection) -> list[Token]:
    """Return every token, oldest first."""
    return [to_token(row) for row in conn.execute(select(tokens).order_by(tokens.c.seq))]


def revoke_token(conn: Connection, id: str) -> None:
    """Make a token useless from now on; a second time changes nothing."""
    conn.execute(
        update(tokens)
        .where(tokens.c.id == id, tokens.c.revoked_at.is_(None))
        .values(revoked_at=Now())
    )
    if conn.scalar(select(tokens.c.seq).where(tokens.c.id == id)) is None:
        raise NotFoundError("token", id)


def add_ticket(conn: Connection, ticket: Ticket, *, digest: str, seconds: float) -> Ticket:
    """Insert a ticket for so many seconds, and forget those that have run out."""
    get_session(conn, ticket.session_id, principal=ticket.principal)
    conn.execute(delete(tickets).where(tickets.c.expires_at < Now()))
    row = conn.execute(
        insert(tickets)
        .values(
            digest=digest,
            principal=ticket.principal,
            session_id=ticket.session_id,
            path=ticket.path,
            action=ticket.action,
            expires_at=Now() + seconds,
        )
        .returning(tickets)
    ).one()
    return to_ticket(row)


def take_ticket(conn: Connection, *, digest: str, action: str) -> Ticket | None:
    """Return a valid ticket for that action; one for an upload is used up by it."""
    valid = (
        tickets.c.digest == digest,
        tickets.c.action == action,
        tickets.c.expires_at >= Now(),
    )
    if action == "upload":
        row = conn.execute(delete(tickets).where(*valid).returning(tickets)).one_or_none()
    else:
        row = conn.execute(select(tickets).where(*valid)).one_or_none()
    return None if row is None else to_ticket(row)


def erase_principal(conn: Connection, principal: str) -> list[str]:
    """Delete everything of a principal; return the object-store keys that are garbage now."""
    lock_principal(conn, principal)
    keys = delete_sessions_of(conn, principal) + delete_files_of(conn, principal)
    conn.execute(delete(tickets).where(tickets.c.principal == principal))
    conn.execute(delete(tokens).where(tokens.c.principal == principal))
    return keys
