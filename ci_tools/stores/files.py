"""SQL about files whose bytes are in the object store; each function is one transaction."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from ci_tools.errors import LimitError, NotFoundError
from ci_tools.models import File, new_id
from ci_tools.stores.loose import loosen, settle
from ci_tools.stores.nouns import Load, Placement, StoredFile
from ci_tools.stores.placements import drop_upload, forget_ids, write_placement
from ci_tools.stores.schema import Now, files, sessions, steps
from ci_tools.stores.sessions import get_session, lock_principal


def to_file(row: Row[Any]) -> StoredFile:
    """Return the file in a row."""
    file = File(
        id=row.id,
        principal=row.principal,
        session_id=row.session_id,
        path=row.path,
        size=row.size,
        sha256=row.sha256,
        media_type=row.media_type,
        modified_at=row.modified_at,
    )
    return StoredFile(file=file, key=row.key)


def put_file(
    conn: Connection,
    file: File,
    *,
    key: str,
    limit: int,
    modified_at: float | None = None,
    is_announced: bool = False,
) -> tuple[File, str | None]:
    """Insert a file, and return the key of the one of the same session and path it replaces.

    In a session its path gets its id; `modified_at` is that of the copy in the session's folder. A
    key that `is_announced` must still be (see `loose.py`).
    """
    lock_principal(conn, file.principal)
    replaced = None
    if file.session_id is not None:
        get_session(conn, file.session_id, principal=file.principal)
        replaced = drop_upload(conn, file.session_id, file.path)
    _check_room(conn, file, limit=limit)
    settle(conn, key, is_announced=is_announced)
    stored = _insert(conn, file, key=key)
    if file.session_id is not None:
        write_placement(conn, _placement(stored, file.session_id, modified_at))
    return stored, replaced


def keep_file(
    conn: Connection,
    file: File,
    *,
    session_id: str,
    key: str,
    limit: int,
    modified_at: float | None,
    is_announced: bool = False,
) -> tuple[File, str | None]:
    """Insert a copy of a session's file, which outlives the session, and give its path the id.

    If the id is kept already with the same bytes, that is the file, and the new key is returned
    as garbage. An upload behind the path stays until its session ends.
    """
    lock_principal(conn, file.principal)
    get_session(conn, session_id, principal=file.principal)
    row = conn.execute(select(files).where(files.c.id == file.id)).one_or_none()
    if row is not None and row.sha256 == file.sha256 and row.principal == file.principal:
        return to_file(row).file, key
    if row is not None:  # somebody kept other bytes under it meanwhile
        file = replace(file, id=new_id("file-"))
    _check_room(conn, file, limit=limit)
    settle(conn, key, is_announced=is_announced)
    stored = _insert(conn, file, key=key)
    write_placement(conn, _placement(stored, session_id, modified_at))
    return stored, None


def release_file(conn: Connection, id: str, *, principal: str) -> File:
    """Let a session's upload outlive the session; return it."""
    row = conn.execute(
        update(files)
        .where(files.c.id == id, files.c.principal == principal)
        .values(session_id=None)
        .returning(files)
    ).one_or_none()
    if row is None:
        raise NotFoundError("file", id)
    return to_file(row).file


def _insert(conn: Connection, file: File, *, key: str) -> File:
    row = conn.execute(
        insert(files)
        .values(
            id=file.id,
            principal=file.principal,
            session_id=file.session_id,
            path=file.path,
            size=file.size,
            sha256=file.sha256,
            media_type=file.media_type,
            modified_at=Now(),
            key=key,
        )
        .returning(files)
    ).one()
    return to_file(row).file


def _placement(file: File, session_id: str, modified_at: float | None) -> Placement:
    return Placement(
        session_id=session_id,
        path=file.path,
        file_id=file.id or "",
        size=file.size,
        sha256=file.sha256,
        modified_at=modified_at,
    )


def check_room(conn: Connection, file: File, *, limit: int) -> None:
    """Raise if `file` would not fit beside what its principal keeps, without what it replaces."""
    replaced = None
    if file.session_id is not None:
        replaced = conn.scalar(
            select(files.c.size).where(
                files.c.session_id == file.session_id, files.c.path == file.path
            )
        )
    _check_room(conn, file, limit=limit, freed=replaced or 0)


def _check_room(conn: Connection, file: File, *, limit: int, freed: int = 0) -> None:
    used = stored_bytes(conn, principal=file.principal) - freed
    if used + file.size > limit:
        raise _full(used, limit)


def _full(used: int, limit: int) -> LimitError:
    return LimitError(
        f"You keep {used} bytes and may keep {limit}: delete files or close sessions first."
    )


def get_file(conn: Connection, id: str, *, principal: str) -> StoredFile:
    """Return a file of this principal."""
    row = conn.execute(
        select(files).where(files.c.id == id, files.c.principal == principal)
    ).one_or_none()
    if row is None:
        raise NotFoundError("file", id)
    return to_file(row)


def delete_file(conn: Connection, id: str, *, principal: str) -> str:
    """Delete a file, and its id wherever a session's path has it; return its key."""
    key: str | None = conn.scalar(
        delete(files).where(files.c.id == id, files.c.principal == principal).returning(files.c.key)
    )
    if key is None:
        raise NotFoundError("file", id)
    forget_ids(conn, [id])
    loosen(conn, [key])
    return key


def delete_files_of(conn: Connection, principal: str) -> list[str]:
    """Delete every file of a principal; return their keys."""
    keys = list(
        conn.scalars(delete(files).where(files.c.principal == principal).returning(files.c.key))
    )
    loosen(conn, keys)
    return keys


def measure_load(conn: Connection) -> Load:
    """Count what is kept for all principals."""
    count, kernels, workspaces = conn.execute(
        select(func.count(), func.count(sessions.c.kernel), func.sum(sessions.c.workspace_bytes))
    ).one()
    uploads = conn.scalar(select(func.sum(files.c.size)))
    texts = conn.scalar(select(func.sum(steps.c.stored_bytes)).where(steps.c.stored_bytes > 0))
    stored = sum(int(size or 0) for size in (workspaces, uploads, texts))
    return Load(sessions=count, kernels=kernels, stored_bytes=stored)


def stored_bytes(conn: Connection, *, principal: str) -> int:
    """Count the bytes that a principal keeps: files, texts and outputs of steps, workspaces."""

    def total(query: Select[tuple[int]]) -> int:
        return int(conn.scalar(query) or 0)  # PostgreSQL sums to a Decimal

    return (
        total(select(func.sum(files.c.size)).where(files.c.principal == principal))
        + total(
            select(func.sum(sessions.c.workspace_bytes)).where(sessions.c.principal == principal)
        )
        + total(
            select(func.sum(steps.c.stored_bytes)).where(
                steps.c.principal == principal, steps.c.stored_bytes > 0
            )
        )
    )
