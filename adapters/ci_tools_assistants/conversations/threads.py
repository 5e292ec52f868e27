"""The endpoints of threads.

https://platform.openai.com/docs/api-reference/threads; the list of threads is ours.
"""

from collections.abc import Mapping, Sequence

from pydantic import Field

from ci_tools.models import new_id
from ci_tools_assistants.conversations.attaching import check_resources, to_resources
from ci_tools_assistants.conversations.attachments import ATTACHED, FILES_PER_TOOL, code_file_ids
from ci_tools_assistants.conversations.messages import MessageBody, make_message
from ci_tools_assistants.http.paging import PageQuery, to_list
from ci_tools_assistants.http.requests import Body
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.http.shapes import METADATA_PAIRS, Metadata, ToolResources
from ci_tools_assistants.objects import Kind, Object, now

INITIAL_MESSAGES = 1000
"""Messages that a thread may be created with."""

SESSION = "session_id"
"""The key of a thread's session, in its private part and, added to the contract, in its detail."""


class ThreadBody(Body):
    """A new thread."""

    messages: list[MessageBody] | None = Field(default=None, max_length=INITIAL_MESSAGES)
    tool_resources: ToolResources | None = None
    metadata: Metadata | None = None


class ThreadChanges(Body):
    """What is to be different of a thread; what is not named stays."""

    tool_resources: ToolResources | None = None
    metadata: Metadata | None = None


def operations() -> Sequence[Operation]:
    """Return the operations on threads."""
    one, tags = "/threads/{thread_id}", ("Threads",)
    return [
        Operation(
            method="GET",
            path="/threads",
            handler=list_threads,
            query=PageQuery,
            response="ListThreadsResponse",
            summary="List threads, also those with certain metadata: metadata[key]=value",
            tags=tags,
        ),
        Operation(
            method="POST",
            path="/threads",
            handler=post_thread,
            body=ThreadBody,
            body_kind="thread",
            response="ThreadObject",
            summary="Create a thread",
            tags=tags,
        ),
        Operation(
            method="GET",
            path=one,
            handler=get_thread,
            response="ThreadObject",
            summary="Return a thread, and the id of its session",
            tags=tags,
        ),
        Operation(
            method="POST",
            path=one,
            handler=modify_thread,
            body=ThreadChanges,
            body_kind="thread",
            response="ThreadObject",
            summary="Change a thread",
            tags=tags,
        ),
        Operation(
            method="DELETE",
            path=one,
            handler=delete_thread,
            response="DeleteThreadResponse",
            summary="Delete a thread with its messages, runs and session",
            tags=tags,
        ),
    ]


async def list_threads(call: Call) -> Object:
    """List the principal's threads, or those whose metadata has the pairs in the URL."""
    query = call.query_as(PageQuery)
    page = await call.records.page(
        Kind.THREAD,
        principal=call.principal,
        metadata=_metadata_of(call),
        **query.model_dump(),
    )
    return to_list(page)


async def post_thread(call: Call) -> Object:
    """Create a thread."""
    return await create_thread(call, call.body_as(ThreadBody))


async def create_thread(call: Call, body: ThreadBody) -> Object:
    """Store a new thread with its first messages."""
    await check_resources(call, body.tool_resources)
    thread: Object = {
        "id": new_id("thread_"),
        "object": "thread",
        "created_at": now(),
        "metadata": body.metadata or {},
        "tool_resources": to_resources(body.tool_resources),
    }
    messages = [await make_message(call, thread["id"], message) for message in body.messages or ()]
    return await call.records.add_thread(
        thread, messages, principal=call.principal, file_limit=file_limit(call)
    )


async def get_thread(call: Call) -> Object:
    """Return a thread with the id of its session, null until code has run in it."""
    thread, private = await call.records.get_both(
        Kind.THREAD, call.params["thread_id"], principal=call.principal
    )
    return {**thread, SESSION: private.get(SESSION)}


async def modify_thread(call: Call) -> Object:
    """Change a thread's metadata, or the files and stores of its tools."""
    body = call.body_as(ThreadChanges)
    await check_resources(call, body.tool_resources)
    id, sent = call.params["thread_id"], body.model_fields_set

    def change(old: Object) -> Object:
        changed = dict(old)
        if "metadata" in sent:
            changed["metadata"] = body.metadata or {}
        if "tool_resources" in sent:
            changed["tool_resources"] = to_resources(body.tool_resources, old["tool_resources"])
        return changed

    thread = await call.records.change(Kind.THREAD, id, change, principal=call.principal)
    if "tool_resources" in sent:
        await _forget_detached(call, thread)
    return thread


async def delete_thread(call: Call) -> Object:
    """Delete a thread; its active run is cancelled first, its session closed after."""
    id = call.params["thread_id"]
    private = await call.records.get_private(Kind.THREAD, id, principal=call.principal)
    await call.api.runs.abandon(id)
    if await call.records.delete_thread(id, principal=call.principal):
        call.api.purge.ask()
    await call.api.interpreter.close_session(private, principal=call.principal)
    return {"id": id, "object": "thread.deleted", "deleted": True}


def file_limit(call: Call) -> int | None:
    """Return how many files a thread may have; version 1 bounds only those of one message."""
    return FILES_PER_TOOL if call.version == "v2" else None


async def _forget_detached(call: Call, thread: Object) -> None:
    """Keep of the files that came by messages those that the thread still has."""
    kept = code_file_ids(thread)

    def change(private: Object) -> Object:
        return {**private, ATTACHED: [id for id in private.get(ATTACHED, ()) if id in kept]}

    await call.records.change_private(Kind.THREAD, thread["id"], change, principal=call.principal)


def _metadata_of(call: Call) -> Mapping[str, str]:
    """Return what stands in the URL as `metadata[key]=value`."""
    pairs = [
        (name.removeprefix("metadata[").removesuffix("]"), value)
        for name, value in call.request.query_params.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    ]
    return dict(pairs[:METADATA_PAIRS])
