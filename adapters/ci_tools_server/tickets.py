"""Large files over HTTP: `PUT` and `GET /tickets/{secret}`, streamed both ways.

A ticket is made for one file and one direction (see the MCP tools) and is its own authority, so
these routes ask for no token. A download can be resumed with a Range of one part (RFC 9110, 14);
files are always attachments: nothing that code wrote is shown as a page of this site.
"""

import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Literal
from urllib.parse import quote

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ci_tools import CIToolsError, File, FileTooLargeError, LimitError, SessionService
from ci_tools_server.metrics import Metrics

logger = logging.getLogger(__name__)

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

_STATUS = {
    "not_found": 404,
    "invalid_path": 400,
    "invalid_argument": 400,
    "limit_exceeded": 429,
    "file_too_large": 413,
    "service_closed": 503,
    "server_unavailable": 503,
    "backend_error": 502,
    "server_denied": 502,
    "kernel_start_failed": 502,
    "kernel_lost": 502,
    "kernel_died": 502,
}


def to_response(error: CIToolsError) -> Response:
    """Return the HTTP answer that says what happened."""
    headers = {}
    if isinstance(error, LimitError) and error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    body = {"error": {"code": error.code, "message": str(error)}}
    return JSONResponse(body, _STATUS.get(error.code, 500), headers)


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


class TicketRoutes:
    """The handlers of /tickets; `find_service` gives the open service."""

    def __init__(self, find_service: Callable[[], SessionService], metrics: Metrics) -> None:
        self._find_service = find_service
        self._metrics = metrics

    @property
    def routes(self) -> list[Route]:
        """What to mount."""
        return [
            Route("/tickets/{secret}", self.upload, methods=["PUT"]),
            # Starlette adds HEAD to GET.
            Route("/tickets/{secret}", self.download, methods=["GET"]),
        ]

    async def upload(self, request: Request) -> Response:
        """Store the request's body as the ticket's file."""
        service = self._find_service()
        try:
            limit = service.settings.file_limit
            declared = request.headers.get("content-length", "")
            if declared.isdigit() and int(declared) > limit:
                raise FileTooLargeError("upload", limit)  # the ticket stays good for a smaller one
            ticket = await service.redeem_ticket(request.path_params["secret"], "upload")
            owner = service.act_as(ticket.principal)
            file = await owner.upload_file(ticket.session_id, ticket.path, request.stream())
        except CIToolsError as error:
            return to_response(error)
        except ClientDisconnect:
            logger.info("an upload was left by its sender")
            return Response(status_code=400)
        self._metrics.count_ticket_bytes("upload", file.size)
        return JSONResponse(_to_json(file), 201)

    async def download(self, request: Request) -> Response:
        """Answer with the ticket's file, or the part of it that is asked for."""
        service = self._find_service()
        try:
            ticket = await service.redeem_ticket(request.path_params["secret"], "download")
            owner = service.act_as(ticket.principal)
            file = await owner.stat_file(ticket.session_id, ticket.path, digest=False)
        except CIToolsError as error:
            return to_response(error)
        headers = _headers(file)
        span = None
        if request.headers.get("if-range") in (None, headers["ETag"]):
            try:
                span = to_span(request.headers.get("range"), file.size)
            except ValueError:
                return Response(
                    status_code=416, headers=headers | {"Content-Range": f"bytes */{file.size}"}
                )
        return _Download(owner, ticket.session_id, file, headers, span, self._metrics)


class _Download(Response):
    def __init__(
        self,
        service: SessionService,
        session_id: str,
        file: File,
        headers: dict[str, str],
        span: tuple[int, int] | None,
        metrics: Metrics,
    ) -> None:
        first, length = span if span is not None else (0, file.size)
        headers = headers | {"Content-Length": str(length)}
        status: Literal[200, 206] = 200
        if span is not None:
            status = 206
            headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{file.size}"
        super().__init__(None, status, headers)
        self._service, self._session_id, self._file = service, session_id, file
        self._first, self._length, self._metrics = first, length, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD" or self._length == 0:
            await super().__call__(scope, receive, send)
            return
        try:
            async with self._service.open_file(
                self._session_id, self._file.path, offset=self._first, length=self._length
            ) as chunks:
                await self._stream(chunks, receive, send)
        except CIToolsError as error:
            await to_response(error)(scope, receive, send)

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
                self._metrics.count_ticket_bytes("download", len(chunk))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            tasks.cancel_scope.cancel()


def _headers(file: File) -> dict[str, str]:
    name = file.path.rsplit("/", 1)[-1]
    return {
        "Content-Type": file.media_type,
        # The plain name is for curl and other programs that do not know RFC 8187.
        "Content-Disposition": (
            f"attachment; filename=\"{_plain(name)}\"; filename*=UTF-8''{quote(name, safe='')}"
        ),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-store",
        "Accept-Ranges": "bytes",
        # Not the hash: it would take reading the whole file, also for HEAD and for a small range.
        "ETag": f'"{file.size:x}-{file.modified_at:.6f}"',
    }


def _plain(name: str) -> str:
    """Return a file name that needs no escapes inside quotes."""
    return re.sub(r"[^ !#-$&-.0-\[\]-~]", "_", name)


def _to_json(file: File) -> dict[str, str | int | None]:
    return {
        "path": file.path,
        "size": file.size,
        "sha256": file.sha256,
        "media_type": file.media_type,
    }
