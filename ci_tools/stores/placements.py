"""SQL about the file ids of paths; each function is the work of one transaction."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from ci_tools.errors import NotFoundError
from ci_tools.stores.loose import loosen
from ci_tools.stores.nouns import Placement
from ci_tools.stores.schema import files, placements, sessions
from ci_tools.stores.sessions import get_session


def to_placement(row: Row[Any]) -> Placement:
    """Return the placement in a row."""
    return Placement(
        session_id=row.session_id,
        path=row.path,
        file_id=row.file_id,
        size=row.size,
        sha256=row.sha256,
        modified_at=row.modified_at,
    )


def place_file(conn: Connection, placement: Placement, *, principal: str) -> str | None:
    """Make `file_id` the id of a path, and delete the upload that was kept for that path alone.

    Returns its key, which is garbage then.
    """
    _lock_session(conn, placement.session_id, principal=principal)
    replaced = drop_upload(conn, placement.session_id, placement.path, besides=placement.file_id)
    write_placement(conn, placement)
    return replaced


def name_file(
    conn: Connection, placement: Placement, *, principal: str, instead: str | None
) -> str:
    """Make `file_id` the id of a path if it is still known as `instead`; return the id it has."""
    _lock_session(conn, placement.session_id, principal=principal)
    found = find_placement(conn, placement.session_id, placement.path, principal=principal)
    if found is not None and found.file_id != instead:
        return found.file_id  # somebody was first
    write_placement(conn, placement)
    return placement.file_id


def write_placement(conn: Connection, placement: Placement) -> None:
    """Insert a placement in the place of what the path had."""
    conn.execute(
        delete(placements).where(
            placements.c.session_id == placement.session_id,
            placements.c.path == placement.path,
        )
    )
    conn.execute(
        insert(placements).values(
            session_id=placement.session_id,
            path=placement.path,
            file_id=placement.file_id,
            size=placement.size,
            sha256=placement.sha256,
            modified_at=placement.modified_at,
        )
    )


def find_placement(
    conn: Connection, session_id: str, path: str, *, principal: str
) -> Placement | None:
    """Return what a path is known as, if it is."""
    get_session(conn, session_id, principal=principal)
    row = conn.execute(
        select(placements).where(placements.c.session_id == session_id, placements.c.path == path)
    ).one_or_none()
    return None if row is None else to_placement(row)


def list_placements(
    conn: Connection, session_id: str, *, principal: str, file_id: str | None = None
) -> list[Placement]:
    """Return what the paths of a session are known as, or those of one file id, by path."""
    get_session(conn, session_id, principal=principal)
    query = select(placements).where(placements.c.session_id == session_id)
    if file_id is not None:
        query = query.where(placements.c.file_id == file_id)
    # Sorted here: databases sort text by their own rules.
    return sorted(map(to_placement, conn.execute(query)), key=lambda placement: placement.path)


def remove_path(conn: Connection, session_id: str, path: str, *, principal: str) -> str | None:
    """Forget a path and the upload that was kept for it alone; return the key of that."""
    _lock_session(conn, session_id, principal=principal)
    key = drop_upload(conn, session_id, path)
    conn.execute(
        delete(placements).where(placements.c.session_id == session_id, placements.c.path == path)
    )
    return key


def drop_upload(
    conn: Connection, session_id: str, path: str, *, besides: str | None = None
) -> str | None:
    """Delete the upload of a session's path, if there is one with another id; return its key."""
    statement = delete(files).where(files.c.session_id == session_id, files.c.path == path)
    if besides is not None:
        statement = statement.where(files.c.id != besides)
    row = conn.execute(statement.returning(files.c.id, files.c.key)).one_or_none()
    if row is None:
        return None
    forget_ids(conn, [row.id])
    loosen(conn, [row.key])
    return str(row.key)


def forget_ids(conn: Connection, file_ids: Collection[str]) -> None:
    """Take the ids of deleted files from the paths that have them, in every session."""
    for file_id in file_ids:
        conn.execute(delete(placements).where(placements.c.file_id == file_id))


def _lock_session(conn: Connection, id: str, *, principal: str) -> None:
    """Let nobody else name this session's files until the transaction ends."""
    mine = (sessions.c.id == id, sessions.c.principal == principal)
    if conn.scalar(select(sessions.c.seq).where(*mine).with_for_update()) is None:
        raise NotFoundError("session", id)
