"""Shell commands beside the kernel of a container; they end when whoever asked for them leaves."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.responses import Response

from ci_tools.wire import Item, command_event_to_item, command_result_to_item
from ci_tools_assistants.containers.bodies import CommandBody
from ci_tools_assistants.containers.failures import told
from ci_tools_assistants.containers.streams import EventStream, Work
from ci_tools_assistants.http.routing import Call, Operation


async def create(call: Call) -> Response:
    """Run a command and return what it wrote, as it comes or at its end."""
    body = call.body_as(CommandBody)
    session_id = call.params["container_id"]

    @asynccontextmanager
    async def open_events() -> AsyncIterator[AsyncIterator[Item]]:
        async with call.service.stream_command(
            session_id,
            body.command,
            timeout=body.timeout,
            output_limit=body.output_limit,
            cwd=body.cwd,
        ) as events:
            yield (command_event_to_item(event) async for event in events)

    async def run() -> Item:
        result = await call.service.run_command(
            session_id,
            body.command,
            timeout=body.timeout,
            output_limit=body.output_limit,
            cwd=body.cwd,
        )
        return {"object": "container.command", **command_result_to_item(result)}

    return EventStream("container.command", open_events) if body.stream else Work(run)


def operations() -> Sequence[Operation]:
    """List the operations."""
    return (
        Operation(
            method="POST",
            path="/containers/{container_id}/commands",
            handler=told(create),
            body=CommandBody,
            is_remembered=False,
            summary="Run a shell command beside the container's kernel",
            tags=("Commands",),
        ),
    )
