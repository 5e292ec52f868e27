"""A session service over HTTP, with the methods of the one in this process.

How this works: code is submitted under an id that is made here, and the answer is the step when it
is final, or after a while as it is; then its end is asked for again. So a connection that is lost,
or cut by a proxy, loses no step and runs none twice. Cancelling the caller cancels the step.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Literal

import anyio

from ci_tools.errors import (
    CIToolsError,
    NotFoundError,
    ServerUnavailableError,
    ServiceClosedError,
)
from ci_tools.models import (
    CommandDone,
    CommandEvent,
    CommandResult,
    File,
    Json,
    KernelSpec,
    Restarted,
    RunStep,
    Session,
    StepEvent,
    StepFinished,
    Variable,
    new_id,
)
from ci_tools.paths import MOUNT, check_path
from ci_tools.wire import (
    Item,
    command_event_from_item,
    command_result_from_item,
    event_from_item,
    file_from_item,
    kernelspec_from_item,
    restarted_from_item,
    session_from_item,
    step_from_item,
    ticket_from_item,
    variable_from_item,
)
from ci_tools_client.addresses import to_segment, to_segments
from ci_tools_client.connection import QUIET_TIMEOUT, Connection, ConnectionLostError
from ci_tools_client.uploads import RemoteUploads

if TYPE_CHECKING:
    from ci_tools.stores.nouns import Ticket

logger = logging.getLogger(__name__)

WAIT = 25.0
"""Seconds that one request waits for the end of a step: proxies cut quiet ones after 30 or 60."""

PATIENCE = 60.0
"""Seconds in which a lost service is asked again for a step that it has."""

CANCEL_TIME = 15.0
"""Seconds in which a cancelled step's end is waited for."""

_ATTEMPTS_APART = 0.5
"""Seconds between two attempts to reach a lost service."""

_CANCEL_ATTEMPTS = 4
"""Requests to cancel a step that the service does not know, or not yet."""

_PAGE = 100
"""Records in one answer."""


