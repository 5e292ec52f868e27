"""Files of containers by their ids, as the API has them; a file that code made gets one here."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

from starlette.responses import Response

from ci_tools import File, FileTooLargeError
from ci_tools.wire import file_to_item
from ci_tools_assistants.containers.bodies import FileIdBody, NewFileQuery, PageQuery, PathBody
from ci_tools_assistants.containers.failures import told
from ci_tools_assistants.containers.shapes import cut_page, to_container_file, to_list
from ci_tools_assistants.containers.streams import answer
from ci_tools_assistants.errors import ApiError, NoSuchObject
from ci_tools_assistants.http.downloads import to_download
from ci_tools_assistants.http.forms import FIELD_LIMIT, check_declared_size, read_form
from ci_tools_assistants.http.requests import parse_json, read_content, validate
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.objects import Object

_LISTED = 100_000
"""Files of a container that are looked at for a page."""


async def create(call: Call) -> Response:
    """Put a file into a container: one that is sent in a form, or a kept one by its id."""
    if call.request.headers.get("content-type", "").startswith("multipart/form-data"):
        return answer(to_container_file(await _receive(call)))
    body = validate(FileIdBody, parse_json(await read_content(call.request, limit=FIELD_LIMIT)))
    file = await call.service.uploads.stage(_container(call), body.file_id, body.path)
    return answer(to_container_file(file))


async def _receive(call: Call) -> File:
    check_declared_size(call.request, call.service.settings.file_limit)
    path: str | None = None
    async for part in read_form(call.request):
        match part.name:
            case "file":
                name = path or part.filename or "file"
                return await call.service.upload_file(_container(call), name, part.chunks())
            case "path":  # ours, before the file
                path = await part.text()
            case "file_id":
                file_id = await part.text()
                return await call.service.uploads.stage(_container(call), file_id, path)
    raise ApiError(
        400,
        "Missing required parameter: 'file' or 'file_id'.",
        param="file",
        code="missing_required_parameter",
    )


async def list_files(call: Call) -> Response:
    """List a container's files by the time of their last change."""
    query = call.query_as(PageQuery)
    files = await call.service.list_files(_container(call), limit=_LISTED)
    files.sort(key=lambda file: (file.modified_at, file.path), reverse=query.order == "desc")
    is_cursor = (lambda file: file.id == query.after) if query.after else None
    page = cut_page(files, is_cursor=is_cursor, limit=query.limit)
    if page is None:
        raise NoSuchObject("file", query.after or "")
    found, has_more = page
    data = [
        to_container_file(
            file
            if file.id is not None
            else await call.service.uploads.identify(_container(call), file.path)
        )
        for file in found
    ]
    return answer(to_list(data, has_more=has_more))


async def retrieve(call: Call) -> Response:
    """Describe a file."""
    return answer(to_container_file(await _find(call)))


async def delete(call: Call) -> Response:
    """Delete a file."""
    file = await _find(call)
    await call.service.delete_file(_container(call), file.path)
    return answer(
        {"id": call.params["file_id"], "object": "container.file.deleted", "deleted": True}
    )


async def download(call: Call) -> Response:
    """Return a file's bytes."""
    return send_file(call, await _find(call))


def send_file(call: Call, file: File) -> Response:
    """Return the answer with the bytes of a container's file."""
    return to_download(
        call.request,
        partial(call.service.open_file, file.session_id or "", file.path),
        name=file.path.rsplit("/", 1)[-1],
        size=file.size,
        media_type=file.media_type,
        version=f"{file.modified_at:.9f}-{file.size}",
    )


async def keep(call: Call) -> Response:
    """Keep a copy of a file beyond the life of its container."""
    body = call.body_as(PathBody)
    return answer(_kept(await call.service.uploads.keep(_container(call), body.path)))


async def identify(call: Call) -> Response:
    """Give a file an id if it has none."""
    body = call.body_as(PathBody)
    return answer(
        to_container_file(await call.service.uploads.identify(_container(call), body.path))
    )


