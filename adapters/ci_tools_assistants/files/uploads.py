"""The endpoints of uploads: a file that is sent in parts.

How this works: each part is kept like a file, under an id that nobody else knows. When the upload
is completed, the parts are read one after the other into the file that they make, and deleted. An
upload that is not completed in an hour expires with its parts.
https://platform.openai.com/docs/api-reference/uploads
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing

import anyio
from pydantic import Field
from sqlalchemy import Connection, select

from ci_tools import CIToolsError, NotFoundError, SessionService
from ci_tools.models import new_id
from ci_tools_assistants.errors import ApiError, NoSuchObject
from ci_tools_assistants.files.endpoints import enter_file, missing
from ci_tools_assistants.files.purposes import ExpiresAfter, Uploadable, shown_purpose
from ci_tools_assistants.files.records import FileRecords, Taken
from ci_tools_assistants.http.forms import check_declared_size, read_form
from ci_tools_assistants.http.requests import Body
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.storage import rows
from ci_tools_assistants.storage.records import Records
from ci_tools_assistants.storage.schema import parts

logger = logging.getLogger(__name__)

PART_LIMIT = 64 * 1024 * 1024
"""Bytes of one part."""

PARTS_LIMIT = 10_000
"""Parts of one upload, those included that were sent twice or are not used."""

LIFE = 3600
"""Seconds in which an upload is to be completed."""

_CLAIM = 900
"""Seconds after which an upload whose completion was cut off can be completed again."""

_CLEAN_UP = 30.0
"""Seconds to take back what was done for an upload that could not be completed."""


PARTS, RECEIVED = "parts", "received"
"""Keys of an upload's private part: how many parts came, and how many bytes."""


class CreateUpload(Body):
    """A file that will come in parts."""

    filename: str = Field(min_length=1, max_length=1024)
    purpose: Uploadable
    bytes: int = Field(ge=0)
    mime_type: str = Field(max_length=255)
    expires_after: ExpiresAfter | None = None


class CompleteUpload(Body):
    """The parts of the file in their order; `md5` is that of the whole file, in hex."""

    part_ids: list[str] = Field(max_length=PARTS_LIMIT)
    md5: str | None = None


def operations() -> Sequence[Operation]:
    """Return the operations of uploads."""
    tags = ("Uploads",)
    return (
        Operation(
            method="POST",
            path="/uploads",
            handler=create_upload,
            body=CreateUpload,
            response="Upload",
            summary="Begin an upload in parts.",
            tags=tags,
        ),
        Operation(
            method="POST",
            path="/uploads/{upload_id}/parts",
            handler=add_part,
            response="UploadPart",
            summary="Add a part, as a multipart form.",
            tags=tags,
        ),
        Operation(
            method="POST",
            path="/uploads/{upload_id}/complete",
            handler=complete_upload,
            body=CompleteUpload,
            response="Upload",
            summary="Make a file of the parts.",
            tags=tags,
        ),
        Operation(
            method="POST",
            path="/uploads/{upload_id}/cancel",
            handler=cancel_upload,
            response="Upload",
            summary="Cancel an upload and delete its parts.",
            tags=tags,
        ),
    )


async def create_upload(call: Call) -> Object:
    """Begin an upload."""
    body = call.body_as(CreateUpload)
    limit = call.api.settings.file_limit
    if body.bytes > limit:
        raise ApiError(
            413,
            f"The file would have {body.bytes} bytes; the limit is {limit} bytes.",
            param="bytes",
            code="file_too_large",
        )
    moment = now()
    upload = {
        "id": new_id("upload_"),
        "object": "upload",
        "bytes": body.bytes,
        "created_at": moment,
        "filename": body.filename,
        "purpose": shown_purpose(body.purpose),
        "status": "pending",
        "expires_at": moment + LIFE,
    }
    expiry = None if body.expires_after is None else body.expires_after.model_dump()
    private = {"mime_type": body.mime_type, "purpose": body.purpose, "expires_after": expiry}
    return await call.records.add(Kind.UPLOAD, upload, principal=call.principal, private=private)