class RemoteService:
    """Sessions, run steps and files of the principal that the token names.

    `open_client` is how to get it. Its methods take, return and raise what those of
    `ci_tools.SessionService` do; beside those, `ServerUnavailableError` if the service cannot be
    reached, and `ServerDeniedError` if it does not take the token.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def uploads(self) -> RemoteUploads:
        """The principal's files under ids, in sessions and outside of them."""
        return RemoteUploads(self._connection)

    # Sessions

    async def create_session(
        self,
        *,
        name: str | None = None,
        server: str | None = None,
        kernelspec: str | None = None,
        network: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Session:
        """Create a session; its kernel starts with the first step, or with `warm_session`.

        `network` (`none`, `allowlist` or `on`, within what the service allows) and `environment`
        (variables of its code) are for host applications, never for a model to choose.
        """
        body = {
            "name": name,
            "server": server,
            "kernelspec": kernelspec,
            "network": network,
            "environment": None if environment is None else dict(environment),
        }
        return _session(await self._connection.post("/containers", _given(body)))

    async def find_or_create_session(self, name: str) -> Session:
        """Return the principal's oldest session of that name; one is created if there is none."""
        body = {"name": name, "reuse": True}
        return _session(await self._connection.post("/containers", body))

    async def get_session(self, session_id: str) -> Session:
        """Return a session."""
        return _session(await self._connection.get(_container(session_id)))

    async def list_sessions(self) -> list[Session]:
        """List the principal's sessions, last used first."""
        sessions: list[Session] = []
        params = {"limit": str(_PAGE)}
        while True:
            page = await self._connection.get("/containers", params)
            sessions += [_session(item) for item in page["data"]]
            if not page["has_more"]:
                break
            params["after"] = page["last_id"]
        return sorted(sessions, key=lambda session: session.last_used_at, reverse=True)

    async def close_session(self, session_id: str) -> None:
        """Stop the session's kernel and delete its folder, files and steps."""
        await self._connection.delete(_container(session_id))

    async def warm_session(self, session_id: str) -> None:
        """Start the session's kernel in the background, so that its first step need not wait."""
        await self._connection.post(f"{_container(session_id)}/warm", {})

    async def restart_session(self, session_id: str, *, replay: bool = False) -> Restarted:
        """Give the session a new kernel: variables are lost, files kept.

        With `replay` the session's completed steps are run again, in order, until one fails.
        """
        body = {"replay": replay}
        path = f"{_container(session_id)}/restart"
        return restarted_from_item(await self._connection.post(path, body, quiet=None))

    async def interrupt_session(self, session_id: str) -> RunStep | None:
        """Cancel the step that runs now, keeping variables; None if none does."""
        answer = await self._connection.post(f"{_container(session_id)}/interrupt", {})
        return None if answer["step"] is None else step_from_item(answer["step"])

    async def export_notebook(self, session_id: str) -> dict[str, Json]:
        """Return the session as a notebook in nbformat 4.5, one cell for each step."""
        notebook: dict[str, Json] = await self._connection.get(f"{_container(session_id)}/notebook")
        return notebook

    async def list_kernelspecs(self, server: str | None = None) -> list[KernelSpec]:
        """List the kinds of kernel that a server offers, the default first."""
        params = None if server is None else {"server": server}
        found = await self._connection.get("/kernelspecs", params)
        return [kernelspec_from_item(item) for item in found["data"]]

    async def list_servers(self) -> list[str]:
        """Name the servers that sessions can run on, the default first."""
        return list((await self._connection.get("/servers"))["data"])

    # Run steps

    async def run_code(
        self, session_id: str, code: str, *, timeout: float | None = None
    ) -> RunStep:
        """Run code and return its final step; cancelling the call cancels the step.

        `timeout` is the seconds that the code may run; the step is then `expired`.
        """
        id = new_id("step_")
        try:
            step = await self._submit(session_id, code, timeout, id, wait=WAIT)
            return step if step.status.is_final else await self._follow(id)
        except CIToolsError:
            raise  # refused, or away for too long
        except BaseException:
            await self._abandon(id)
            raise

    @asynccontextmanager
    async def stream_code(
        self,
        session_id: str,
        code: str,
        *,
        timeout: float | None = None,
        step_id: str | None = None,
    ) -> AsyncIterator[AsyncIterator[StepEvent]]:
        """Run code; iterate for its events, `StepFinished` last.

        Leaving the block early interrupts the code and stores the step as cancelled. If the
        connection is lost meanwhile, `StepFinished` is the next event.
        """
        id = step_id or new_id("step_")
        path = f"{_container(session_id)}/run_steps"
        body = _given({"code": code, "timeout": timeout, "id": id, "stream": True})
        over, refused, opened = anyio.Event(), False, False
        try:
            async with (
                self._connection.open_events(path, body) as items,
                aclosing(self._to_events(items, id, over)) as events,
            ):
                opened = True
                yield events
        except CIToolsError:
            refused = not opened
            raise
        finally:
            if not refused and not over.is_set():
                await self._abandon(id)

    async def submit_code(
        self,
        session_id: str,
        code: str,
        *,
        timeout: float | None = None,
        step_id: str | None = None,
        wait: float | None = 0,
    ) -> RunStep:
        """Queue code and return its step; it goes on in the service whatever its caller does.

        The step is returned after `wait` seconds at the latest (None: when it is final).
        """
        id = step_id or new_id("step_")
        step = await self._submit(
            session_id, code, timeout, id, wait=WAIT if wait is None else min(wait, WAIT)
        )
        if step.status.is_final or (wait is not None and wait <= WAIT):
            return step
        return await self.wait_run_step(id, timeout=None if wait is None else wait - WAIT)

    @asynccontextmanager
    async def watch_run_step(self, step_id: str) -> AsyncIterator[AsyncIterator[StepEvent]]:
        """Iterate for a step's events from now on, `StepFinished` last; leaving changes nothing."""
        over = anyio.Event()
        async with (
            self._connection.open_events(f"{_step(step_id)}/events") as items,
            aclosing(self._to_events(items, step_id, over)) as events,
        ):
            yield events

    async def wait_run_step(self, step_id: str, *, timeout: float | None = None) -> RunStep:
        """Return the step when it is final, or as it is after `timeout` seconds."""
        end = float("inf") if timeout is None else anyio.current_time() + timeout
        while True:
            rest = max(0.0, min(WAIT, end - anyio.current_time()))
            params = {"wait": f"{rest:.3f}"}
            step = step_from_item(await self._connection.get(_step(step_id), params))
            if step.status.is_final or anyio.current_time() >= end:
                return step

    async def get_run_step(self, step_id: str) -> RunStep:
        """Return a step; one that still runs, with its outputs so far."""
        return step_from_item(await self._connection.get(_step(step_id)))

    async def list_run_steps(
        self, session_id: str, *, limit: int = 20, before: str | None = None
    ) -> list[RunStep]:
        """List a session's steps, newest first; `before` is the id of the last one seen."""
        steps: list[RunStep] = []
        while True:
            asked = min(limit - len(steps), _PAGE)
            params = _given({"limit": str(asked), "before": before})
            page = await self._connection.get(f"{_container(session_id)}/run_steps", params)
            steps += [step_from_item(item) for item in page["data"]]
            if len(page["data"]) < asked or len(steps) >= limit:
                return steps
            before = steps[-1].id

    async def cancel_run_step(self, step_id: str) -> RunStep:
        """Stop a step, keeping the session's variables; returns it when it is final."""
        return step_from_item(await self._connection.post(f"{_step(step_id)}/cancel", {}))

    def open_full_text(
        self, step_id: str, *, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream the whole text of a step whose outputs were cut, as UTF-8."""
        return self._connection.open_bytes(
            f"{_step(step_id)}/full_text", offset=offset, length=length
        )

    # Beside the steps

    async def run_command(
        self,
        session_id: str,
        command: str,
        *,
        timeout: float = 60.0,
        output_limit: int = 1_000_000,
        cwd: str = MOUNT,
    ) -> CommandResult:
        """Run a shell command beside the session's kernel, and return all that it wrote.

        Cancelling the call ends it.
        """
        body = {"command": command, "timeout": timeout, "output_limit": output_limit, "cwd": cwd}
        path = f"{_container(session_id)}/commands"
        return command_result_from_item(
            await self._connection.post(path, body, quiet=timeout + QUIET_TIMEOUT)
        )

    @asynccontextmanager
    async def stream_command(
        self,
        session_id: str,
        command: str,
        *,
        timeout: float = 60.0,
        output_limit: int = 1_000_000,
        cwd: str = MOUNT,
    ) -> AsyncIterator[AsyncIterator[CommandEvent]]:
        """Run a shell command; iterate for its output, `CommandDone` last.

        Leaving the block early ends the command, and so does a lost connection.
        """
        body = {
            "command": command,
            "timeout": timeout,
            "output_limit": output_limit,
            "cwd": cwd,
            "stream": True,
        }
        path = f"{_container(session_id)}/commands"
        async with (
            self._connection.open_events(path, body) as items,
            aclosing(_to_command_events(items)) as events,
        ):
            yield events

    async def list_variables(self, session_id: str) -> list[Variable]:
        """List the variables of the session's Python kernel, sorted by name; none without one."""
        found = await self._connection.get(f"{_container(session_id)}/variables")
        return [variable_from_item(item) for item in found["data"]]

    # Files

    async def upload_file(
        self, session_id: str, path: str, content: bytes | AsyncIterable[bytes]
    ) -> File:
        """Put a file into the session; one with the same name is replaced."""
        address = f"{_container(session_id)}/paths/{to_segments(path)}"
        return file_from_item((await self._connection.send(address, content))["file"])

    async def list_files(self, session_id: str, *, limit: int = 1000) -> list[File]:
        """List the files in the session's folder, sorted by path; at most `limit`."""
        params = {"limit": str(limit)}
        found = await self._connection.get(f"{_container(session_id)}/paths", params)
        return [file_from_item(item) for item in found["data"]]

    async def stat_file(self, session_id: str, path: str, *, digest: bool = True) -> File:
        """Describe one file, with its SHA-256 unless it is larger than 2 GiB or not wanted."""
        address = f"{_container(session_id)}/stat/{to_segments(path)}"
        params = {"digest": "true" if digest else "false"}
        return file_from_item(await self._connection.get(address, params))

    @asynccontextmanager
    async def open_file(
        self, session_id: str, path: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a file's bytes, or `length` of them from `offset`."""
        address = f"{_container(session_id)}/paths/{to_segments(path)}"
        async with self._connection.open_bytes(address, offset=offset, length=length) as chunks:
            yield chunks

    async def delete_file(self, session_id: str, path: str) -> None:
        """Delete one file from the session, and the upload behind it if it was for this path."""
        await self._connection.delete(f"{_container(session_id)}/paths/{to_segments(path)}")

    async def create_ticket(
        self, session_id: str, path: str, action: Literal["upload", "download"]
    ) -> "tuple[Ticket, str]":
        """Make a short-lived right to upload or download one file; returns it and its secret."""
        body = {"path": check_path(path), "action": action}
        answer = await self._connection.post(f"{_container(session_id)}/tickets", body)
        return ticket_from_item(answer), answer["secret"]

    # Inside

    async def _submit(
        self, session_id: str, code: str, timeout: float | None, id: str, *, wait: float
    ) -> RunStep:
        """Submit code; if the connection is lost, once more under the same id."""
        path = f"{_container(session_id)}/run_steps"
        body = _given({"code": code, "timeout": timeout, "id": id, "wait": wait})
        try:
            return step_from_item(await self._connection.post(path, body))
        except ConnectionLostError:
            end = anyio.current_time() + PATIENCE
        while True:
            await anyio.sleep(_ATTEMPTS_APART)
            try:
                return step_from_item(await self._connection.post(path, body))
            except (ServerUnavailableError, ServiceClosedError):
                if anyio.current_time() > end:
                    raise

    async def _follow(self, id: str) -> RunStep:
        """Wait for the end of a step, also of one whose service is away for a while."""
        end = anyio.current_time() + PATIENCE
        while True:
            try:
                return await self.wait_run_step(id)
            except (ServerUnavailableError, ServiceClosedError):
                if anyio.current_time() > end:
                    raise
            await anyio.sleep(_ATTEMPTS_APART)

    async def _to_events(
        self, items: AsyncIterator[Item], id: str, over: anyio.Event
    ) -> AsyncGenerator[StepEvent, None]:
        """Yield the events of a stream; if it breaks, the end of its step."""
        try:
            async for item in items:
                event = event_from_item(item)
                if isinstance(event, StepFinished):
                    over.set()
                yield event
        except ConnectionLostError:
            pass
        if not over.is_set():
            step = await self._follow(id)
            over.set()
            yield StepFinished(step=step)

    async def _abandon(self, id: str) -> None:
        """Cancel a step whose caller has left, and wait for its end, which is bounded."""
        with anyio.move_on_after(CANCEL_TIME, shield=True) as scope:
            for _ in range(_CANCEL_ATTEMPTS):
                try:
                    await self.cancel_run_step(id)
                except NotFoundError:
                    await anyio.sleep(_ATTEMPTS_APART)  # its submission may be on its way still
                except CIToolsError as error:
                    logger.warning("step %s: it could not be cancelled: %s", id, error)
                    return
                else:
                    return
        if scope.cancelled_caught:
            logger.warning("step %s: its end was not told within %g s", id, CANCEL_TIME)


async def _to_command_events(items: AsyncIterator[Item]) -> AsyncGenerator[CommandEvent, None]:
    async for item in items:
        event = command_event_from_item(item)
        yield event
        if isinstance(event, CommandDone):
            return


def _given(body: Item) -> Item:
    """Leave out what is None."""
    return {name: value for name, value in body.items() if value is not None}


def _container(session_id: str) -> str:
    return f"/containers/{to_segment('session', session_id)}"


def _step(step_id: str) -> str:
    return f"/run_steps/{to_segment('run step', step_id)}"


def _session(item: Item) -> Session:
    return session_from_item(item["session"])
