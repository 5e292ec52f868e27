"""The cheapest HTTP client there is, so that a measurement is of the server and not of a client."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import SocketStream

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"

BLOCK = 1 << 16
"""Bytes that are read at once."""


class Wire:
    """One connection that is kept open; it understands what the measured servers send."""

    def __init__(self, socket: SocketStream, host: str, token: str) -> None:
        self._socket = socket
        self._fixed = f"Host: {host}\r\nAuthorization: Bearer {token}\r\n"

    def to_request(self, method: str, path: str, body: Any = None) -> bytes:
        """Return the bytes of a request, to be sent as often as wanted."""
        content = b"" if body is None else json.dumps(body).encode()
        kind = "Content-Type: application/json\r\n" if content else ""
        length = f"Content-Length: {len(content)}\r\n" if method != "GET" else ""
        return f"{method} {path} HTTP/1.1\r\n{self._fixed}{kind}{length}\r\n".encode() + content

    async def send(self, request: bytes) -> bytes:
        """Send a request and return the body of its answer, which must be a success."""
        await self._socket.send(request)
        data = b""
        while _HEAD_END not in data:
            data += await self._socket.receive(BLOCK)
        head, _, body = data.partition(_HEAD_END)
        assert head.startswith(b"HTTP/1.1 200"), data
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(body) < length:
            body += await self._socket.receive(BLOCK)
        return body

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the JSON of its answer."""
        return json.loads(await self.send(self.to_request(method, path, body)))

    async def stream(self, request: bytes) -> AsyncIterator[bytes]:
        """Send a request and yield the blocks of its chunked answer as they come, head and all."""
        await self._socket.send(request)
        tail = b""
        while not tail.endswith(_LAST_CHUNK):
            block = await self._socket.receive(BLOCK)
            tail = (tail + block)[-len(_LAST_CHUNK) :]
            yield block


@asynccontextmanager
async def open_wire(port: int, token: str = "none") -> AsyncIterator[Wire]:
    """Connect to a server on loopback."""
    async with await anyio.connect_tcp("127.0.0.1", port) as socket:
        yield Wire(socket, f"127.0.0.1:{port}", token)
