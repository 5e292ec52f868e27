"""The endpoints of files: upload, list, look, delete, download.

https://platform.openai.com/docs/api-reference/files
"""

from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Literal

from pydantic import Field
from starlette.responses import Response

from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.files.purposes import ExpiresAfter, Uploadable, find_life, shown_purpose
from ci_tools_assistants.files.records import FileRecords, Taken
from ci_tools_assistants.http.downloads import to_download
from ci_tools_assistants.http.forms import FormPart, check_declared_size, read_form
from ci_tools_assistants.http.paging import to_list
from ci_tools_assistants.http.requests import Body, Query, validate
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.objects import Kind, Object, now

_NAME_LIMIT = 1024
"""Characters of a file's name."""

_FILE = "file"
"""The field of the form that is the file."""

_EXPIRY = "expires_after["
"""How the names of the fields begin that say when the file expires."""


class FilesQuery(Query):
    """Which files are listed."""

    purpose: str | None = None
    limit: int = Field(default=10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class FileForm(Body):
    """The fields of the form beside the file."""

    purpose: Uploadable
    expires_after: ExpiresAfter | None = None


def operations() -> Sequence[Operation]:
    """Return the operations of files."""
    tags = ("Files",)
    return (
        Operation(
            method="GET",
            path="/files",
            handler=list_files,
            query=FilesQuery,
            response="ListFilesResponse",
            summary="List files.",
            tags=tags,
        ),
        Operation(
            method="POST",
            path="/files",
            handler=create_file,
            response="OpenAIFile",
            summary="Upload a file, as a multipart form.",
            tags=tags,
        ),
        Operation(
            method="GET",
            path="/files/{file_id}",
            handler=get_file,
            response="OpenAIFile",
            summary="Look at a file.",
            tags=tags,
        ),
        Operation(
            method="DELETE",
            path="/files/{file_id}",
            handler=delete_file,
            response="DeleteFileResponse",
            summary="Delete a file and detach it everywhere.",
            tags=tags,
        ),
        Operation(
            method="GET",
            path="/files/{file_id}/content",
            handler=download_file,
            response="binary",
            summary="Download a file.",
            tags=tags,
        ),
    )


async def list_files(call: Call) -> Object:
    """List the principal's files, newest first."""
    query = call.query_as(FilesQuery)
    equals = {} if query.purpose is None else {"purpose": query.purpose}
    page = await call.records.page(
        Kind.FILE,
        principal=call.principal,
        limit=query.limit,
        order=query.order,
        after=query.after,
        metadata=None,
        **equals,
    )
    return to_list(page)


async def create_file(call: Call) -> Object:
    """Store a file as it arrives; it is never whole in memory."""
    check_declared_size(call.request, call.api.settings.file_limit)
    files = FileRecords(call.service, call.records)
    fields: dict[str, str] = {}
    filename, taken = "", None
    try:
        async with aclosing(read_form(call.request)) as parts:
            async for part in parts:
                if part.name != _FILE:
                    fields[part.name] = await part.text()
                elif taken is None:
                    filename = name_of(part)
                    taken = await files.take(filename, part.chunks())
        form = _to_form(fields)
        if taken is None:
            raise missing(_FILE)
    except BaseException:
        if taken is not None:
            await files.leave(taken)
        raise
    return await enter_file(files, taken, filename, form.purpose, form.expires_after)


async def get_file(call: Call) -> Object:
    """Describe a file."""
    return await FileRecords(call.service, call.records).get(call.params["file_id"])


async def delete_file(call: Call) -> Object:
    """Delete a file; messages, annotations and steps that name it stay as they are."""
    file_id = call.params["file_id"]
    await FileRecords(call.service, call.records).delete(file_id)
    return {"id": file_id, "object": "file", "deleted": True}


async def download_file(call: Call) -> Response:
    """Answer with a file's bytes, or the part of them that is asked for."""
    file_id = call.params["file_id"]
    files = FileRecords(call.service, call.records)
    file = await files.get(file_id)
    kept = await call.service.uploads.get(file_id)
    return to_download(
        call.request,
        partial(call.service.uploads.open, file_id),
        name=file["filename"],
        size=kept.size,
        media_type=await files.find_media_type(file),
        version=kept.sha256 or file_id,
    )


async def enter_file(
    files: FileRecords,
    taken: Taken,
    filename: str,
    purpose: str,
    expires_after: ExpiresAfter | None,
) -> Object:
    """Make the object of a file whose bytes are kept."""
    life = find_life(purpose, expires_after)
    return await files.enter(
        taken,
        filename,
        purpose=shown_purpose(purpose),
        expires_at=None if life is None else now() + life,
    )


def name_of(part: FormPart) -> str:
    """Return the name of a file in a form.

    Raises:
        ApiError: It is empty, as if no file was chosen, or too long.
    """
    if part.filename is None:
        return part.name
    if not part.filename:
        raise missing(part.name)
    if len(part.filename) > _NAME_LIMIT:
        raise ApiError(
            400,
            f"Invalid '{part.name}': the file's name is longer than {_NAME_LIMIT} characters.",
            param=part.name,
            code="string_above_max_length",
        )
    return part.filename


def missing(param: str) -> ApiError:
    """Return the refusal of a form without a field that it must have."""
    return ApiError(
        400,
        f"Missing required parameter: '{param}'.",
        param=param,
        code="missing_required_parameter",
    )


def _to_form(fields: dict[str, str]) -> FileForm:
    """Check the fields of a form; those in brackets are of the object before them."""
    values: dict[str, object] = {}
    expiry: dict[str, object] = {}
    for name, value in fields.items():
        if name.startswith(_EXPIRY) and name.endswith("]"):
            key = name[len(_EXPIRY) : -1]
            is_number = value.isascii() and value.isdigit() and len(value) < 18
            expiry[key] = int(value) if key == "seconds" and is_number else value
        else:
            values[name] = value
    if expiry:
        values["expires_after"] = expiry
    return validate(FileForm, values)
