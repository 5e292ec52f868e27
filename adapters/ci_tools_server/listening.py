"""The socket of `ci-tools serve`, which is there before everything behind it.

Importing what answers takes some two seconds. Until then the system takes connections, and what
they ask is answered as soon as the service is open.
"""

import logging
import socket

from ci_tools import ConfigurationError, Settings
from ci_tools_server.logs import configure_logs
from ci_tools_server.origin import is_loopback

logger = logging.getLogger(__name__)

_BACKLOG = 512
"""Connections that wait to be accepted."""


def listen(settings: Settings) -> socket.socket:
    """Open the socket, and tell at once that there is something to wait for.

    Raises:
        ConfigurationError: The address cannot be listened on, or must not be without auth.
    """
    check_exposure(settings)
    configure_logs(settings.log_level)
    listener = _open(settings)
    logger.info("starting on %s", to_base_url(settings, port=listener.getsockname()[1]))
    return listener


def check_exposure(settings: Settings) -> None:
    """Refuse to let everybody on the network run code here."""
    if settings.auth == "none" and not is_loopback(settings.host):
        raise ConfigurationError(
            f"With auth 'none' anybody who reaches {settings.host} could run code on this machine: "
            "listen on 127.0.0.1, or keep auth 'token' (the default) and make tokens with "
            "`ci-tools token create --principal NAME`."
        )
    if settings.auth == "none" and "*" in settings.cors_origins:
        raise ConfigurationError(
            "With auth 'none' and cors_origins '*' every web page could run code on this machine: "
            "name the origins, or keep auth 'token' (the default)."
        )


def to_base_url(settings: Settings, *, port: int | None = None) -> str:
    """Return the address of the service without a slash at the end; `port` is the real one."""
    if settings.public_url is not None:
        return str(settings.public_url).rstrip("/")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port if port is None else port}"


def _open(settings: Settings) -> socket.socket:
    try:
        listener = socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
            backlog=_BACKLOG,
        )
        # asyncio sets this only on sockets whose protocol number is given; accepted ones inherit
        # it. Without it every streamed answer waits 40 ms for a delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {settings.host} port {settings.port}: {error.strerror or error}. "
            "Choose another with --host and --port (0 takes a free port)."
        ) from error
