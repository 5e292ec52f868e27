"""Files under ids: bytes that the service keeps, and how paths of sessions come to their ids.

How this works: a *kept* file is a row of `files` and an object. A *placement* says under which id a
path of a session's folder is known, and of which bytes; where they differ from what is there now,
code has changed the file, and it has lost the id. A placement without a size is a handle: its id
stands for whatever is there, until it is kept, which ties the id to those bytes for good.
"""

import hashlib
import mimetypes
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio

from ci_tools.changes import HASHED_BYTES
from ci_tools.engine import Engine
from ci_tools.errors import FileTooLargeError, NotFoundError
from ci_tools.folders import SessionFolder
from ci_tools.kernel import FileStat, Workspace
from ci_tools.live import CLOSE_GRACE
from ci_tools.models import File, Session, new_id
from ci_tools.stores.nouns import Placement
from ci_tools.workspace import check_path


class Uploads:
    """Files of one principal under ids, in sessions and outside of them.

    `SessionService.uploads` is how to get it. Every id of another principal is `NotFoundError`.
    """

    def __init__(self, engine: Engine, principal: str) -> None:
        self._engine = engine
        self._principal = principal

    async def add(self, name: str, content: bytes | AsyncIterable[bytes]) -> File:
        """Keep a file that is in no session; `name` is its path where it will be staged.

        Raises:
            FileTooLargeError: It is larger than the setting `file_limit`; nothing was kept.
            LimitError: The principal keeps all that it may.
            InvalidPathError: The name cannot be used.
        """
        self._engine.admit(self._principal)
        path = check_path(name)
        engine = self._engine
        taken = await take_bytes(engine, content, path, principal=self._principal)
        async with _garbage_unless_stored(engine, taken):
            file, _ = await engine.records.put_file(
                taken.to_file(path, self._principal, session_id=None),
                key=taken.key,
                limit=engine.settings.bytes_per_principal,
            )
        return file

    async def get(self, file_id: str) -> File:
        """Return a kept file; `session_id` is set if it will be deleted with that session."""
        self._engine.admit(self._principal)
        return (await self._engine.records.get_file(file_id, principal=self._principal)).file

    @asynccontextmanager
    async def open(
        self, file_id: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a kept file's bytes, or `length` of them from `offset`."""
        self._engine.admit(self._principal)
        stored = await self._engine.records.get_file(file_id, principal=self._principal)
        async with self._engine.blobs.open(stored.key, offset=offset, length=length) as chunks:
            yield chunks

    async def delete(self, file_id: str) -> None:
        """Delete a kept file; copies in sessions stay, and are known by no id from then on."""
        self._engine.admit(self._principal)
        key = await self._engine.records.delete_file(file_id, principal=self._principal)
        await self._engine.blobs.delete([key])

    async def stage(self, session_id: str, file_id: str, path: str | None = None) -> File:
        """Copy a kept file into a session, by default under its own path.

        The copy is known by the same id until code changes it. What was there is replaced.
        """
        self._engine.admit(self._principal)
        records = self._engine.records
        stored = await records.get_file(file_id, principal=self._principal)
        path = check_path(path if path is not None else stored.file.path)
        folder = await self._folder(session_id)
        modified_at = await folder.put(path, stored.key, stored.file.size)
        placement = Placement(
            session_id=session_id,
            path=path,
            file_id=file_id,
            size=stored.file.size,
            sha256=stored.file.sha256,
            modified_at=modified_at,
        )
        replaced = await records.place_file(placement, principal=self._principal)
        if replaced is not None:
            await self._engine.blobs.delete([replaced])
        return replace(
            stored.file,
            session_id=session_id,
            path=path,
            media_type=media_type(path),
            modified_at=modified_at,
        )

    async def keep(self, session_id: str, path: str) -> File:
        """Keep a copy of a session's file, which outlives the session.

        It has the id by which the path is known, which `list_files` then shows too. A file that is
        kept already, and has not changed, is returned as it is.

        Raises:
            FileTooLargeError: It is larger than the setting `file_limit`.
            LimitError: The principal keeps all that it may.
        """
        self._engine.admit(self._principal)
        path = check_path(path)
        engine, records = self._engine, self._engine.records
        folder = await self._folder(session_id)
        stat = await folder.call(lambda place: place.stat(path))
        placement = await records.find_placement(session_id, path, principal=self._principal)
        if placement is not None and await self._is_kept(folder, placement, stat):
            return await records.release_file(placement.file_id, principal=self._principal)
        async with folder.open_file(path) as chunks:
            taken = await take_bytes(engine, chunks, path, principal=self._principal)
        file = taken.to_file(path, self._principal, session_id=None)
        if placement is not None and (placement.size is None or taken.sha256 == placement.sha256):
            file = replace(file, id=placement.file_id)
        async with _garbage_unless_stored(engine, taken):
            kept, garbage = await records.keep_file(
                file,
                session_id=session_id,
                key=taken.key,
                limit=engine.settings.bytes_per_principal,
                modified_at=stat.modified_at if stat.size == taken.size else None,
            )
        if garbage is not None:
            await engine.blobs.delete([garbage])
        if kept.session_id is not None and kept.id is not None:
            return await records.release_file(kept.id, principal=self._principal)
        return kept

    async def identify(self, session_id: str, path: str) -> File:
        """Return a session's file with an id, which it gets if it has none; nothing is copied."""
        self._engine.admit(self._principal)
        path = check_path(path)
        folder = await self._folder(session_id)
        placement = await self._engine.records.find_placement(
            session_id, path, principal=self._principal
        )
        file = await folder.call(lambda place: _look(folder.session, place, path, placement))
        if file.id is not None:
            return file
        id = await self._engine.records.name_file(
            Placement(session_id=session_id, path=path, file_id=new_id("file-")),
            principal=self._principal,
            instead=None if placement is None else placement.file_id,
        )
        return replace(file, id=id)

    async def find(self, session_id: str, file_id: str) -> File:
        """Return the file of a session that is known by an id.

        Raises:
            NotFoundError: There is none, or code has changed or deleted it.
        """
        self._engine.admit(self._principal)
        folder = await self._folder(session_id)
        for placement in await self._engine.records.list_placements(
            session_id, principal=self._principal, file_id=file_id
        ):
            path, found = placement.path, placement
            try:
                file = await folder.call(
                    lambda place, path=path, found=found: _look(  # type: ignore[misc]
                        folder.session, place, path, found
                    )
                )
            except NotFoundError:
                continue
            if file.id is not None:
                return file
        raise NotFoundError("file", file_id)

    async def _folder(self, session_id: str) -> SessionFolder:
        session = await self._engine.records.get_session(session_id, principal=self._principal)
        return SessionFolder(self._engine, session)

    async def _is_kept(self, folder: SessionFolder, placement: Placement, stat: FileStat) -> bool:
        """Tell whether what is there is what is kept under its id; by hash, as code may lie."""
        if placement.size != stat.size or stat.size > HASHED_BYTES:
            return False
        try:
            await self._engine.records.get_file(placement.file_id, principal=self._principal)
        except NotFoundError:
            return False
        sha256 = await folder.call(lambda place: place.sha256(placement.path))
        return sha256 is not None and sha256 == placement.sha256


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Bytes that are in the object store and in no record yet."""

    key: str
    size: int
    sha256: str

    def to_file(self, path: str, principal: str, *, session_id: str | None) -> File:
        """Describe them as a new file."""
        return File(
            id=new_id("file-"),
            principal=principal,
            session_id=session_id,
            path=path,
            size=self.size,
            sha256=self.sha256,
            media_type=media_type(path),
            modified_at=0,
        )


async def take_bytes(
    engine: Engine, content: bytes | AsyncIterable[bytes], path: str, *, principal: str
) -> Taken:
    """Put bytes into the object store as they come: counted, hashed and limited."""
    digest = hashlib.sha256()
    counted = _Counted(content, path, digest.update, engine.settings.file_limit)
    key = await engine.blobs.put(counted.chunks(), principal=principal)
    return Taken(key=key, size=counted.size, sha256=digest.hexdigest())


class _Counted:
    """Bytes on their way into the store."""

    def __init__(
        self,
        content: bytes | AsyncIterable[bytes],
        path: str,
        hash_chunk: Callable[[bytes], None],
        limit: int,
    ) -> None:
        self._content = content
        self._path = path
        self._hash_chunk = hash_chunk
        self._limit = limit
        self.size = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes; stop with an error where the limit is passed."""
        if isinstance(self._content, bytes):
            yield self._take(self._content)
            return
        async for chunk in self._content:
            yield self._take(chunk)

    def _take(self, chunk: bytes) -> bytes:
        self.size += len(chunk)
        if self.size > self._limit:
            raise FileTooLargeError(self._path, self._limit)
        self._hash_chunk(chunk)
        return chunk


async def upload(
    engine: Engine, session: Session, path: str, content: bytes | AsyncIterable[bytes]
) -> File:
    """Keep a file, put it into a session and give its (checked) path the id."""
    taken = await take_bytes(engine, content, path, principal=session.principal)
    file = taken.to_file(path, session.principal, session_id=session.id)
    limit = engine.settings.bytes_per_principal
    async with _garbage_unless_stored(engine, taken):
        # Before it is staged: what is in the session's folder cannot be taken back.
        await engine.records.check_room(file, limit=limit)
        modified_at = await SessionFolder(engine, session).put(path, taken.key, taken.size)
        file, replaced = await engine.records.put_file(
            file, key=taken.key, limit=limit, modified_at=modified_at
        )
    if replaced is not None:
        await engine.blobs.delete([replaced])
    return replace(file, modified_at=modified_at)  # as the copy has it, which is what is shown


async def list_files(engine: Engine, session: Session, *, limit: int) -> list[File]:
    """List a session's files, sorted by path, with the ids that they have."""
    placements = {
        placement.path: placement
        for placement in await engine.records.list_placements(
            session.id, principal=session.principal
        )
    }

    async def look(place: Workspace) -> list[File]:
        return [
            await _describe(session, place, stat, placements.get(stat.path))
            for stat in await place.list_files(limit=limit)
        ]

    return await SessionFolder(engine, session).call(look)


async def stat_file(engine: Engine, session: Session, path: str, *, digest: bool) -> File:
    """Describe one file of a session, with its SHA-256 unless that is too large or not wanted."""
    placement = await engine.records.find_placement(session.id, path, principal=session.principal)

    async def look(place: Workspace) -> File:
        file = await _look(session, place, path, placement)
        if not digest:
            return file
        sha256 = await place.sha256(path) if file.size <= HASHED_BYTES else None
        changed = placement is not None and placement.size is not None and file.sha256 != sha256
        return replace(file, sha256=sha256, id=None if changed else file.id)

    return await SessionFolder(engine, session).call(look)


async def _look(session: Session, place: Workspace, path: str, placement: Placement | None) -> File:
    return await _describe(session, place, await place.stat(path), placement)


async def _describe(
    session: Session, place: Workspace, stat: FileStat, placement: Placement | None
) -> File:
    """Describe a file of the folder, with its id if that stands for what is there."""
    known = placement if placement and await _is_current(place, placement, stat) else None
    return File(
        id=known.file_id if known else None,
        principal=session.principal,
        session_id=session.id,
        path=stat.path,
        size=stat.size,
        sha256=known.sha256 if known else None,
        media_type=media_type(stat.path),
        modified_at=stat.modified_at,
    )


async def _is_current(place: Workspace, placement: Placement, stat: FileStat) -> bool:
    """Tell whether a file is what its id stands for; its bytes are read only if they may not be."""
    if placement.size is None:
        return True
    if placement.size != stat.size:
        return False
    if placement.modified_at in (None, stat.modified_at) or stat.size > HASHED_BYTES:
        return True
    try:
        return await place.sha256(stat.path) in (None, placement.sha256)
    except NotFoundError:  # deleted meanwhile
        return False


@asynccontextmanager
async def _garbage_unless_stored(engine: Engine, taken: Taken) -> AsyncIterator[None]:
    """Delete bytes again for which no record could be written."""
    try:
        yield
    except BaseException:
        with anyio.move_on_after(CLOSE_GRACE, shield=True):
            await engine.blobs.delete([taken.key])
        raise


def media_type(path: str) -> str:
    """Guess a file's media type by its name."""
    return mimetypes.guess_type(path)[0] or "application/octet-stream"
