"""The time that the body of a request may stand still.

How this works: all faces read bodies through what they are given as `receive`. While the body is
not complete, each wait for more of it has a limit; when that has passed, the answer is 408, and
whoever reads is told that the client has left, which everybody knows how to clean up after. How
long the whole body takes does not matter, nor how long a reader takes to ask for more.
https://www.rfc-editor.org/rfc/rfc9110#section-15.5.9
"""

import logging

import anyio
from mcp.types import INVALID_REQUEST
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)


class BodyTimeLimit:
    """Middleware that answers 408 where no more of a body arrives for `seconds`."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, send, self._seconds)
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:
            # It comes of what was answered already, and of a reader who does not know how to leave.
            if not body.is_late:
                raise
            logger.debug("a request ended with an error after its body stood still", exc_info=True)


class _Body:
    """One request, and how much of it has come and gone."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, seconds: float) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._seconds = seconds
        self._is_complete = False
        self._is_answered = False
        self.is_late = False

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()
        with anyio.move_on_after(self._seconds) as scope:
            message = await self._receive()
            self._is_complete = not message.get("more_body", False)
            return message
        assert scope.cancelled_caught
        self._is_complete = self.is_late = True
        if not self._is_answered:
            await _refuse(self._scope, self._seconds)(self._scope, self._receive, self._send)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self._is_answered = True
        if not self.is_late:
            await self._send(message)


def _refuse(scope: Scope, seconds: float) -> JSONResponse:
    text = f"Nothing more of the request's body arrived for {seconds:g} seconds; send it again."
    headers = {"Connection": "close"}  # where a next request would begin is not known
    if scope["path"] == "/mcp":
        # Clients of the mcp package hand a JSON-RPC error to their caller.
        error = {"code": INVALID_REQUEST, "message": text}
        return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 408, headers)
    body = {
        "message": text,
        "type": "invalid_request_error",
        "param": None,
        "code": "request_timeout",
    }
    return JSONResponse({"error": body}, 408, headers)