async def add_part(call: Call) -> Object:
    """Keep a part of a pending upload."""
    upload_id = call.params["upload_id"]
    check_declared_size(call.request, PART_LIMIT)
    upload, private = await call.records.get_both(Kind.UPLOAD, upload_id, principal=call.principal)
    taken = await _take_part(call, upload_id, min(PART_LIMIT, _find_room(upload, private)))
    part = {
        "id": new_id("part_"),
        "object": "upload.part",
        "created_at": now(),
        "upload_id": upload_id,
    }
    size = taken.file.size

    def work(conn: Connection) -> Object:
        row = rows.find_row(conn, Kind.UPLOAD, upload_id, principal=call.principal, lock=True)
        private = row.private or {}
        if size > (room := _find_room(row.data, private)):  # others came meanwhile
            raise _too_large(room)
        counted = {
            PARTS: private.get(PARTS, 0) + 1,
            RECEIVED: private.get(RECEIVED, 0) + size,
        }
        rows.set_private(conn, Kind.UPLOAD, row, {**private, **counted})
        return rows.add_row(
            conn,
            Kind.PART,
            part,
            principal=call.principal,
            parent=upload_id,
            private={"file_id": taken.file.id, "size": size},
        )

    try:
        return await call.records.write(work)
    except BaseException:
        await FileRecords(call.service, call.records).leave(taken)
        raise


async def complete_upload(call: Call) -> Object:
    """Make the file; the parts are deleted then."""
    body = call.body_as(CompleteUpload)
    upload_id = call.params["upload_id"]
    upload, private, stored = await _claim(call, upload_id)
    try:
        chosen = _choose(upload, body.part_ids, stored)
        file = await _make_file(call, upload, private, chosen, md5=body.md5)
    except BaseException:
        with anyio.move_on_after(_CLEAN_UP, shield=True):
            await _release(call, upload_id)
        raise
    done = {**upload, "status": "completed", "file": file}
    await call.records.change(Kind.UPLOAD, upload_id, lambda _: done, principal=call.principal)
    await drop_parts(call.service, call.records, upload_id)
    return done


async def cancel_upload(call: Call) -> Object:
    """Cancel a pending upload."""
    upload_id = call.params["upload_id"]

    def work(conn: Connection) -> Object:
        row = rows.find_row(conn, Kind.UPLOAD, upload_id, principal=call.principal, lock=True)
        _check_unclaimed(row.data, row.private or {})
        return rows.replace_row(conn, Kind.UPLOAD, row, {**row.data, "status": "cancelled"})

    cancelled = await call.records.write(work)
    await drop_parts(call.service, call.records, upload_id)
    return cancelled


async def drop_parts(service: SessionService, records: Records, upload_id: str) -> None:
    """Delete the parts of an upload; `service` acts as its principal."""
    stored = await records.read(lambda conn: _read_parts(conn, upload_id))
    for part_id, part in stored.items():
        try:
            await service.uploads.delete(part["file_id"])
        except NotFoundError:
            pass
        except CIToolsError as error:
            logger.warning("part %s: its bytes stay: %s", part_id, error)
            continue
        try:
            await records.delete(Kind.PART, part_id, principal=service.principal)
        except NoSuchObject:
            pass


async def _take_part(call: Call, upload_id: str, limit: int) -> Taken:
    """Keep the bytes of the form's one field."""
    files = FileRecords(call.service, call.records)
    taken: Taken | None = None
    try:
        async with aclosing(read_form(call.request)) as form:
            async for part in form:
                if part.name != "data" or taken is not None:
                    raise ApiError(
                        400,
                        f"Unknown parameter: '{part.name[:100]}'.",
                        param=part.name[:100],
                        code="unknown_parameter",
                    )
                taken = await files.take(upload_id, _limited(part.chunks(), limit))
    except BaseException:
        if taken is not None:
            await files.leave(taken)
        raise
    if taken is None:
        raise missing("data")
    return taken


async def _limited(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        yield chunk


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"The part is larger than {max(limit, 0)} bytes, the most that this upload takes at once.",
        param="data",
        code="part_too_large",
    )


