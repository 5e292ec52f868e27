"""A feed of events as an HTTP response."""

from collections.abc import Callable

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ci_tools_assistants.objects import Object
from ci_tools_assistants.runs import events
from ci_tools_assistants.runs.events import (
    DONE_FRAME,
    EVENT_STREAM,
    KEEP_ALIVE_FRAME,
    STREAM_HEADERS,
    Event,
    to_frame,
)
from ci_tools_assistants.runs.feeds import Reader
from ci_tools_assistants.versions import Version, to_wire_event

KEEP_ALIVE = 15.0
"""Seconds without an event after which a comment is sent."""

LAST_WORDS = 1.0
"""Seconds in which a stream that is cut off by the end of the service is ended in order."""


class EventResponse(Response):
    """What a reader reads, until its feed ends or the client goes; a run minds neither."""

    def __init__(
        self,
        reader: Reader,
        to_wire: Callable[[Object], Object],
        *,
        version: Version = "v2",
        keep_alive: float = KEEP_ALIVE,
    ) -> None:
        # Not the constructor of the parent class: it would announce the length of the body.
        self.status_code = 200
        self.media_type = EVENT_STREAM
        self.background = None
        self._reader = reader
        self._to_wire = to_wire
        self._keep_alive = keep_alive
        self._version: Version = version
        self.init_headers(STREAM_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, several in one piece if several are there."""
        with self._reader:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
                    await self._send_events(send)
                    tasks.cancel_scope.cancel()
            except anyio.get_cancelled_exc_class():
                # The server has waited as long as it does when it is told to stop.
                with anyio.move_on_after(LAST_WORDS, shield=True):
                    await self._end(send, self._to_frame(events.closing()))
                raise

    async def _send_events(self, send: Send) -> None:
        while (found := await self._reader.read(patience=self._keep_alive)) is not None:
            frames = b"".join(map(self._to_frame, found)) or KEEP_ALIVE_FRAME
            await send({"type": "http.response.body", "body": frames, "more_body": True})
        await self._end(send, b"")

    async def _end(self, send: Send, frame: bytes) -> None:
        await send({"type": "http.response.body", "body": frame + DONE_FRAME, "more_body": False})

    def _to_frame(self, event: Event) -> bytes:
        name = to_wire_event(event.name, self._version)
        return to_frame(Event(name, self._to_wire(event.data)))


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
