"""Shell commands beside a kernel, on servers of either kind.

How this works: where the Jupyter Server has our extension and the kernel is in a sandbox, the
command runs in that. The embedded server without a sandbox leaves it to a child process of ours.
On any other server a second kernel is started in the session's folder, and runs it.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from uuid import uuid4

import anyio
import httpx2

from ci_tools.commands import to_shell
from ci_tools.errors import BackendError, KernelLostError
from ci_tools.kernel import CommandRequest, Execution, ExecutionDone, Kernel, OutputLost
from ci_tools.mapping import PathMapper
from ci_tools.models import (
    CommandDone,
    CommandEvent,
    CommandOutput,
    CommandRoute,
    DisplayOutput,
    ErrorOutput,
    StreamOutput,
)
from ci_tools.paths import MOUNT
from ci_tools_jupyter.greeting import MODULE
from ci_tools_jupyter.kernel_side import MEDIA_TYPE
from ci_tools_jupyter.server import JupyterServer, to_kernel_path

ANSWER_GRACE = 30.0
"""Seconds past its time that a server has to say how a command ended."""

STOP_GRACE = 5.0
"""Seconds that an interrupted command has to end."""

_HIDDEN_VARIABLES = ("CI_TOOLS_", "JUPYTER", "JPY_")
"""Variables that a command without a sandbox does not inherit: our secrets and others' servers."""


def to_variables() -> dict[str, str]:
    """Return the environment of a command that runs as a child process of ours."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN_VARIABLES)
    }


@asynccontextmanager
async def run_in_sandbox(
    server: JupyterServer, kernel_id: str, request: CommandRequest
) -> AsyncIterator[AsyncIterator[CommandEvent] | None]:
    """Run a command by our server extension; None if the server has none, or the kernel no sandbox.

    Raises:
        KernelLostError: The server knows no such kernel.
    """
    body = {
        "command": request.command,
        "timeout": request.timeout,
        "output_limit": request.output_limit,
        "cwd": f"{MOUNT}/{request.cwd}".rstrip("/"),
        "environment": dict(request.environment),
    }
    path = f"ci-tools/{to_kernel_path(kernel_id)}/commands"
    patience = httpx2.Timeout(request.timeout + ANSWER_GRACE, connect=5.0)
    found = False
    failure: Exception | None = None
    try:
        async with server.stream(path, json=body, timeout=patience) as response:
            found = response.status_code == HTTPStatus.OK
            if found:
                try:
                    yield _read_lines(server, response)
                except Exception as exc:  # noqa: BLE001 - raised below: it is not the server's
                    failure = exc
            else:
                await response.aread()
    except httpx2.HTTPError as exc:
        raise server.to_unavailable(exc) from exc
    if failure is not None:
        raise failure
    if found:
        return
    match response.status_code:
        case HTTPStatus.GONE:
            raise KernelLostError(f"{server.address.name}: the kernel's sandbox has ended.")
        case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED | HTTPStatus.CONFLICT:
            await server.get_kernel(kernel_id)  # raises if it is the kernel that is missing
            yield None
        case _:
            raise server.to_error(response)


async def _read_lines(
    server: JupyterServer, response: httpx2.Response
) -> AsyncIterator[CommandEvent]:
    try:
        async for line in response.aiter_lines():
            event = _to_event(json.loads(line), "sandbox")
            yield event
            if isinstance(event, CommandDone):
                return
    except (httpx2.HTTPError, ValueError) as exc:
        raise server.to_unavailable(exc) from exc
    raise BackendError(f"{server.address.name} ended the command before it was done.")


def _to_event(line: object, via: CommandRoute) -> CommandEvent:
    match line:
        case {"stream": "stdout" | "stderr" as name, "text": str(text)}:
            return CommandOutput(name=name, text=text)
        case {
            "exit_status": int(status),
            "timed_out": bool(timed_out),
            "truncated": bool(truncated),
        }:
            return CommandDone(
                exit_status=status, timed_out=timed_out, truncated=truncated, via=via
            )
        case _:
            raise ValueError("no event of a command")


@asynccontextmanager
async def run_in_kernel(
    kernel: Kernel, request: CommandRequest, *, place: str
) -> AsyncIterator[AsyncIterator[CommandEvent]]:
    """Run a command in an idle Python kernel of its own that sees the session's folder at `place`.

    Leaving early interrupts it.
    """
    arguments = (
        to_shell(request.command, place),
        request.cwd,
        request.timeout,
        request.output_limit,
    )
    code = f"__import__({MODULE!r}).run{arguments!r}"
    execution = await kernel.execute(code, execution_id=uuid4().hex)
    reading = _Reading(execution, PathMapper(place))
    try:
        yield reading.events()
    finally:
        if not reading.done:
            with anyio.move_on_after(STOP_GRACE, shield=True):
                await kernel.interrupt()
                while not isinstance(await execution.receive(), ExecutionDone):
                    pass


class _Reading:
    """Turns the events of an execution into those of the command that it runs."""

    def __init__(self, execution: Execution, mapper: PathMapper) -> None:
        self._execution = execution
        self._mapper = mapper
        self.done = False

    async def events(self) -> AsyncIterator[CommandEvent]:
        end: CommandDone | None = None
        lost = False
        problem = "its kernel was stopped"
        while not self.done:
            event = self._mapper.to_event(await self._execution.receive())
            match event:
                case StreamOutput() if event.text:
                    yield CommandOutput(name=event.name, text=event.text)
                case DisplayOutput():
                    end = _to_done(event.data.get(MEDIA_TYPE)) or end
                case ErrorOutput():
                    problem = f"{event.name}: {event.message}"[:200]
                case OutputLost():
                    lost = True
                case ExecutionDone():
                    self.done = True
        for rest in self._mapper.rest():
            yield CommandOutput(name=rest.name, text=rest.text)
        if end is None:
            raise BackendError(f"The command could not be run ({problem}).")
        yield CommandDone(
            exit_status=end.exit_status,
            timed_out=end.timed_out,
            truncated=end.truncated or lost,
            via="second_kernel",
        )


def _to_done(answer: object) -> CommandDone | None:
    match answer:
        case [int(status), bool(timed_out), bool(truncated)]:
            return CommandDone(
                exit_status=status, timed_out=timed_out, truncated=truncated, via="second_kernel"
            )
        case _:
            return None
