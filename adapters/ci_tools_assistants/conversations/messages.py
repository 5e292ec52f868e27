"""The endpoints of messages.

https://platform.openai.com/docs/api-reference/messages
"""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, Tag

from ci_tools.models import new_id
from ci_tools_assistants.conversations.attaching import check_file
from ci_tools_assistants.conversations.attachments import FILES_PER_TOOL
from ci_tools_assistants.files.records import FileRecords
from ci_tools_assistants.http.paging import PageQuery, to_list
from ci_tools_assistants.http.requests import Body, by, refuse
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.http.shapes import AttachmentTool, Metadata, to_plain
from ci_tools_assistants.objects import Kind, Object, now

TEXT_LIMIT = 256_000
"""Characters of the text of one message."""

PARTS = 1000
"""Parts of the content of one message."""

_URL_LIMIT = 10_000_000
"""Characters of an image's URL, which may hold the image itself."""

Detail: TypeAlias = Literal["auto", "low", "high"]


class TextPart(Body):
    """A text."""

    type: Literal["text"]
    text: str = Field(max_length=TEXT_LIMIT)


class ImageFile(Body):
    """An image that was uploaded."""

    file_id: str
    detail: Detail = "auto"


class ImageFilePart(Body):
    """An image that was uploaded."""

    type: Literal["image_file"]
    image_file: ImageFile


def _check_url(url: str) -> str:
    if not url.startswith(("http://", "https://", "data:image/")):
        raise refuse(
            "Invalid 'PARAM': expected a URL that begins with http://, https:// or data:image/.",
            "invalid_image_url",
        )
    return url


ImageAddress: TypeAlias = Annotated[str, Field(max_length=_URL_LIMIT), AfterValidator(_check_url)]
"""Where an image is, or the image itself; never a file of this machine."""


class ImageUrl(Body):
    """An image by its URL."""

    url: ImageAddress
    detail: Detail = "auto"


