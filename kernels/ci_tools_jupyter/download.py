"""Large bodies straight from a server's socket.

How this works: the HTTP client reads 64 KB at a time and takes four times the processor time of
what is done here: the head of the answer is parsed, and what follows is handed on as it comes. A
thread reads a round of pieces, because a server that is slower than this process would make the
event loop wait for each. Only the simple case is handled: no encryption, no proxy, a body of known
length. In all others nothing is yielded, and the caller asks the HTTP client.
"""

import contextlib
import io
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPException, parse_headers
from urllib.parse import urlsplit
from urllib.request import getproxies

from anyio import to_thread

from ci_tools_jupyter.server import ServerAddress

BLOCK = 1 << 18
"""Bytes of one read; larger ones need new memory each time, which takes longer than the read."""

ROUND = 1 << 20
"""Bytes that a thread reads before it hands them over; the server goes on meanwhile."""

HEAD_LIMIT = 1 << 16
"""Bytes that the head of an answer may have."""

CONNECT_TIMEOUT = 5.0
"""Seconds to reach a server and send it the request."""

READ_TIMEOUT = 30.0
"""Seconds that a server may be silent."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a server sends; `chunks` raises `OSError` if it ends too early."""

    status: int
    chunks: AsyncIterator[bytes]


@asynccontextmanager
async def open_body(
    address: ServerAddress, path: str, headers: Mapping[str, str]
) -> AsyncIterator[Body | None]:
    """Send a GET request and yield the answer's body; None if this is nothing to be done here."""
    if not address.url.startswith("http:") or not (address.is_local or not getproxies()):
        yield None
        return
    request = _to_request(address, path, headers)
    try:
        connection = await to_thread.run_sync(_connect, address, request)
    except OSError:
        yield None
        return
    with connection:
        try:
            body = await _read_head(connection)
        except (OSError, ValueError, IndexError, HTTPException):
            body = None
        yield body


def _to_request(address: ServerAddress, path: str, headers: Mapping[str, str]) -> bytes:
    parts = urlsplit(address.url)
    lines = {
        "Host": parts.netloc.rpartition("@")[2],
        "Connection": "close",
        "User-Agent": "ci-tools",
        **address.headers,
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET {parts.path}{path} HTTP/1.1\r\n{head}\r\n".encode("latin-1")


def _connect(address: ServerAddress, request: bytes) -> socket.socket:
    parts = urlsplit(address.url)
    connection = socket.create_connection((parts.hostname, parts.port or 80), CONNECT_TIMEOUT)
    try:
        connection.sendall(request)
        connection.settimeout(READ_TIMEOUT)
    except BaseException:
        connection.close()
        raise
    return connection


async def _read_head(connection: socket.socket) -> Body | None:
    data = b""
    while b"\r\n\r\n" not in data:
        pieces = await _receive(connection, least=1, most=BLOCK)
        if not pieces or len(data) > HEAD_LIMIT:
            return None
        data += b"".join(pieces)
    head, _, rest = data.partition(b"\r\n\r\n")
    status_line, _, fields = head.partition(b"\r\n")
    status = int(status_line.split(b" ")[1])
    headers = parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
    encoded = headers.get("Transfer-Encoding") or headers.get("Content-Encoding")
    if status not in (200, 206) or encoded is not None:
        return None
    return Body(
        status=status, chunks=_read(connection, rest, int(headers.get("Content-Length", "")))
    )


async def _read(connection: socket.socket, rest: bytes, length: int) -> AsyncIterator[bytes]:
    if first := rest[:length]:
        length -= len(first)
        yield first
    while length > 0:
        size = min(ROUND, length)
        pieces = await _receive(connection, least=size, most=size)
        if not pieces:
            raise ConnectionResetError("the answer ended too early")
        for piece in pieces:
            length -= len(piece)
            yield piece


async def _receive(connection: socket.socket, *, least: int, most: int) -> list[bytes]:
    """Return `least` to `most` bytes in pieces, fewer where the answer ends."""

    def receive() -> list[bytes]:
        pieces, count = [], 0
        while count < least and (piece := connection.recv(min(BLOCK, most - count))):
            pieces.append(piece)
            count += len(piece)
        return pieces

    try:
        return await to_thread.run_sync(receive, abandon_on_cancel=True)
    except BaseException:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # so that an abandoned thread ends
        raise
