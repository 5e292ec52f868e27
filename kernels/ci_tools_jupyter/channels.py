"""WebSocket connections to a kernel's channels.

How this works: a stock Jupyter Server sends each message of a kernel as its own small packet and
leaves Nagle's algorithm on, so the second waits until the first is acknowledged, and the client's
system delays acknowledgements by 40 ms. On Linux each packet is acknowledged at once by asking for
it (TCP_QUICKACK, which the system forgets again). Elsewhere, and where a proxy stands between and
the stall is beyond our socket, small frames of ours carry the acknowledgements: see `pings.py`.
"""

import socket
import sys
from asyncio import BaseTransport
from typing import Any
from urllib.parse import quote, urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from ci_tools.errors import (
    KernelLostError,
    ServerDeniedError,
    ServerUnavailableError,
)
from ci_tools_jupyter.server import JupyterServer, ServerAddress
from ci_tools_jupyter.wire import SUBPROTOCOL

KEEPALIVE = 10.0
"""Seconds between pings that prove a silent connection."""

KEEPALIVE_TIMEOUT = 20.0
"""Seconds without an answer to a ping after which a connection is given up."""

CLOSE_TIMEOUT = 1.0
"""Seconds to say goodbye."""

_QUICKACK = getattr(socket, "TCP_QUICKACK", None) if sys.platform == "linux" else None


class Channels(ClientConnection):
    """A connection to a kernel's channels that acknowledges every packet at once."""

    _tcp: Any = None
    """The socket, where acknowledgements can be asked for."""

    over_tcp = False
    """Whether acknowledgements matter at all: on a unix socket there are none."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Look at what kind of connection it is."""
        super().connection_made(transport)
        found = transport.get_extra_info("socket")
        self.over_tcp = found is not None and found.family in (socket.AF_INET, socket.AF_INET6)
        if self.over_tcp and _QUICKACK is not None:
            self._tcp = found

    @property
    def acknowledges(self) -> bool:
        """Whether packets are acknowledged at once by the system."""
        return self._tcp is not None or not self.over_tcp

    def data_received(self, data: bytes) -> None:
        """Acknowledge, then go on as usual."""
        if self._tcp is not None:
            try:
                self._tcp.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            except OSError:
                self._tcp = None
        super().data_received(data)


class _Connect(connect):
    """Opens a connection without following redirects, which would carry the token elsewhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def open_channels(
    server: JupyterServer, kernel_id: str, channel_id: str, *, timeout: float
) -> Channels:
    """Connect to a kernel's channels; with the same `channel_id` again, what was missed comes.

    Raises:
        KernelLostError: The server knows no such kernel.
        ServerUnavailableError: The server cannot be reached.
        ServerDeniedError: The server refused the token.
    """
    address = server.address
    options: dict[str, Any] = {}
    if address.socket_path is not None:
        options = {"unix": True, "path": address.socket_path}
    try:
        channels = await _Connect(
            _channels_url(address, kernel_id, channel_id),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            additional_headers=address.headers,
            user_agent_header="ci-tools",
            open_timeout=timeout,
            ping_interval=KEEPALIVE,
            ping_timeout=KEEPALIVE_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            max_size=None,
            max_queue=None,
            create_connection=Channels,
            proxy=None if address.is_local else True,
            **options,
        )
    except InvalidStatus as exc:
        raise _to_error(address, kernel_id, exc) from exc
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as exc:
        raise server.to_unavailable(exc) from exc
    assert isinstance(channels, Channels)
    return channels


def _channels_url(address: ServerAddress, kernel_id: str, channel_id: str) -> str:
    scheme, _, rest = address.url.partition(":")
    query = urlencode({"session_id": channel_id})
    path = f"api/kernels/{quote(kernel_id, safe='')}/channels?{query}"
    return f"{'wss' if scheme == 'https' else 'ws'}:{rest}{path}"


def _to_error(
    address: ServerAddress, kernel_id: str, exc: InvalidStatus
) -> KernelLostError | ServerDeniedError | ServerUnavailableError:
    status = exc.response.status_code
    if status == 404:
        return KernelLostError(f"{address.name} knows no kernel {kernel_id}.")
    if status in (401, 403):
        return ServerDeniedError(
            f"{address.name} refused the token (HTTP {status}). Check the token in the settings."
        )
    return ServerUnavailableError(f"{address.name} is not running (HTTP {status}).")
