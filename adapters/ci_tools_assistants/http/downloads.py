"""Files as answers: streamed, named, and in parts where a part is asked for.

Files are always attachments: nothing that a user or code wrote is shown as a page of this site.
Names are written as RFC 6266 has it; a download can be resumed with a Range of one part
(RFC 9110, 14).
"""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from urllib.parse import quote

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ci_tools import CIToolsError
from ci_tools_assistants.errors import to_api_error

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class OpenBytes(Protocol):
    """Streams `length` bytes of a file from `offset`."""

    def __call__(
        self, *, offset: int, length: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open the stream."""


def to_download(
    request: Request,
    open_bytes: OpenBytes,
    *,
    name: str,
    size: int,
    media_type: str,
    version: str,
) -> Response:
    """Return the answer to a request for a file, or for the part of it that is asked for.

    `version` changes when the bytes do; a part of another version is not continued.
    """
    headers = {
        "Content-Type": media_type,
        "Content-Disposition": disposition(name),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-store",
        "Accept-Ranges": "bytes",
        "ETag": f'"{version}"',
    }
    first, length, status = 0, size, 200
    if request.headers.get("if-range") in (None, headers["ETag"]):
        try:
            span = to_span(request.headers.get("range"), size)
        except ValueError:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
        if span is not None:
            (first, length), status = span, 206
            headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{size}"
    headers["Content-Length"] = str(length)
    return _Download(open_bytes, first, length, status, headers)


def to_span(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte and the number of bytes that a Range header asks for.

    None means the whole file: there is no header, or it is one that may be ignored.

    Raises:
        ValueError: No byte of the file is in the range.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise ValueError("an empty range")
        return size - length, length
    end = min(int(last), size - 1) if last else size - 1
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise ValueError("a range behind the end")
    return int(first), end - int(first) + 1


def disposition(name: str) -> str:
    """Return the header that names an attachment.

    The plain name is for programs that do not know the extended one (RFC 8187).
    """
    plain = re.sub(r"[^ !#-$&-.0-\[\]-~]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


class _Download(Response):
    def __init__(
        self,
        open_bytes: OpenBytes,
        first: int,
        length: int,
        status: int,
        headers: dict[str, str],
    ) -> None:
        super().__init__(None, status, headers)
        self._open_bytes, self._first, self._length = open_bytes, first, length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD" or self._length == 0:
            await super().__call__(scope, receive, send)
            return
        try:
            async with self._open_bytes(offset=self._first, length=self._length) as chunks:
                await self._stream(chunks, receive, send)
        except CIToolsError as error:
            refusal = to_api_error(error)
            await JSONResponse(refusal.to_object(), refusal.status)(scope, receive, send)

    async def _stream(self, chunks: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        async with anyio.create_task_group() as tasks:

            async def stop_when_left() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop_when_left)
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            tasks.cancel_scope.cancel()
