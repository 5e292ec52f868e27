"""A stdio server that is the other end of a /mcp over HTTP.

How this works: messages are pumped between the mcp package's stdio server transport and its HTTP
client transport, unread but for what HTTP wants to see in headers (protocol version, method, name).
Below that, a `ServiceTransport` puts in the address and the token, and outlives the service: when
`ci-tools serve` has been started again, it goes to the new address, and opens a new MCP session
(2025-11-25 and earlier) where the service does not know the old one. A service that is away
answers as a JSON-RPC error to the one request, instead of ending the server of the host.

The host is one conversation, so calls that name no session share one, as on stdio: every request
carries a key of this process in `ci-tools-default-session`.
"""

import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import httpx2
from mcp.client.streamable_http import MCP_SESSION_ID, streamable_http_client
from mcp.server.stdio import stdio_server
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
)
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp.types import (
    INTERNAL_ERROR,
    PROTOCOL_VERSION_META_KEY,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from ci_tools_mcp import DEFAULT_SESSION_HEADER

logger = logging.getLogger(__name__)

_TIMEOUT = httpx2.Timeout(10.0, read=300.0)
"""Seconds; the service sends a sign of life on silent answers every 15."""


_REFUSALS = {
    401: "The ci-tools service refused the token: check CI_TOOLS_TOKEN (`ci-tools token create`).",
    403: "The ci-tools service refused the origin of this request.",
    413: "The message is larger than the ci-tools service takes: use a ticket for large files.",
    421: "The ci-tools service has another address: set CI_TOOLS_PUBLIC_URL where it runs.",
}
"""What HTTP answers that hold no JSON-RPC mean."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A service: the address of its /mcp, and a bearer token (empty for none)."""

    url: str
    token: str


async def bridge(
    find_target: Callable[[], Target | None], *, default_session: bool, proxy: str | None = None
) -> None:
    """Serve MCP on stdin and stdout from the service that `find_target` finds, until stdin ends."""
    transport = ServiceTransport(
        find_target,
        default_session=default_session,
        inner=httpx2.AsyncHTTPTransport(proxy=proxy),
    )
    async with (
        httpx2.AsyncClient(transport=transport, timeout=_TIMEOUT) as client,
        stdio_server() as (from_host, to_host),
        # The transport replaces the address; results with images are larger than the 1 MiB default.
        streamable_http_client(
            "http://service/mcp", http_client=client, max_sse_event_size=None
        ) as (from_service, to_service),
        anyio.create_task_group() as tasks,
    ):
        headers = MessageHeaders()

        async def pump_answers() -> None:
            async for message in from_service:
                if isinstance(message, Exception):
                    logger.warning("a message of the service could not be read")
                    continue
                headers.note_answer(message.message)
                await to_host.send(message)

        tasks.start_soon(pump_answers)
        async for message in from_host:
            if isinstance(message, Exception):
                logger.warning("a message of the host could not be read")
                continue
            metadata = ClientMessageMetadata(headers=headers.of(message.message))
            await to_service.send(SessionMessage(message.message, metadata))
        await to_host.aclose()  # the task that writes to the host ends only with this
        tasks.cancel_scope.cancel()


class MessageHeaders:
    """The headers that streamable HTTP wants beside each message.

    https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http
    """

    def __init__(self) -> None:
        self._initialize_id: str | int | None = None
        self._version: str | None = None

    def of(self, message: JSONRPCMessage) -> dict[str, str]:
        """Return the headers for a message of the host."""
        if not isinstance(message, JSONRPCRequest | JSONRPCNotification):
            return self._negotiated()
        if isinstance(message, JSONRPCRequest) and message.method == "initialize":
            self._initialize_id, self._version = message.id, None
            return {}
        params = message.params or {}
        meta = params.get("_meta")
        version = meta.get(PROTOCOL_VERSION_META_KEY) if isinstance(meta, dict) else None
        if not isinstance(version, str):
            return self._negotiated()
        headers = {MCP_PROTOCOL_VERSION_HEADER: version, MCP_METHOD_HEADER: message.method}
        name = params.get(NAME_BEARING_METHODS.get(message.method, ""))
        if isinstance(name, str):
            headers[MCP_NAME_HEADER] = encode_header_value(name)
        return headers

    def note_answer(self, message: JSONRPCMessage) -> None:
        """Take the negotiated version from the answer to `initialize`."""
        if isinstance(message, JSONRPCResponse) and message.id == self._initialize_id:
            version = message.result.get("protocolVersion")
            self._version = version if isinstance(version, str) else None

    def _negotiated(self) -> dict[str, str]:
        return {MCP_PROTOCOL_VERSION_HEADER: self._version} if self._version is not None else {}


class ServiceTransport(httpx2.AsyncBaseTransport):
    """Send requests to wherever the service is now, and stay in its MCP session."""

    def __init__(
        self,
        find_target: Callable[[], Target | None],
        *,
        default_session: bool,
        inner: httpx2.AsyncBaseTransport,
    ) -> None:
        self._find_target = find_target
        self._target: Target | None = None
        self._inner = inner
        self._default_session = secrets.token_urlsafe(24) if default_session else None
        self._initialize: bytes | None = None
        self._session_id: str | None = None
        self._renewing = anyio.Lock()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer `request` from the service, or with a JSON-RPC error that says what is wrong."""
        body, used = await request.aread(), self._session_id
        try:
            response = await self._send_to_running(request, body)
            if _lacks_session(request, response) and await self._renew_session(request, used):
                await response.aclose()
                response = await self._send(request, body)
        except httpx2.TransportError as error:
            return self._away(error)
        if response.status_code in _REFUSALS:
            await response.aclose()
            return _to_error(response.status_code, _REFUSALS[response.status_code])
        if _method(body) == "initialize":
            self._initialize = body
            self._session_id = response.headers.get(MCP_SESSION_ID)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    async def _send_to_running(self, request: httpx2.Request, body: bytes) -> httpx2.Response:
        """Send; once more if the service refuses us and is found to run elsewhere by now."""
        before = self._target
        try:
            response = await self._send(request, body)
            if response.status_code != 401 or not await self._has_moved(before):
                return response
            await response.aclose()
        except httpx2.ConnectError:
            # Nothing has been sent, so nothing can happen twice.
            if not await self._has_moved(before):
                raise
        return await self._send(request, body)

    async def _has_moved(self, before: Target | None) -> bool:
        self._target = await anyio.to_thread.run_sync(self._find_target) or self._target
        return self._target != before

    async def _send(
        self, request: httpx2.Request, body: bytes, *, session_id: str | None = None
    ) -> httpx2.Response:
        if self._target is None:
            raise httpx2.ConnectError("no service")
        headers = httpx2.Headers(request.headers)
        headers.pop("host", None)
        headers.pop("content-length", None)
        if self._target.token:
            headers["authorization"] = f"Bearer {self._target.token}"
        if self._default_session is not None:
            headers[DEFAULT_SESSION_HEADER] = self._default_session
        if MCP_SESSION_ID in headers:
            headers[MCP_SESSION_ID] = session_id or self._session_id or headers[MCP_SESSION_ID]
        return await self._inner.handle_async_request(
            httpx2.Request(
                request.method,
                self._target.url,
                headers=headers,
                content=body,
                extensions=request.extensions,
            )
        )

    async def _renew_session(self, request: httpx2.Request, lost: str | None) -> bool:
        """See to it that there is another MCP session than `lost`; False if that cannot be."""
        async with self._renewing:
            return self._session_id != lost or await self._repeat_initialize(request)

    async def _repeat_initialize(self, request: httpx2.Request) -> bool:
        if self._initialize is None:
            return False
        headers = httpx2.Headers(request.headers)
        del headers[MCP_SESSION_ID]
        hello = httpx2.Request("POST", request.url, headers=headers, extensions=request.extensions)
        response = await self._send(hello, self._initialize)
        await response.aread()
        session_id = response.headers.get(MCP_SESSION_ID)
        if response.status_code != 200 or session_id is None:
            return False
        hello.headers[MCP_SESSION_ID] = session_id
        ready = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
        await (await self._send(hello, ready, session_id=session_id)).aread()
        logger.info("the service was started again: opened a new MCP session")
        self._session_id = session_id
        return True

    def _away(self, error: httpx2.TransportError) -> httpx2.Response:
        logger.warning("the service cannot be reached: %s", type(error).__name__)
        where = "that this server had joined" if self._target is None else f"at {self._target.url}"
        return _to_error(
            503,
            f"The ci-tools service {where} cannot be reached ({type(error).__name__}). "
            "Start `ci-tools serve` again, or restart this MCP server; sessions and files stay.",
        )


def _lacks_session(request: httpx2.Request, response: httpx2.Response) -> bool:
    """Whether the service does not know the MCP session, as after its restart."""
    return (
        response.status_code == 404
        and request.method == "POST"
        and MCP_SESSION_ID in request.headers
    )


def _to_error(status: int, message: str) -> httpx2.Response:
    """Return an HTTP answer that the mcp package hands to the host as a JSON-RPC error."""
    error = {"code": INTERNAL_ERROR, "message": message}
    return httpx2.Response(status, json={"jsonrpc": "2.0", "id": None, "error": error})


def _method(body: bytes) -> str | None:
    try:
        message = json.loads(body)
    except ValueError:
        return None
    method = message.get("method") if isinstance(message, dict) else None
    return method if isinstance(method, str) else None