def _find_room(upload: Object, private: Object) -> int:
    """Return how many bytes an upload still takes.

    Raises:
        ApiError: It takes no part any more.
    """
    _check_pending(upload)
    if private.get(PARTS, 0) >= PARTS_LIMIT:
        raise ApiError(
            400,
            f"Upload {upload['id']} has {PARTS_LIMIT:,} parts, the most there can be: begin "
            f"another one and send larger parts, of up to {PART_LIMIT:,} bytes.",
            param="data",
            code="too_many_parts",
        )
    # Twice the file: a part may have to be sent again when its answer was lost.
    return int(2 * upload["bytes"] + PART_LIMIT - private.get(RECEIVED, 0))


async def _claim(call: Call, upload_id: str) -> tuple[Object, Object, Mapping[str, Object]]:
    """Let nobody else complete the upload; return it, its private part and its parts."""

    def work(conn: Connection) -> tuple[Object, Object, Mapping[str, Object]]:
        row = rows.find_row(conn, Kind.UPLOAD, upload_id, principal=call.principal, lock=True)
        private = row.private or {}
        _check_unclaimed(row.data, private)
        rows.set_private(conn, Kind.UPLOAD, row, {**private, "claimed_at": now()})
        return row.data, private, _read_parts(conn, upload_id)

    return await call.records.write(work)


async def _release(call: Call, upload_id: str) -> None:
    def change(private: Object) -> Object:
        return {key: value for key, value in private.items() if key != "claimed_at"}

    await call.records.change_private(Kind.UPLOAD, upload_id, change, principal=call.principal)


def _choose(upload: Object, part_ids: Sequence[str], stored: Mapping[str, Object]) -> list[Object]:
    """Return the parts of the file in their order; together they must have its size."""
    if len(set(part_ids)) < len(part_ids):
        raise ApiError(400, "A part is named twice.", param="part_ids", code="invalid_value")
    for part_id in part_ids:
        if part_id not in stored:
            raise NoSuchObject(Kind.PART, part_id)
    chosen = [stored[part_id] for part_id in part_ids]
    size = sum(part["size"] for part in chosen)
    if size != upload["bytes"]:
        raise ApiError(
            400,
            f"The parts have {size} bytes together, but the upload was created with "
            f"{upload['bytes']} bytes.",
            param="part_ids",
            code="invalid_value",
        )
    return chosen


async def _make_file(
    call: Call, upload: Object, private: Object, chosen: Sequence[Object], *, md5: str | None
) -> Object:
    files = FileRecords(call.service, call.records)
    digest = hashlib.md5(usedforsecurity=False)

    async def read() -> AsyncIterator[bytes]:
        for part in chosen:
            async with call.service.uploads.open(part["file_id"]) as chunks:
                async for chunk in chunks:
                    digest.update(chunk)
                    yield chunk

    taken = await files.take(upload["filename"], read())
    if md5 is not None and digest.hexdigest() != md5.strip().lower():
        await files.leave(taken)
        raise ApiError(
            400,
            f"The md5 of the parts is {digest.hexdigest()}, which is not what was given.",
            param="md5",
            code="invalid_value",
        )
    expiry = private.get("expires_after")
    return await enter_file(
        files,
        taken,
        upload["filename"],
        private["purpose"],
        None if expiry is None else ExpiresAfter(**expiry),
    )


def _check_pending(upload: Object) -> None:
    status = upload["status"]
    if status == "pending" and upload["expires_at"] <= now():
        status = "expired"
    if status != "pending":
        raise ApiError(400, f"Upload {upload['id']} is {status}; it takes nothing any more.")


def _check_unclaimed(upload: Object, private: Object) -> None:
    _check_pending(upload)
    if private.get("claimed_at", 0) > now() - _CLAIM:
        raise ApiError(400, f"Upload {upload['id']} is being completed.")


def _read_parts(conn: Connection, upload_id: str) -> dict[str, Object]:
    """Return what is kept of each part of an upload, by its id."""
    query = select(parts.c.id, parts.c.private).where(parts.c.parent == upload_id)
    return {row.id: row.private for row in conn.execute(query)}