async def add_kept(call: Call) -> Response:
    """Keep the request's body as a file that is in no container."""
    path = call.query_as(NewFileQuery).path
    return answer(_kept(await call.service.uploads.add(path, read_body(call, path))))


async def read_body(call: Call, path: str) -> AsyncIterator[bytes]:
    """Iterate over the bytes of a request.

    Raises:
        FileTooLargeError: It says that there are too many, before any is read.
    """
    limit = call.service.settings.file_limit
    declared = call.request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise FileTooLargeError(path, limit)
    async for chunk in call.request.stream():
        yield chunk


async def retrieve_kept(call: Call) -> Response:
    """Describe a kept file."""
    return answer(_kept(await call.service.uploads.get(call.params["file_id"])))


async def delete_kept(call: Call) -> Response:
    """Delete a kept file; copies of it in containers stay."""
    await call.service.uploads.delete(call.params["file_id"])
    return answer({"id": call.params["file_id"], "object": "kept_file.deleted", "deleted": True})


async def download_kept(call: Call) -> Response:
    """Return a kept file's bytes."""
    file = await call.service.uploads.get(call.params["file_id"])
    return to_download(
        call.request,
        partial(call.service.uploads.open, call.params["file_id"]),
        name=file.path.rsplit("/", 1)[-1],
        size=file.size,
        media_type=file.media_type,
        version=file.sha256 or call.params["file_id"],
    )


def _kept(file: File) -> Object:
    return {"object": "kept_file", **file_to_item(file)}


def _container(call: Call) -> str:
    return call.params["container_id"]


async def _find(call: Call) -> File:
    return await call.service.uploads.find(_container(call), call.params["file_id"])


def operations() -> Sequence[Operation]:
    """List the operations."""
    many = "/containers/{container_id}/files"
    one = many + "/{file_id}"
    kept = "/kept_files"
    return (
        Operation(
            method="POST",
            path=many,
            handler=told(create),
            response="ContainerFileResource",
            summary="Create container file",
            tags=("Containers",),
        ),
        Operation(
            method="GET",
            path=many,
            handler=told(list_files),
            query=PageQuery,
            response="ContainerFileListResource",
            summary="List container files",
            tags=("Containers",),
        ),
        Operation(
            method="GET",
            path=one,
            handler=told(retrieve),
            response="ContainerFileResource",
            summary="Retrieve container file",
            tags=("Containers",),
        ),
        Operation(
            method="DELETE",
            path=one,
            handler=told(delete),
            summary="Delete a container file",
            tags=("Containers",),
        ),
        Operation(
            method="GET",
            path=one + "/content",
            handler=told(download),
            summary="Retrieve container file content",
            tags=("Containers",),
        ),
        Operation(
            method="POST",
            path="/containers/{container_id}/keep",
            handler=told(keep),
            body=PathBody,
            summary="Keep a file of the container beyond its life",
            tags=("Container paths",),
        ),
        Operation(
            method="POST",
            path="/containers/{container_id}/identify",
            handler=told(identify),
            body=PathBody,
            response="ContainerFileResource",
            summary="Give a file of the container an id",
            tags=("Container paths",),
        ),
        Operation(
            method="POST",
            path=kept,
            handler=told(add_kept),
            query=NewFileQuery,
            summary="Keep a file that is in no container; the body is its bytes",
            tags=("Kept files",),
        ),
        Operation(
            method="GET",
            path=kept + "/{file_id}",
            handler=told(retrieve_kept),
            summary="Retrieve a kept file",
            tags=("Kept files",),
        ),
        Operation(
            method="DELETE",
            path=kept + "/{file_id}",
            handler=told(delete_kept),
            summary="Delete a kept file",
            tags=("Kept files",),
        ),
        Operation(
            method="GET",
            path=kept + "/{file_id}/content",
            handler=told(download_kept),
            summary="Download a kept file",
            tags=("Kept files",),
        ),
    )
