"""A chat server that follows a script, on a free loopback port, in a thread of its own.

One server speaks four shapes: OpenAI's chat completions and responses, Anthropic's messages and
Ollama's chat. Whatever it was asked is kept in `requests`.
"""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests.adapters.assistants.scripted import anthropic, chat, ollama, responses
from tests.adapters.assistants.scripted.script import Cut, Fail, Request, Script, Shape, Turn, Wait

MODELS: Final = ("scripted", "other")
"""The names that the list of models has; every name is answered."""

_SHAPES: Final[Mapping[Shape, ModuleType]] = {
    "chat": chat,
    "responses": responses,
    "anthropic": anthropic,
    "ollama": ollama,
}

_EXHAUSTED: Final = Fail(status=400, message="The script has no further turn.", code="script_ended")
"""What a request gets for which there is no turn; clients do not repeat it."""


class ScriptedServer:
    """A running server: its addresses, its script and what it was asked."""

    def __init__(self, script: Script) -> None:
        self.requests: list[Request] = []
        self.root = ""
        """Its address; the base URL of the Anthropic and Ollama clients."""
        self._lock = threading.Lock()
        self._script: Script = script
        self._next = 0

    @property
    def url(self) -> str:
        """The base URL of OpenAI clients, with `/v1`."""
        return f"{self.root}/v1"

    @property
    def bodies(self) -> list[dict[str, object]]:
        """The bodies of all requests."""
        return [request.body for request in self.requests]

    def follow(self, script: Script) -> None:
        """Follow another script from the next request on, and forget the requests so far."""
        with self._lock:
            self._script = script
            self._next = 0
            self.requests = []

    def answer(self, request: Request) -> Turn | Fail:
        """Return what the script has for a request."""
        with self._lock:
            script = self._script
            if callable(script):
                return script(request)
            self._next += 1
            return script[self._next - 1] if self._next <= len(script) else _EXHAUSTED

    def take(self, shape: Shape, headers: Mapping[str, str], body: dict[str, object]) -> Request:
        """Keep a request."""
        with self._lock:
            request = Request(
                shape=shape, headers=dict(headers), body=body, number=len(self.requests)
            )
            self.requests.append(request)
            return request


@dataclass(frozen=True)
class _Stream(Response):
    """A streamed answer that notices a client that hangs up, even while it waits."""

    request: Request
    turn: Turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shape = _SHAPES[self.request.shape]
        kind = b"application/x-ndjson" if self.request.shape == "ollama" else b"text/event-stream"
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        cut = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, receive, tasks.cancel_scope.cancel)
            for step in shape.stream(self.request, self.turn):
                if isinstance(step, Wait):
                    await step.gate.pass_through()
                elif isinstance(step, Cut):
                    cut = True
                    break
                else:
                    await send({"type": "http.response.body", "body": step, "more_body": True})
            else:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            tasks.cancel_scope.cancel()
        if cut:
            raise _ConnectionCut

    async def _watch(self, receive: Receive, leave: Callable[[], None]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.request.hung_up.set()
        leave()


class _ConnectionCut(Exception):
    """Makes uvicorn close the connection without the end of the answer."""


def create_app(server: ScriptedServer) -> Starlette:
    """Return the app with the routes of all four shapes."""

    def route(path: str, shape: Shape) -> Route:
        async def endpoint(http: HttpRequest) -> Response:
            request = server.take(shape, http.headers, json.loads(await http.body()))
            answer = server.answer(request)
            if isinstance(answer, Fail):
                body = _SHAPES[shape].to_error(answer)
                return JSONResponse(body, answer.status, headers=dict(answer.headers))
            if request.streams:
                return _Stream(request, answer)
            for part in answer.parts:
                if isinstance(part, Wait):
                    await part.gate.pass_through()
                if isinstance(part, Cut):
                    raise _ConnectionCut
            return JSONResponse(_SHAPES[shape].to_body(request, answer))

        return Route(path, endpoint, methods=["POST"])

    async def models(http: HttpRequest) -> Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in MODELS]
        return JSONResponse({"object": "list", "data": data})

    return Starlette(
        routes=[
            route("/v1/chat/completions", "chat"),
            route("/v1/responses", "responses"),
            route("/v1/messages", "anthropic"),
            route("/api/chat", "ollama"),
            Route("/v1/models", models),
        ]
    )


@contextmanager
def scripted_server(script: Script = ()) -> Iterator[ScriptedServer]:
    """Serve a script until the block is left."""
    scripted = ScriptedServer(script)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    # Accepted sockets inherit it; asyncio sets it only where the protocol number is given.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    scripted.root = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        create_app(scripted),
        log_config=None,
        log_level=logging.CRITICAL + 1,  # a cut connection is an exception on purpose
        access_log=False,
        timeout_graceful_shutdown=0,
        lifespan="off",
        ws="none",
        http="h11",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.002)
        yield scripted
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
