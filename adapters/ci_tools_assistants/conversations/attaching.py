"""Whether files may be given to the tools they are meant for."""

from collections.abc import Iterable, Sequence

from ci_tools_assistants.errors import ApiError, NoSuchObject, not_there_yet
from ci_tools_assistants.files.records import FileRecords
from ci_tools_assistants.files.supported_files import FileTool, check_attachable
from ci_tools_assistants.http.routing import Call
from ci_tools_assistants.http.shapes import ToolResources
from ci_tools_assistants.objects import Object

_TOOLS: Sequence[FileTool] = ("code_interpreter", "file_search")


async def check_resources(call: Call, resources: ToolResources | None) -> None:
    """Check the files and vector stores that an assistant or a thread shall have.

    Raises:
        ApiError: One of them does not exist, or a tool does not take its kind.
    """
    if resources is None:
        return
    if resources.code_interpreter is not None:
        for file_id in resources.code_interpreter.file_ids or ():
            await check_file(call, file_id, ["code_interpreter"])
    if (search := resources.file_search) is not None:
        if search.vector_stores:
            raise not_there_yet("Making vector stores")
        for store_id in search.vector_store_ids or ():
            raise NoSuchObject("vector store", store_id)


async def check_file(call: Call, file_id: str, tools: Iterable[str]) -> list[FileTool]:
    """Return which of the tools may have a file.

    Version 1 gives every file to both tools: there it is enough that one of them takes its kind.

    Raises:
        ApiError: There is no such file, or a tool does not take its kind.
    """
    file = await FileRecords(call.service, call.records).get(file_id)
    if call.version == "v1":
        tools = _TOOLS
    taken: list[FileTool] = []
    refused: ApiError | None = None
    for tool in _TOOLS:
        if tool not in tools:
            continue
        try:
            check_attachable(file, tool)
        except ApiError as error:
            refused = refused or error
        else:
            taken.append(tool)
    if refused is not None and (call.version == "v2" or not taken):
        raise refused
    return taken


def to_resources(resources: ToolResources | None, old: Object | None = None) -> Object:
    """Return `tool_resources` as they are stored; null is none at all.

    A tool that is not named keeps what it has in `old`.
    """
    if resources is None:
        return {}
    stored = dict(old or {})
    if resources.code_interpreter is not None:
        file_ids = resources.code_interpreter.file_ids or []
        stored["code_interpreter"] = {"file_ids": list(dict.fromkeys(file_ids))}
    if resources.file_search is not None:
        store_ids = resources.file_search.vector_store_ids or []
        stored["file_search"] = {"vector_store_ids": store_ids}
    return stored
