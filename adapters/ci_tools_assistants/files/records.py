"""Files of the API: a wire object each, over a file that the core keeps under the same id."""

import hashlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from pathlib import PurePosixPath

import anyio
from sqlalchemy import Connection, select

from ci_tools import CIToolsError, File, NotFoundError, SessionService
from ci_tools.render import Image
from ci_tools_assistants.errors import NoSuchObject
from ci_tools_assistants.files.detaching import delete_file
from ci_tools_assistants.files.encodings import EncodingProbe
from ci_tools_assistants.files.purposes import OUTPUT, USER_DATA
from ci_tools_assistants.files.staging import Wanted, to_name
from ci_tools_assistants.files.supported_files import find_media_type, holds_text
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.storage.records import Records
from ci_tools_assistants.storage.schema import files

logger = logging.getLogger(__name__)

_CLEAN_UP = 10.0
"""Seconds to take back a file whose record could not be written."""

_EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/gif": "gif", "image/webp": "webp"}

_CHARSETS = {"ascii": "utf-8", "utf-8": "utf-8", "utf-16": "utf-16"}


class FileRecords:
    """The files of one principal."""

    def __init__(self, service: SessionService, records: Records) -> None:
        self._service = service
        self._records = records
        self._principal = service.principal

    async def store(
        self,
        filename: str,
        content: AsyncIterator[bytes],
        *,
        purpose: str,
        expires_at: int | None = None,
    ) -> Object:
        """Keep a file as its bytes arrive; on an error nothing of it is kept."""
        taken = await self.take(filename, content)
        return await self.enter(taken, filename, purpose=purpose, expires_at=expires_at)

    async def take(self, filename: str, content: AsyncIterator[bytes]) -> "Taken":
        """Keep a file's bytes; they are to be entered, or left again."""
        probe = EncodingProbe() if holds_text(filename) else None
        chunks = content if probe is None else probe.watch(content)
        file = await self._service.uploads.add(to_name(filename, instead="file"), chunks)
        return Taken(file, None if probe is None else probe.encoding())

    async def leave(self, taken: "Taken") -> None:
        """Delete bytes that got no record."""
        assert taken.file.id is not None
        with anyio.move_on_after(_CLEAN_UP, shield=True):
            try:
                await self._service.uploads.delete(taken.file.id)
            except CIToolsError as error:
                logger.warning("file %s: not taken back: %s", taken.file.id, error)

    async def enter(
        self,
        taken: "Taken",
        filename: str,
        *,
        purpose: str,
        expires_at: int | None = None,
    ) -> Object:
        """Make the wire object of kept bytes; they are deleted if that fails."""
        file = _to_object(taken.file, filename, purpose=purpose, expires_at=expires_at)
        private: Object = {"sha256": taken.file.sha256, "encoding": taken.encoding}
        try:
            return await self._records.add(
                Kind.FILE, file, principal=self._principal, private=private
            )
        except BaseException:
            await self.leave(taken)
            raise

    async def publish(self, session_id: str, path: str) -> Object:
        """Keep a session's file as it is now, as an output of the interpreter."""
        kept = await self._service.uploads.keep(session_id, path)
        assert kept.id is not None
        try:
            return await self._records.get(Kind.FILE, kept.id, principal=self._principal)
        except NoSuchObject:
            return await self.enter(Taken(kept, None), PurePosixPath(path).name, purpose=OUTPUT)

    async def publish_image(self, image: Image) -> str:
        """Keep an image that code displayed; return its file's id."""
        digest = hashlib.sha256(image.data).hexdigest()[:12]
        name = f"image-{digest}.{_EXTENSIONS.get(image.media_type, 'png')}"
        file = await self._service.uploads.add(name, image.data)
        entered = await self.enter(Taken(file, None), name, purpose=OUTPUT)
        return str(entered["id"])

    async def get(self, file_id: str) -> Object:
        """Return a file's object.

        A file that came by another face of the service, such as a container, has none of its own;
        it is described by what is known of it.

        Raises:
            NoSuchObject: There is no such file, or it has expired.
        """
        try:
            file = await self._records.get(Kind.FILE, file_id, principal=self._principal)
        except NoSuchObject:
            return await self._find_kept(file_id)
        if is_expired(file):
            raise NoSuchObject(Kind.FILE, file_id)
        return file

    async def find_wanted(self, owners: Mapping[str, str]) -> list[Wanted]:
        """Return the files that code should see, given their owners by id, without gone ones."""
        if not owners:
            return []
        rows = await self._records.read(lambda conn: _read(conn, owners, self._principal))
        found: list[Wanted] = []
        for id, owner in owners.items():
            if id in rows:
                file, private = rows[id]
                if not is_expired(file):
                    found.append(_to_wanted(file, private, owner))
                continue
            try:
                kept = await self._service.uploads.get(id)
            except NotFoundError:
                continue
            name = PurePosixPath(kept.path).name
            found.append(Wanted(id=id, filename=name, owner=owner, sha256=kept.sha256))
        return found

    async def find_media_type(self, file: Object) -> str:
        """Return the type of a file's bytes, with their encoding if that is known."""
        media_type = find_media_type(file["filename"])
        if not media_type.startswith("text/"):
            return media_type
        rows = await self._records.read(lambda conn: _read(conn, [file["id"]], self._principal))
        _, private = rows.get(file["id"], ({}, {}))
        charset = _CHARSETS.get(str(private.get("encoding")))
        return f"{media_type}; charset={charset}" if charset else media_type

    async def delete(self, file_id: str) -> None:
        """Delete a file, and detach it from all assistants and threads.

        Raises:
            NoSuchObject: There is no such file.
        """
        known = await self._records.write(
            partial(delete_file, file_id=file_id, principal=self._principal), bulk=True
        )
        try:
            await self._service.uploads.delete(file_id)
        except NotFoundError:
            if not known:
                raise NoSuchObject(Kind.FILE, file_id) from None

    async def _find_kept(self, file_id: str) -> Object:
        try:
            kept = await self._service.uploads.get(file_id)
        except NotFoundError:
            raise NoSuchObject(Kind.FILE, file_id) from None
        return _to_object(kept, PurePosixPath(kept.path).name, purpose=USER_DATA)


class Taken:
    """Bytes that are kept, and what they were seen to be."""

    def __init__(self, file: File, encoding: str | None) -> None:
        self.file = file
        self.encoding = encoding


def is_expired(file: Object) -> bool:
    """Tell whether a file's time is over; it is deleted some minutes later."""
    expires_at = file.get("expires_at")
    return expires_at is not None and expires_at <= now()


def _read(conn: Connection, ids: Iterable[str], principal: str) -> dict[str, tuple[Object, Object]]:
    wanted = [id for id in ids if id.isascii() and id.isprintable()]
    rows = conn.execute(
        select(files.c.id, files.c.data, files.c.private).where(
            files.c.id.in_(wanted), files.c.principal == principal
        )
    )
    return {row.id: (row.data, row.private or {}) for row in rows}


def _to_wanted(file: Object, private: Object, owner: str) -> Wanted:
    return Wanted(
        id=file["id"],
        filename=file["filename"],
        owner=owner,
        sha256=private.get("sha256"),
        encoding=private.get("encoding"),
    )


def _to_object(file: File, filename: str, *, purpose: str, expires_at: int | None = None) -> Object:
    """Return the wire object; what the specification has as not nullable lacks if there is none."""
    expiry = {} if expires_at is None else {"expires_at": expires_at}
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": now(),
        **expiry,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
    }
