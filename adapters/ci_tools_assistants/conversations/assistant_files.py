"""Version 1's files of assistants and of messages, as objects of their own.

What they stand for is in `tool_resources` and `attachments`; only the time of attaching to an
assistant is kept beside it.
"""

from collections.abc import Sequence

from ci_tools_assistants.conversations.attaching import check_file
from ci_tools_assistants.conversations.attachments import FILES_PER_TOOL, code_file_ids
from ci_tools_assistants.errors import NoSuchObject, array_too_long
from ci_tools_assistants.http.paging import PageQuery, page_of, to_list
from ci_tools_assistants.http.requests import Body
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.objects import Kind, Object, now

_TIMES = "file_times"
"""Where the private part of an assistant keeps when its files were attached."""


class AssistantFileBody(Body):
    """A file to be attached to an assistant."""

    file_id: str


def operations() -> Sequence[Operation]:
    """Return the operations on the files of assistants and messages."""
    of_assistant = "/assistants/{assistant_id}/files"
    of_message = "/threads/{thread_id}/messages/{message_id}/files"
    tags = ("Assistants",)
    return [
        Operation(
            method="GET",
            path=of_assistant,
            handler=list_assistant_files,
            query=PageQuery,
            response="ListAssistantFilesResponse",
            summary="List the files of an assistant (version 1)",
            tags=tags,
        ),
        Operation(
            method="POST",
            path=of_assistant,
            handler=attach_assistant_file,
            body=AssistantFileBody,
            response="AssistantFileObject",
            summary="Attach a file to an assistant (version 1)",
            tags=tags,
        ),
        Operation(
            method="GET",
            path=of_assistant + "/{file_id}",
            handler=get_assistant_file,
            response="AssistantFileObject",
            summary="Return a file of an assistant (version 1)",
            tags=tags,
        ),
        Operation(
            method="DELETE",
            path=of_assistant + "/{file_id}",
            handler=detach_assistant_file,
            response="DeleteAssistantFileResponse",
            summary="Detach a file from an assistant (version 1)",
            tags=tags,
        ),
        Operation(
            method="GET",
            path=of_message,
            handler=list_message_files,
            query=PageQuery,
            response="ListMessageFilesResponse",
            summary="List the files of a message (version 1)",
            tags=tags,
        ),
        Operation(
            method="GET",
            path=of_message + "/{file_id}",
            handler=get_message_file,
            response="MessageFileObject",
            summary="Return a file of a message (version 1)",
            tags=tags,
        ),
    ]


async def list_assistant_files(call: Call) -> Object:
    """List the files of an assistant in the order in which they were attached."""
    return to_list(page_of(Kind.FILE, await _assistant_files(call), call.query_as(PageQuery)))


async def get_assistant_file(call: Call) -> Object:
    """Return a file of an assistant."""
    return _pick(await _assistant_files(call), call.params["file_id"])


async def attach_assistant_file(call: Call) -> Object:
    """Attach a file to an assistant; a second time changes nothing."""
    file_id = call.body_as(AssistantFileBody).file_id
    await check_file(call, file_id, ["code_interpreter"])
    moment = now()

    def attach(assistant: Object) -> Object:
        file_ids = code_file_ids(assistant)
        if file_id in file_ids:
            return assistant
        if len(file_ids) >= FILES_PER_TOOL:
            raise array_too_long("file_ids", FILES_PER_TOOL, len(file_ids) + 1)
        return _with_files(assistant, [*file_ids, file_id])

    def note(private: Object) -> Object:
        times = private.get(_TIMES, {})
        return {**private, _TIMES: {**times, file_id: times.get(file_id, moment)}}

    id = call.params["assistant_id"]
    await call.records.change(Kind.ASSISTANT, id, attach, principal=call.principal)
    private = await call.records.change_private(Kind.ASSISTANT, id, note, principal=call.principal)
    return _to_assistant_file(file_id, id, private[_TIMES][file_id])


async def detach_assistant_file(call: Call) -> Object:
    """Detach a file from an assistant; the file stays."""
    id, file_id = call.params["assistant_id"], call.params["file_id"]

    def detach(assistant: Object) -> Object:
        file_ids = code_file_ids(assistant)
        if file_id not in file_ids:
            raise NoSuchObject(Kind.FILE, file_id)
        return _with_files(assistant, [one for one in file_ids if one != file_id])

    def forget(private: Object) -> Object:
        times = {key: time for key, time in private.get(_TIMES, {}).items() if key != file_id}
        return {**private, _TIMES: times}

    await call.records.change(Kind.ASSISTANT, id, detach, principal=call.principal)
    await call.records.change_private(Kind.ASSISTANT, id, forget, principal=call.principal)
    return {"id": file_id, "object": "assistant.file.deleted", "deleted": True}


async def list_message_files(call: Call) -> Object:
    """List the files of a message."""
    return to_list(page_of(Kind.FILE, await _message_files(call), call.query_as(PageQuery)))


async def get_message_file(call: Call) -> Object:
    """Return a file of a message."""
    return _pick(await _message_files(call), call.params["file_id"])


async def _assistant_files(call: Call) -> list[Object]:
    """Return the files of an assistant, the oldest first."""
    id = call.params["assistant_id"]
    assistant, private = await call.records.get_both(Kind.ASSISTANT, id, principal=call.principal)
    times = private.get(_TIMES, {})
    return [
        _to_assistant_file(file_id, id, times.get(file_id, assistant["created_at"]))
        for file_id in code_file_ids(assistant)
    ]


async def _message_files(call: Call) -> list[Object]:
    message = await call.records.get(
        Kind.MESSAGE,
        call.params["message_id"],
        principal=call.principal,
        parent=call.params["thread_id"],
    )
    file_ids = [attachment.get("file_id") for attachment in message["attachments"] or ()]
    return [
        {
            "id": file_id,
            "object": "thread.message.file",
            "created_at": message["created_at"],
            "message_id": message["id"],
        }
        for file_id in dict.fromkeys(file_ids)
        if file_id
    ]


def _pick(files: Sequence[Object], file_id: str) -> Object:
    for file in files:
        if file["id"] == file_id:
            return file
    raise NoSuchObject(Kind.FILE, file_id)


def _with_files(assistant: Object, file_ids: list[str]) -> Object:
    resources = dict(assistant["tool_resources"] or {})
    resources["code_interpreter"] = {"file_ids": file_ids}
    return {**assistant, "tool_resources": resources}


def _to_assistant_file(file_id: str, assistant_id: str, created_at: int) -> Object:
    return {
        "id": file_id,
        "object": "assistant.file",
        "created_at": created_at,
        "assistant_id": assistant_id,
    }
