"""Bodies straight from a socket, from a server that answers whatever a test wants."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from ci_tools_jupyter.download import open_body
from ci_tools_jupyter.server import ServerAddress

BODY = bytes(range(256)) * 8000


@asynccontextmanager
async def _answering(*parts: bytes) -> AsyncIterator[tuple[ServerAddress, list[bytes]]]:
    """Run a server that sends `parts` to each request and hangs up; yields what it was sent."""
    requests: list[bytes] = []

    async def answer(stream: SocketStream) -> None:
        async with stream:
            requests.append(await stream.receive())
            for part in parts:
                try:
                    await stream.send(part)
                except anyio.BrokenResourceError:
                    return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    url = f"http://127.0.0.1:{port}/base/"
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        yield ServerAddress(name="A server", url=url, token="secret"), requests
        tasks.cancel_scope.cancel()


def _head(status: int, *fields: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status} Whatever", *fields, "", "")).encode()


async def test_body_comes_whole_whatever_the_packets() -> None:
    head = _head(206, f"Content-Length: {len(BODY)}")
    async with _answering(head[:7], head[7:] + BODY[:9], BODY[9:]) as (address, requests):
        with anyio.fail_after(10):
            async with open_body(address, "files/a%20b", {"Range": "bytes=0-"}) as body:
                assert body is not None
                received = b"".join([chunk async for chunk in body.chunks])

    assert (body.status, received) == (206, BODY)
    assert requests[0].startswith(b"GET /base/files/a%20b HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: token secret\r\n" in requests[0]
    assert b"\r\nRange: bytes=0-\r\n" in requests[0]


async def test_body_that_ends_too_early_is_an_error() -> None:
    async with _answering(_head(200, "Content-Length: 100"), b"x" * 99) as (address, _):
        async with open_body(address, "files/a", {}) as body:
            assert body is not None
            with pytest.raises(OSError), anyio.fail_after(10):
                async for _chunk in body.chunks:
                    pass


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_head(404, "Content-Length: 0"), id="missing"),
        pytest.param(_head(302, "Location: /login", "Content-Length: 0"), id="redirect"),
        pytest.param(_head(200, "Transfer-Encoding: chunked"), id="chunked"),
        pytest.param(_head(200, "Content-Length: 3", "Content-Encoding: gzip"), id="packed"),
        pytest.param(_head(200), id="no length"),
        pytest.param(b"SSH-2.0-x\r\n\r\n", id="no HTTP"),
        pytest.param(b"x" * 200_000, id="endless head"),
        pytest.param(b"", id="nothing"),
    ],
)
async def test_answer_of_another_kind_is_left_to_the_http_client(answer: bytes) -> None:
    async with _answering(answer) as (address, _):
        with anyio.fail_after(10):
            async with open_body(address, "files/a", {}) as body:
                assert body is None


async def test_encrypted_and_unreachable_servers_are_left_to_the_http_client() -> None:
    async with _answering() as (address, _):
        port = address.url.split(":")[2]
    for url in (f"https://127.0.0.1:{port}", f"http://127.0.0.1:{port}"):
        async with open_body(ServerAddress(name="x", url=url, token=""), "files/a", {}) as body:
            assert body is None
