"""SQL about files whose bytes are in the object store; each function is one transaction."""

from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select

from ci_tools.errors import LimitError, NotFoundError
from ci_tools.models import File
from ci_tools.stores.nouns import Load, StoredFile
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


def put_file(conn: Connection, file: File, *, key: str, limit: int) -> tuple[File, str | None]:
    """Insert a file, and return the key of the one of the same session and path it replaces."""
    lock_principal(conn, file.principal)
    replaced = None
    if file.session_id is not None:
        get_session(conn, file.session_id, principal=file.principal)
        replaced = conn.scalar(
            delete(files)
            .where(files.c.session_id == file.session_id, files.c.path == file.path)
            .returning(files.c.key)
        )
    used = stored_bytes(conn, principal=file.principal)
    if used + file.size > limit:
        raise _full(used, limit)
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
    return to_file(row).file, replaced


def check_room(conn: Connection, file: File, *, limit: int) -> None:
    """Raise if `file` would not fit beside what its principal keeps, without what it replaces."""
    replaced = conn.scalar(
        select(files.c.size).where(files.c.session_id == file.session_id, files.c.path == file.path)
    )
    used = stored_bytes(conn, principal=file.principal) - (replaced or 0)
    if used + file.size > limit:
        raise _full(used, limit)


def _full(used: int, limit: int) -> LimitError:
    return LimitError(
        f"You keep {used} bytes and may keep {limit}: delete files or close sessions first."
    )


def find_file(conn: Connection, session_id: str, path: str, *, principal: str) -> StoredFile | None:
    """Return the file of that session and path, if there is one."""
    row = conn.execute(
        select(files).where(
            files.c.session_id == session_id,
            files.c.path == path,
            files.c.principal == principal,
        )
    ).one_or_none()
    return None if row is None else to_file(row)


def get_file(conn: Connection, id: str, *, principal: str) -> StoredFile:
    """Return a file of this principal."""
    row = conn.execute(
        select(files).where(files.c.id == id, files.c.principal == principal)
    ).one_or_none()
    if row is None:
        raise NotFoundError("file", id)
    return to_file(row)


def list_stored_files(conn: Connection, session_id: str, *, principal: str) -> list[StoredFile]:
    """Return a session's files, sorted by path."""
    get_session(conn, session_id, principal=principal)
    rows = conn.execute(select(files).where(files.c.session_id == session_id))
    # Sorted here: databases sort text by their own rules.
    return sorted((to_file(row) for row in rows), key=lambda stored: stored.file.path)


def delete_file(conn: Connection, id: str, *, principal: str) -> str:
    """Delete a file; return its key."""
    key: str | None = conn.scalar(
        delete(files).where(files.c.id == id, files.c.principal == principal).returning(files.c.key)
    )
    if key is None:
        raise NotFoundError("file", id)
    return key


def delete_files_of(conn: Connection, principal: str) -> list[str]:
    """Delete every file of a principal; return their keys."""
    return list(
        conn.scalars(delete(files).where(files.c.principal == principal).returning(files.c.key))
    )


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