class ImageUrlPart(Body):
    """An image by its URL."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part: TypeAlias = Annotated[
    Annotated[TextPart, Tag("|text")]
    | Annotated[ImageFilePart, Tag("|image_file")]
    | Annotated[ImageUrlPart, Tag("|image_url")],
    by("type"),
]


def _check_parts(parts: list[Part]) -> list[Part]:
    length = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    if length > TEXT_LIMIT:
        raise refuse(
            f"Invalid 'PARAM': string too long. Expected a string with maximum length "
            f"{TEXT_LIMIT}, but got texts with length {length} instead.",
            "string_above_max_length",
        )
    return parts


Content: TypeAlias = Annotated[
    Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT), Tag("|string")]
    | Annotated[
        list[Part],
        Field(min_length=1, max_length=PARTS),
        AfterValidator(_check_parts),
        Tag("|array"),
    ],
    by(""),
]


class Attachment(Body):
    """A file, and the tools it is for."""

    file_id: str
    tools: list[AttachmentTool] | None = None


class MessageBody(Body):
    """A new message."""

    role: Literal["user", "assistant"]
    content: Content
    attachments: list[Attachment] | None = Field(default=None, max_length=FILES_PER_TOOL)
    metadata: Metadata | None = None


class MessageChanges(Body):
    """What can be changed of a message."""

    metadata: Metadata | None = None


class MessageQuery(PageQuery):
    """Which messages of a thread are wanted."""

    run_id: str | None = None


def operations() -> Sequence[Operation]:
    """Return the operations on messages."""
    many, tags = "/threads/{thread_id}/messages", ("Messages",)
    one = many + "/{message_id}"
    return [
        Operation(
            method="GET",
            path=many,
            handler=list_messages,
            query=MessageQuery,
            response="ListMessagesResponse",
            summary="List the messages of a thread",
            tags=tags,
        ),
        Operation(
            method="POST",
            path=many,
            handler=create_message,
            body=MessageBody,
            body_kind="message",
            response="MessageObject",
            summary="Create a message",
            tags=tags,
        ),
        Operation(
            method="GET",
            path=one,
            handler=get_message,
            response="MessageObject",
            summary="Return a message",
            tags=tags,
        ),
        Operation(
            method="POST",
            path=one,
            handler=modify_message,
            body=MessageChanges,
            response="MessageObject",
            summary="Change the metadata of a message",
            tags=tags,
        ),
        Operation(
            method="DELETE",
            path=one,
            handler=delete_message,
            response="DeleteMessageResponse",
            summary="Delete a message",
            tags=tags,
        ),
    ]


async def list_messages(call: Call) -> Object:
    """List the messages of a thread, or those of one of its runs."""
    query = call.query_as(MessageQuery).model_dump()
    run_id = query.pop("run_id")
    page = await call.records.page(
        Kind.MESSAGE,
        principal=call.principal,
        parent=call.params["thread_id"],
        **query,
        **({} if run_id is None else {"run_id": run_id}),
    )
    return to_list(page)


async def create_message(call: Call) -> Object:
    """Store a new message, unless a run of its thread is active."""
    thread_id = call.params["thread_id"]
    message = await make_message(call, thread_id, call.body_as(MessageBody))
    limit = FILES_PER_TOOL if call.version == "v2" else None
    return await call.api.runs.when_free(
        thread_id,
        lambda: call.records.add_message(message, principal=call.principal, file_limit=limit),
    )


async def make_message(call: Call, thread_id: str, body: MessageBody) -> Object:
    """Return a new message; it is checked and not stored."""
    content = [await _to_part(call, part) for part in _parts_of(body)]
    moment = now()
    return {
        "id": new_id("msg_"),
        "object": "thread.message",
        "created_at": moment,
        "thread_id": thread_id,
        "status": "completed",
        "incomplete_details": None,
        "completed_at": moment,
        "incomplete_at": None,
        "role": body.role,
        "content": content,
        "assistant_id": None,
        "run_id": None,
        "attachments": [await _to_attachment(call, one) for one in body.attachments or ()],
        "metadata": body.metadata or {},
    }


async def get_message(call: Call) -> Object:
    """Return a message."""
    return await call.records.get(Kind.MESSAGE, call.params["message_id"], **_place(call))


async def modify_message(call: Call) -> Object:
    """Change the metadata of a message."""
    body = call.body_as(MessageChanges)

    def change(old: Object) -> Object:
        if "metadata" not in body.model_fields_set:
            return old
        return {**old, "metadata": body.metadata or {}}

    return await call.records.change(
        Kind.MESSAGE, call.params["message_id"], change, **_place(call)
    )


async def delete_message(call: Call) -> Object:
    """Delete a message."""
    id = call.params["message_id"]
    await call.records.delete(Kind.MESSAGE, id, **_place(call))
    return {"id": id, "object": "thread.message.deleted", "deleted": True}


def _place(call: Call) -> dict[str, str]:
    return {"principal": call.principal, "parent": call.params["thread_id"]}


def _parts_of(body: MessageBody) -> list[Part]:
    if isinstance(body.content, str):
        return [TextPart(type="text", text=body.content)]
    return body.content


async def _to_part(call: Call, part: Part) -> Object:
    match part:
        case TextPart():
            return {"type": "text", "text": {"value": part.text, "annotations": []}}
        case ImageFilePart():
            await FileRecords(call.service, call.records).get(part.image_file.file_id)
            return {"type": "image_file", "image_file": part.image_file.model_dump()}
        case ImageUrlPart():
            return {"type": "image_url", "image_url": part.image_url.model_dump()}


async def _to_attachment(call: Call, attachment: Attachment) -> Object:
    wanted = [tool.type for tool in attachment.tools or ()]
    taken = await check_file(call, attachment.file_id, wanted)
    tools = [to_plain(tool) for tool in attachment.tools or () if tool.type in taken]
    return {"file_id": attachment.file_id, "tools": tools}
