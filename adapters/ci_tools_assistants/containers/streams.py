"""Answers that take their time: events as they come, and results that are waited for.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ci_tools import CIToolsError, Json
from ci_tools.wire import Item, to_text
from ci_tools_assistants.containers.failures import CoreError

KEEP_ALIVE = 15.0
"""Seconds between two comments, so that no proxy takes a quiet stream for a dead one."""

OpenEvents: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncIterator[Item]]]
"""Starts what is to be told, and ends it where its reader's leaving is to end it."""


def answer(item: Json, status: int = 200) -> Response:
    """Return JSON in ASCII: not every text that code prints can be written in UTF-8."""
    return Response(to_text(item), status, media_type="application/json")


def refusal(error: CIToolsError) -> Response:
    """Return the answer that an error of the core is."""
    failure = CoreError(error)
    response = answer(failure.to_object(), failure.status)
    if failure.retry_after is not None:
        response.headers["retry-after"] = str(max(1, round(failure.retry_after)))
    return response


class _Late(Response):
    """An answer that is known when it is sent; headers that were given to it are that one's."""

    def __init__(self) -> None:
        super().__init__()
        del self.headers["content-length"]

    def _with_headers(self, response: Response) -> Response:
        for name, value in self.headers.items():
            response.headers.setdefault(name, value)
        return response


class EventStream(_Late):
    """Events of `open_events` as `{name}.{type}`; an error after the first byte is one too."""

    media_type = "text/event-stream"

    def __init__(self, name: str, open_events: OpenEvents) -> None:
        super().__init__()
        self.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._name = name
        self._open_events = open_events
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until their end, or until the reader has left."""
        try:
            await self._stream(receive, send)
        except CIToolsError as error:
            if not self._started:
                await self._with_headers(refusal(error))(scope, receive, send)
                return
            await _send_frame(send, "error", CoreError(error).to_object())
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, receive: Receive, send: Send) -> None:
        failure: CIToolsError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_wait_for_leaving, receive, tasks.cancel_scope)
            try:
                async with self._open_events() as events:
                    await self._start(send)
                    tasks.start_soon(_keep_alive, send)
                    async for event in events:
                        await _send_frame(send, f"{self._name}.{event['type']}", event)
            except CIToolsError as error:
                failure = error  # raised outside of the group, which would wrap it
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if self._started:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        self._started = True
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        # Some clients show a stream as open only when its first bytes are there.
        await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})


class Work(_Late):
    """The result of work that is cancelled if its reader leaves."""

    def __init__(self, work: Callable[[], Awaitable[Item]]) -> None:
        super().__init__()
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the work and send what came of it."""
        response: Response | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_wait_for_leaving, receive, tasks.cancel_scope)
            try:
                response = answer(await self._work())
            except CIToolsError as error:
                response = refusal(error)
            tasks.cancel_scope.cancel()
        if response is not None:
            await self._with_headers(response)(scope, receive, send)


async def _wait_for_leaving(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _keep_alive(send: Send) -> None:
    while True:
        await anyio.sleep(KEEP_ALIVE)
        await send({"type": "http.response.body", "body": b": alive\n\n", "more_body": True})


async def _send_frame(send: Send, name: str, item: Item) -> None:
    frame = f"event: {name}\ndata: {to_text(item)}\n\n".encode("ascii")
    await send({"type": "http.response.body", "body": frame, "more_body": True})
