from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message

from ci_tools_server.body_time import BodyTimeLimit
from tests.adapters.server.processes import serving

FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
    b"the beginning of a file"
)


async def stop_halfway(url: str, head: str, begun: bytes) -> tuple[bytes, bytes]:
    """Send the beginning of a request; return head and body of what comes until the end."""
    host = urlsplit(url)
    assert host.hostname and host.port
    async with await anyio.connect_tcp(host.hostname, host.port) as stream:
        lines = [head, f"Host: {host.netloc}", "Content-Length: 1000"]
        await stream.send("\r\n".join([*lines, "", ""]).encode() + begun)
        answer = b""
        with anyio.fail_after(30):
            try:
                while True:
                    answer += await stream.receive()
            except anyio.EndOfStream:
                pass
    top, _, body = answer.partition(b"\r\n\r\n")
    return top, body


async def test_a_body_that_stands_still_ends_on_every_face(tmp_path: Path) -> None:
    async with serving(tmp_path, CI_TOOLS_BODY_TIMEOUT="0.2") as served:
        key = {"Authorization": f"Bearer {served.token}"}
        async with httpx2.AsyncClient(base_url=f"{served.url}/v1", headers=key) as http:
            upload = {"filename": "a", "purpose": "batch", "bytes": 9, "mime_type": "text/csv"}
            upload_id = (await http.post("/uploads", json=upload)).json()["id"]
            container = (await http.post("/containers", json={"name": "c"})).json()["id"]
            wish = {"path": "a.csv", "action": "upload"}
            ticket = (await http.post(f"/containers/{container}/tickets", json=wish)).json()
            form = "\r\nContent-Type: multipart/form-data; boundary=x"
            mcp = (
                "\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream"
            )
            requests = [
                ("POST /v1/threads", "", b'{"metadata"'),
                ("POST /v1/files", form, FORM),
                (f"POST /v1/uploads/{upload_id}/parts", form, FORM.replace(b'"file"', b'"data"')),
                (f"POST /v1/containers/{container}/files", form, FORM),
                (f"POST /v1/containers/{container}/paths/a.csv", "", b"a,b"),
                ("POST /v1/import", "", b""),
                (f"PUT /tickets/{ticket['secret']}", "", b"a,b"),
                ("POST /mcp", mcp, b'{"jsonrpc"'),
            ]
            for line, more, begun in requests:
                head = f"{line} HTTP/1.1{more}\r\nAuthorization: Bearer {served.token}"
                top, body = await stop_halfway(served.url, head, begun)
                assert top.startswith(b"HTTP/1.1 408 "), (line, top)
                assert b"connection: close" in top.lower(), line
                assert b"0.2 seconds" in body, line
            files = (await http.get("/files")).json()["data"]
            paths = (await http.get(f"/containers/{container}/paths")).json()["data"]

    assert (files, paths) == ([], [])
    assert "Traceback" not in served.log.text


@pytest.mark.parametrize("chunks", [[b""], [b"a"], [b"a"] * 20])
async def test_a_body_that_moves_may_take_its_time(chunks: Sequence[bytes]) -> None:
    async def echo(request: Request) -> PlainTextResponse:
        received = b""
        async for chunk in request.stream():
            received += chunk
            await anyio.sleep(0.02)  # the reader may be slow too
        return PlainTextResponse(received)

    sent: list[Message] = []
    left = list(chunks)

    async def receive() -> Message:
        await anyio.sleep(0.02)
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    async def send(message: Message) -> None:
        sent.append(message)

    app = BodyTimeLimit(Starlette(routes=[Route("/", echo, methods=["POST"])]), seconds=0.2)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    await app(scope, receive, send)

    assert sent[0]["status"] == 200
    assert sent[1]["body"] == b"".join(chunks)


async def test_waiting_for_a_client_to_leave_takes_no_time(tmp_path: Path) -> None:
    left = anyio.Event()
    received: list[Message] = []

    async def app(scope: object, receive: object, send: object) -> None:
        assert callable(receive)
        received.append(await receive())
        received.append(await receive())

    async def receive() -> Message:
        if not received:
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    limited = BodyTimeLimit(app, seconds=0.01)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(limited, {"type": "http", "path": "/"}, receive, send)
            await anyio.sleep(0.05)
            left.set()

    assert [message["type"] for message in received] == ["http.request", "http.disconnect"]
