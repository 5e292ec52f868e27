"""Files of containers by their paths: what the API does by ids, and what it cannot do."""

from collections.abc import Sequence

from starlette.responses import Response

from ci_tools.wire import file_to_item
from ci_tools_assistants.containers.bodies import PathsQuery, StatQuery
from ci_tools_assistants.containers.failures import told
from ci_tools_assistants.containers.files import read_body, send_file
from ci_tools_assistants.containers.shapes import FOLDER, to_container_file
from ci_tools_assistants.containers.streams import answer
from ci_tools_assistants.http.routing import Call, Operation


async def list_paths(call: Call) -> Response:
    """List the files, sorted by path; those that code made have no id here."""
    limit = call.query_as(PathsQuery).limit
    files = await call.service.list_files(_container(call), limit=limit)
    return answer({"object": "list", "data": [file_to_item(file) for file in files]})


async def upload(call: Call) -> Response:
    """Take the request's body as a file."""
    path = _path(call)
    file = await call.service.upload_file(_container(call), path, read_body(call, path))
    return answer(to_container_file(file))


async def download(call: Call) -> Response:
    """Return a file's bytes."""
    file = await call.service.stat_file(_container(call), _path(call), digest=False)
    return send_file(call, file)


async def stat(call: Call) -> Response:
    """Describe a file."""
    query = call.query_as(StatQuery)
    file = await call.service.stat_file(_container(call), _path(call), digest=query.digest)
    return answer({"object": "container.path", **file_to_item(file)})


async def delete(call: Call) -> Response:
    """Delete a file."""
    await call.service.delete_file(_container(call), _path(call))
    return answer(
        {"object": "container.path.deleted", "path": FOLDER + _path(call), "deleted": True}
    )


def _container(call: Call) -> str:
    return call.params["container_id"]


def _path(call: Call) -> str:
    return call.params["path"]


def operations() -> Sequence[Operation]:
    """List the operations."""
    many = "/containers/{container_id}/paths"
    one = many + "/{path:path}"
    tags = ("Container paths",)
    return (
        Operation(
            method="GET",
            path=many,
            handler=told(list_paths),
            query=PathsQuery,
            summary="List the container's files by path",
            tags=tags,
        ),
        Operation(
            method="POST",
            path=one,
            handler=told(upload),
            response="ContainerFileResource",
            summary="Put the body into the container as a file",
            tags=tags,
        ),
        Operation(
            method="GET",
            path=one,
            handler=told(download),
            summary="Download a file of the container",
            tags=tags,
        ),
        Operation(
            method="DELETE",
            path=one,
            handler=told(delete),
            summary="Delete a file of the container",
            tags=tags,
        ),
        Operation(
            method="GET",
            path="/containers/{container_id}/stat/{path:path}",
            handler=told(stat),
            query=StatQuery,
            summary="Describe a file of the container",
            tags=tags,
        ),
    )
