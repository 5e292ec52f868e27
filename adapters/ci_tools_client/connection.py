"""The HTTP connection to a session service: requests, its errors, and streams of events."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import httpx2

from ci_tools.errors import (
    BackendError,
    CIToolsError,
    InvalidArgumentError,
    LimitError,
    ServerDeniedError,
    ServerUnavailableError,
)
from ci_tools.wire import Item, error_from_item
from ci_tools_client.addresses import check_token, to_base

CONNECT_TIMEOUT = 10.0
"""Seconds to reach the service."""

QUIET_TIMEOUT = 60.0
"""Seconds without a byte after which a connection is taken for dead; streams are never so quiet."""

_IDLE = 4.0
"""Seconds that an unused connection is kept, which is less than servers do."""

_ERROR_LIMIT = 1 << 20
"""Bytes of an error that are read."""

Content: TypeAlias = bytes | AsyncIterable[bytes]


class ConnectionLostError(ServerUnavailableError):
    """The connection ended after a request was begun: nobody here knows what became of it."""


class Connection:
    """One service at one address; paths are below it."""

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url

    async def get(
        self, path: str, params: Mapping[str, str] | None = None, *, quiet: float = QUIET_TIMEOUT
    ) -> Any:
        """Return the JSON at a path; asked for again if the connection is lost.

        `quiet` is the time in seconds that the service may take to answer.
        """
        for attempt in (1, 2, 3):
            try:
                return await self._json("GET", path, params=params, quiet=quiet)
            except ConnectionLostError:
                if attempt == 3:
                    raise
        raise AssertionError("The last attempt returns or raises.")

    async def post(self, path: str, body: Item, *, quiet: float | None = QUIET_TIMEOUT) -> Any:
        """Send JSON and return the answer.

        Raises:
            ConnectionLostError: The service may or may not have done it.
        """
        return await self._json(
            "POST",
            path,
            content=_to_content(body),
            headers={"Content-Type": "application/json"},
            quiet=quiet,
        )

    async def delete(self, path: str) -> None:
        """Delete what is at a path."""
        await self._json("DELETE", path)

    async def send(
        self, path: str, content: Content, *, params: Mapping[str, str] | None = None
    ) -> Any:
        """Send bytes and return the answer."""
        return await self._json(
            "POST",
            path,
            params=params,
            content=content,
            headers={"Content-Type": "application/octet-stream"},
            quiet=None,
        )

    async def _json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: Content | None = None,
        headers: Mapping[str, str] | None = None,
        quiet: float | None = QUIET_TIMEOUT,
    ) -> Any:
        try:
            response = await self._client.request(
                method,
                self._url + path,
                params=params,
                content=content,
                headers=headers,
                timeout=_to_timeout(quiet),
            )
        except httpx2.HTTPError as error:
            raise self._lost(error) from error
        if not response.is_success:
            raise self._to_error(response.status_code, response.content)
        return _parse(response.content)

    @asynccontextmanager
    async def open_bytes(
        self, path: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream what is at a path, or `length` bytes of it from `offset`."""
        headers = {"Accept-Encoding": "identity"}
        if offset or length is not None:
            # A range has a first byte at least; that one is dropped again where none is wanted.
            last = "" if length is None else offset + max(length, 1) - 1
            headers["Range"] = f"bytes={offset}-{last}"
        async with self._stream("GET", path, headers=headers, quiet=QUIET_TIMEOUT) as response:
            if response.status_code == 416 or length == 0:
                yield _nothing()
            else:
                yield self._chunks(response)

    @asynccontextmanager
    async def open_events(
        self, path: str, body: Item | None = None
    ) -> AsyncIterator[AsyncIterator[Item]]:
        """Iterate over the events of a stream, which is asked for with GET, or POST with a body.

        Iterating raises ConnectionLostError if the stream breaks, and the service's own errors.
        """
        headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        content = None if body is None else _to_content(body)
        async with self._stream(
            "GET" if body is None else "POST",
            path,
            headers=headers,
            content=content,
            quiet=QUIET_TIMEOUT,
        ) as response:
            yield self._events(response)

    @asynccontextmanager
    async def _stream(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        quiet: float,
        content: bytes | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        request = self._client.build_request(
            method,
            self._url + path,
            headers=headers,
            content=content,
            timeout=_to_timeout(quiet),
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx2.HTTPError as error:
            raise self._lost(error) from error
        try:
            if not response.is_success and response.status_code != 416:
                raise self._to_error(response.status_code, await self._read(response))
            yield response
        finally:
            await response.aclose()

    async def _chunks(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        except httpx2.HTTPError as error:
            raise self._lost(error) from error

    async def _read(self, response: httpx2.Response) -> bytes:
        content = b""
        async for chunk in self._chunks(response):
            content += chunk
            if len(content) > _ERROR_LIMIT:
                break
        return content

    async def _events(self, response: httpx2.Response) -> AsyncIterator[Item]:
        rest = b""
        async for chunk in self._chunks(response):
            *frames, rest = (rest + chunk).split(b"\n\n")
            for frame in frames:
                for line in frame.split(b"\n"):
                    if line.startswith(b"data: "):
                        item = _parse(line[6:])
                        if frame.startswith(b"event: error\n"):
                            raise self._to_error(500, line[6:])
                        yield item

    def _lost(self, error: httpx2.HTTPError) -> CIToolsError:
        """Return our error for one of the connection."""
        reason = f"{type(error).__name__} {error}".strip()
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return ServerUnavailableError(
                f"The session service at {self._url} cannot be reached ({reason}). "
                "Is `ci-tools serve` running there?"
            )
        return ConnectionLostError(
            f"The connection to the session service at {self._url} was lost ({reason})."
        )

    def _to_error(self, status: int, content: bytes) -> CIToolsError:
        """Return the error that an answer holds."""
        try:
            error = _parse(content)["error"]
            message = str(error["message"])
        except (BackendError, KeyError, TypeError):
            text = f"{self._url} answered with status {status}, and not as a session service."
            # That of a proxy: the service behind it may come back.
            return (ServerUnavailableError if status in (502, 503, 504) else BackendError)(text)
        if "details" in error:
            return error_from_item(error)
        text = f"The session service at {self._url} says: {message}"
        match status:
            case 400 | 422:
                return InvalidArgumentError(message)
            case 401 | 403:
                return ServerDeniedError(text)
            case 429:
                return LimitError(message)
            case 502 | 503 | 504:
                return ServerUnavailableError(text)
            case _:
                return BackendError(text)


def _to_content(body: Item) -> bytes:
    try:
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
    except ValueError as error:
        raise InvalidArgumentError("A number that is asked for must be finite.") from error


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise BackendError("The session service sent something that is not JSON.") from error


def _to_timeout(quiet: float | None) -> httpx2.Timeout:
    return httpx2.Timeout(quiet, connect=CONNECT_TIMEOUT, pool=None)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


@asynccontextmanager
async def open_connection(url: str, token: str | None) -> AsyncIterator[Connection]:
    """Open a connection to the service at a URL, with or without `/v1` at its end.

    Raises:
        ConfigurationError: The address or the token cannot be one.
    """
    base = to_base(url)
    headers = {"User-Agent": "ci-tools-client"}
    if token is not None:
        headers["Authorization"] = f"Bearer {check_token(token)}"
    async with httpx2.AsyncClient(
        headers=headers,
        # As many as are asked for: each running step and each stream holds one.
        limits=httpx2.Limits(
            max_connections=None, max_keepalive_connections=20, keepalive_expiry=_IDLE
        ),
    ) as client:
        yield Connection(client, base)
