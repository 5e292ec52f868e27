"""Streams over a real connection: clients that leave, and clients that read slowly."""

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import uvicorn

from ci_tools_assistants.runs.events import Event, closing, to_frame
from ci_tools_assistants.runs.feeds import Feed
from ci_tools_assistants.runs.streams import EventResponse
from tests.adapters.assistants.puppet import Gate, Stage, open_stage


class Wire:
    """An ASGI connection whose client stays until it is told to go."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = anyio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def test_a_feed_is_sent_to_its_end() -> None:
    feed, wire = Feed(), Wire()
    response = EventResponse(feed.subscribe(), lambda item: item)
    first, second = Event("thread.created", {"id": "a"}), Event("thread.run.created", {"id": "b"})
    feed.publish([first, second])
    feed.close()

    with anyio.fail_after(30):
        await response({"type": "http"}, wire.receive, wire.send)

    headers = dict(wire.sent[0]["headers"])
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"cache-control"] == b"no-cache"
    assert b"content-length" not in headers
    assert wire.body == to_frame(first) + to_frame(second) + b"event: done\ndata: [DONE]\n\n"
    assert wire.sent[-1]["more_body"] is False
    assert len(wire.sent) == 3


async def test_a_stream_that_the_server_cuts_off_ends_with_an_error() -> None:
    feed, wire = Feed(), Wire()
    response = EventResponse(feed.subscribe(), lambda item: item)
    first = Event("thread.run.created", {"id": "a"})
    feed.publish([first])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(response, {"type": "http"}, wire.receive, wire.send)
            while to_frame(first) not in wire.body:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    assert wire.body == to_frame(first) + to_frame(closing()) + b"event: done\ndata: [DONE]\n\n"
    assert wire.sent[-1]["more_body"] is False


async def test_a_comment_keeps_a_silent_stream_alive() -> None:
    feed, wire = Feed(), Wire()
    response = EventResponse(feed.subscribe(), lambda item: item, keep_alive=0.01)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(response, {"type": "http"}, wire.receive, wire.send)
            while b": keep-alive\n\n" not in wire.body:
                await anyio.sleep(0.005)
            feed.publish([Event("thread.created", {})])
            feed.close()

    assert wire.body.endswith(b"data: {}\n\nevent: done\ndata: [DONE]\n\n")


async def test_a_client_that_goes_ends_the_response_only() -> None:
    feed, wire = Feed(), Wire()
    response = EventResponse(feed.subscribe(), lambda item: item)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(response, {"type": "http"}, wire.receive, wire.send)
            await anyio.wait_all_tasks_blocked()
            wire.gone.set()

    feed.publish([Event("thread.created", {})])
    assert b"thread.created" not in wire.body


async def test_events_are_shown_in_the_version_of_the_client() -> None:
    feed, wire = Feed(), Wire()
    response = EventResponse(feed.subscribe(), lambda item: {**item, "v": 1}, version="v1")
    feed.publish([Event("thread.run.incomplete", {})])
    feed.close()

    await response({"type": "http"}, wire.receive, wire.send)

    assert b'event: thread.run.completed\ndata: {"v":1}\n\n' in wire.body


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Stage, str]]:
    """Serve the API on a free loopback port, in this event loop."""
    async with open_stage(folder) as stage:
        app = stage.http._transport.app  # type: ignore[attr-defined]
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", http="h11")
        server = uvicorn.Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server._serve, [listener])
            with anyio.fail_after(30):
                while not server.started:
                    await anyio.sleep(0.005)
            try:
                yield stage, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            finally:
                server.should_exit = True
        listener.close()


async def test_a_run_goes_on_when_the_client_of_its_stream_is_gone(tmp_path: Path) -> None:
    async with served(tmp_path) as (stage, url):
        gate = Gate()
        stage.model.plays(["One", gate, " two"])
        assistant, thread = await stage.new_assistant(), await stage.new_thread()
        path = f"{url}/threads/{thread['id']}/runs"
        body = {"assistant_id": assistant["id"], "stream": True}

        with anyio.fail_after(30):
            async with httpx2.AsyncClient() as http, http.stream("POST", path, json=body) as answer:
                async for line in answer.aiter_lines():
                    if '"One"' in line:
                        break
        gate.opened.set()
        [run] = (await stage.get(f"/threads/{thread['id']}/runs"))["data"]

        run = await stage.ends(run)
        assert run["status"] == "completed"
        message = (await stage.messages(run))[-1]
        assert message["content"][0]["text"]["value"] == "One two"


async def test_a_client_that_does_not_read_does_not_hold_the_run_up(tmp_path: Path) -> None:
    async with served(tmp_path) as (stage, url):
        stage.model.plays([f"{'word' * 500} " for _ in range(3000)])
        assistant, thread = await stage.new_assistant(), await stage.new_thread()
        path = f"{url}/threads/{thread['id']}/runs"
        body = {"assistant_id": assistant["id"], "stream": True}

        with anyio.fail_after(60):
            async with httpx2.AsyncClient() as http, http.stream("POST", path, json=body) as answer:
                [run] = (await stage.get(f"/threads/{thread['id']}/runs"))["data"]
                run = await stage.ends(run)
                text = "".join([part async for part in answer.aiter_text()])

        assert run["status"] == "completed"
        said = "".join(_texts(text))
        assert said == f"{'word' * 500} " * 3000


async def test_each_text_is_sent_as_the_model_says_it(tmp_path: Path) -> None:
    async with served(tmp_path) as (stage, url):
        gates = [Gate(), Gate()]
        stage.model.plays(["One", gates[0], " two", gates[1], " three"])
        assistant, thread = await stage.new_assistant(), await stage.new_thread()
        path = f"{url}/threads/{thread['id']}/runs"
        body = {"assistant_id": assistant["id"], "stream": True}
        said = ""

        with anyio.fail_after(30):
            async with httpx2.AsyncClient() as http, http.stream("POST", path, json=body) as answer:
                async for line in answer.aiter_lines():
                    for text in _texts(line):
                        said += text
                        if gates:
                            gates.pop(0).opened.set()

        assert said == "One two three"


def _texts(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith("data: {"):
            data = json.loads(line.removeprefix("data: "))
            if data["object"] == "thread.message.delta":
                yield data["delta"]["content"][0]["text"]["value"]
