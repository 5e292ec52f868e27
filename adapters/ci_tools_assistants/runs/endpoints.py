"""The endpoints of runs."""

from collections.abc import Sequence

from starlette.responses import Response

from ci_tools_assistants.conversations.messages import make_message
from ci_tools_assistants.conversations.threads import ThreadBody, create_thread, file_limit
from ci_tools_assistants.http.paging import PageQuery, to_list
from ci_tools_assistants.http.requests import validate
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.http.shapes import ToolResources, to_plain
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.runs import events
from ci_tools_assistants.runs.requests import (
    IncludeQuery,
    OutputsBody,
    RunBody,
    RunChange,
    ThreadRunBody,
    to_outputs,
    to_run,
)
from ci_tools_assistants.runs.running import ActiveRun
from ci_tools_assistants.runs.states import is_over
from ci_tools_assistants.runs.streams import EventResponse

POLL_AFTER = (100, 250, 1000)
"""Milliseconds after which clients should ask again: for runs up to 5 s old, up to 30 s, older."""


async def create_run(call: Call) -> Object | Response:
    """Start a run in a thread, after additional messages."""
    call.query_as(IncludeQuery)
    body = call.body_as(RunBody)
    thread_id = call.params["thread_id"]
    assistant = await _get_assistant(call, body.assistant_id)
    run = to_run(
        body,
        assistant,
        thread_id=thread_id,
        lifetime=call.api.settings.run_lifetime,
        additional_instructions=body.additional_instructions,
        now=now(),
    )
    messages = []
    if body.additional_messages:
        messages = [
            await make_message(call, thread_id, message) for message in body.additional_messages
        ]
    active = await call.api.runs.when_free(
        thread_id,
        lambda: call.api.runs.start(
            run, messages, principal=call.principal, file_limit=file_limit(call)
        ),
    )
    return _answer(call, active, stream=body.stream)


async def create_thread_and_run(call: Call) -> Object | Response:
    """Make a thread and start a run in it."""
    body = call.body_as(ThreadRunBody)
    assistant = await _get_assistant(call, body.assistant_id)
    run = to_run(body, assistant, thread_id="", lifetime=call.api.settings.run_lifetime, now=now())
    thread = await create_thread(call, _with_resources(body))
    run["thread_id"] = thread["id"]
    active = await call.api.runs.start(
        run, principal=call.principal, first=[events.thread_created(thread)]
    )
    return _answer(call, active, stream=body.stream)


async def list_runs(call: Call) -> Object:
    """List the runs of a thread."""
    query = call.query_as(PageQuery)
    page = await call.records.page(
        Kind.RUN,
        principal=call.principal,
        parent=call.params["thread_id"],
        **query.model_dump(),
    )
    return to_list(page)


async def get_run(call: Call) -> Object:
    """Return a run."""
    run = await call.records.get(
        Kind.RUN,
        call.params["run_id"],
        principal=call.principal,
        parent=call.params["thread_id"],
    )
    _suggest_poll(call, run)
    return run


async def modify_run(call: Call) -> Object:
    """Replace the metadata of a run."""
    body = call.body_as(RunChange)

    def change(run: Object) -> Object:
        return run if body.metadata is None else {**run, "metadata": body.metadata}

    return await call.records.change(
        Kind.RUN,
        call.params["run_id"],
        change,
        principal=call.principal,
        parent=call.params["thread_id"],
    )


async def cancel_run(call: Call) -> Object:
    """Stop a run."""
    run = await call.api.runs.cancel(
        call.params["thread_id"], call.params["run_id"], principal=call.principal
    )
    _suggest_poll(call, run)
    return run


async def submit_tool_outputs(call: Call) -> Object | Response:
    """Take the outputs that a run waits for."""
    body = call.body_as(OutputsBody)
    active = await call.api.runs.submit(
        call.params["thread_id"],
        call.params["run_id"],
        to_outputs(body),
        principal=call.principal,
    )
    return _answer(call, active, stream=body.stream)


def operations() -> Sequence[Operation]:
    """Return the operations of runs."""
    runs, run = "/threads/{thread_id}/runs", "/threads/{thread_id}/runs/{run_id}"
    tags = ("Assistants",)
    return (
        Operation(
            method="POST",
            path="/threads/runs",
            handler=create_thread_and_run,
            body=ThreadRunBody,
            body_kind="thread_run",
            response="RunObject",
            summary="Create a thread and run it in one request.",
            tags=tags,
        ),
        Operation(
            method="POST",
            path=runs,
            handler=create_run,
            body=RunBody,
            body_kind="run",
            query=IncludeQuery,
            response="RunObject",
            summary="Create a run.",
            tags=tags,
        ),
        Operation(
            method="GET",
            path=runs,
            handler=list_runs,
            query=PageQuery,
            response="ListRunsResponse",
            summary="Returns a list of runs belonging to a thread.",
            tags=tags,
        ),
        Operation(
            method="GET",
            path=run,
            handler=get_run,
            response="RunObject",
            summary="Retrieves a run.",
            tags=tags,
        ),
        Operation(
            method="POST",
            path=run,
            handler=modify_run,
            body=RunChange,
            response="RunObject",
            summary="Modifies a run.",
            tags=tags,
        ),
        Operation(
            method="POST",
            path=run + "/cancel",
            handler=cancel_run,
            response="RunObject",
            summary="Cancels a run that is active.",
            tags=tags,
        ),
        Operation(
            method="POST",
            path=run + "/submit_tool_outputs",
            handler=submit_tool_outputs,
            body=OutputsBody,
            response="RunObject",
            summary="Submits the outputs of all calls that a run waits for.",
            tags=tags,
        ),
    )


async def _get_assistant(call: Call, id: str) -> Object:
    return await call.records.get(Kind.ASSISTANT, id, principal=call.principal)


def _with_resources(body: ThreadRunBody) -> ThreadBody:
    """Return the thread to make, with the files that the request gives to the run's tools."""
    thread = body.thread or ThreadBody()
    resources = body.tool_resources
    if resources is None:
        return thread
    own = to_plain(thread.tool_resources) if thread.tool_resources else {}
    merged = {**to_plain(resources), **own}
    given = [(part.get("code_interpreter") or {}) for part in (own, to_plain(resources))]
    if file_ids := [id for part in given for id in part.get("file_ids") or ()]:
        merged["code_interpreter"] = {"file_ids": list(dict.fromkeys(file_ids))}
    return thread.model_copy(update={"tool_resources": validate(ToolResources, merged)})


def _answer(call: Call, active: ActiveRun, *, stream: bool | None) -> Object | Response:
    if stream:
        # Nothing was awaited since the run has begun: its first events are still to come.
        return EventResponse(active.feed.subscribe(), call.to_wire, version=call.version)
    _suggest_poll(call, active.run)
    return active.run


def _suggest_poll(call: Call, run: Object) -> None:
    # Clients sleep a whole second without it.
    if not is_over(run):
        age = now() - run["created_at"]
        wait = POLL_AFTER[0 if age <= 5 else 1 if age <= 30 else 2]
        call.response_headers["openai-poll-after-ms"] = str(wait)
