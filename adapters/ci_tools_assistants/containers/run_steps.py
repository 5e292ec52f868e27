"""Run steps of containers.

How this works: a step belongs to the service, not to the request that made it. A client that is
cut off asks for it again by its id, which it may have made itself; a client that wants its end
says so. The operations on one step are there with and without the container in the path.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.responses import Response

from ci_tools import Json, NotFoundError, RunStep, StepEvent
from ci_tools.wire import Item, event_to_item, step_to_item
from ci_tools_assistants.containers.bodies import RunStepBody, RunStepsQuery, WaitQuery
from ci_tools_assistants.containers.failures import told
from ci_tools_assistants.containers.streams import EventStream, Work, answer
from ci_tools_assistants.http.downloads import to_download
from ci_tools_assistants.http.routing import Call, Operation

_NAME = "container.run_step"
"""How the events' names begin, and what `object` says."""


async def create(call: Call) -> Response:
    """Run code: stream its events, wait for its end, or answer at once."""
    body = call.body_as(RunStepBody)
    session_id = call.params["container_id"]

    @asynccontextmanager
    async def run() -> AsyncIterator[AsyncIterator[Item]]:
        step = await call.service.submit_code(
            session_id, body.code, timeout=body.timeout, step_id=body.id
        )
        async with call.service.watch_run_step(step.id) as events:
            yield _to_items(events)

    if body.stream:
        return EventStream(_NAME, run)

    async def wait() -> Item:
        step = await call.service.submit_code(
            session_id,
            body.code,
            timeout=body.timeout,
            step_id=body.id,
            wait=0 if body.background else body.wait,
        )
        return _to_object(step)

    return Work(wait)  # the waiting ends if the client leaves; the step goes on


async def list_run_steps(call: Call) -> Response:
    """List the steps, the newest first."""
    query = call.query_as(RunStepsQuery)
    steps = await call.service.list_run_steps(
        call.params["container_id"], limit=query.limit, before=query.before
    )
    data: list[Json] = [_to_object(step) for step in steps]
    return answer({"object": "list", "data": data, "has_more": len(data) == query.limit})


async def retrieve(call: Call) -> Response:
    """Return a step, when it is final if that is wanted."""
    await _check_container(call)
    seconds = call.query_as(WaitQuery).wait
    if seconds is None:
        return answer(_to_object(await call.service.get_run_step(_id(call))))

    async def wait() -> Item:
        return _to_object(await call.service.wait_run_step(_id(call), timeout=seconds))

    return Work(wait)


async def cancel(call: Call) -> Response:
    """Stop a step."""
    await _check_container(call)
    return answer(_to_object(await call.service.cancel_run_step(_id(call))))


async def watch(call: Call) -> Response:
    """Stream a step's events from now on."""
    await _check_container(call)

    @asynccontextmanager
    async def open_events() -> AsyncIterator[AsyncIterator[Item]]:
        async with call.service.watch_run_step(_id(call)) as events:
            yield _to_items(events)

    return EventStream(_NAME, open_events)


async def download_full_text(call: Call) -> Response:
    """Return the whole text of a step whose outputs were cut."""
    await _check_container(call)
    id = _id(call)
    step = await call.service.get_run_step(id)
    if step.full_text is None:
        raise NotFoundError("full text of step", id)
    return to_download(
        call.request,
        lambda *, offset, length: call.service.open_full_text(id, offset=offset, length=length),
        name=f"{id}.txt",
        size=step.full_text.size,
        media_type="text/plain; charset=utf-8",
        version=id,
    )


async def _to_items(events: AsyncIterator[StepEvent]) -> AsyncIterator[Item]:
    async for event in events:
        yield event_to_item(event)


async def _check_container(call: Call) -> None:
    """Refuse a step of another container than the one in the path, if one is there."""
    session_id = call.params.get("container_id")
    if session_id is not None:
        step = await call.service.get_run_step(_id(call))
        if step.session_id != session_id:
            raise NotFoundError("run step", _id(call))


def _id(call: Call) -> str:
    return call.params["step_id"]


def _to_object(step: RunStep) -> Item:
    return {"object": _NAME, **step_to_item(step)}


def operations() -> Sequence[Operation]:
    """List the operations."""
    many = "/containers/{container_id}/run_steps"
    return (
        Operation(
            method="POST",
            path=many,
            handler=told(create),
            body=RunStepBody,
            is_remembered=False,
            summary="Run code in the container",
            tags=("Run steps",),
        ),
        Operation(
            method="GET",
            path=many,
            handler=told(list_run_steps),
            query=RunStepsQuery,
            summary="List the container's run steps, the newest first",
            tags=("Run steps",),
        ),
        *_of_one(many + "/{step_id}"),
        *_of_one("/run_steps/{step_id}"),
    )


def _of_one(path: str) -> Sequence[Operation]:
    return (
        Operation(
            method="GET",
            path=path,
            handler=told(retrieve),
            query=WaitQuery,
            summary="Retrieve a run step, or wait for its end",
            tags=("Run steps",),
        ),
        Operation(
            method="POST",
            path=path + "/cancel",
            handler=told(cancel),
            summary="Cancel a run step, keeping variables",
            tags=("Run steps",),
        ),
        Operation(
            method="GET",
            path=path + "/events",
            handler=told(watch),
            summary="Stream the events of a run step from now on",
            tags=("Run steps",),
        ),
        Operation(
            method="GET",
            path=path + "/full_text",
            handler=told(download_full_text),
            summary="Download the whole text of a run step whose outputs were cut",
            tags=("Run steps",),
        ),
    )
