"""`ci-tools mcp`: MCP on stdin and stdout, joined to a running service or with one of its own.

A desktop host waits for the first answer, so imports are counted here: what only one of the two
ways needs is imported when it is taken, and the command line is not read by typer.
"""

import argparse
import importlib
import logging
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from ci_tools import ConfigurationError, Settings, open_service
from ci_tools_server.host import watch_host
from ci_tools_server.logs import configure_logs
from ci_tools_server.origin import is_loopback
from ci_tools_server.run_file import find_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ci_tools import SessionService
    from ci_tools_server.bridge import Target

logger = logging.getLogger(__name__)


def run_command(arguments: Sequence[str], *, token: str) -> None:
    """Run `ci-tools mcp` with its command-line arguments; `token` is for `--server`."""
    options = _parser().parse_args(arguments)
    settings = Settings()
    configure_logs(settings.log_level)
    find_target = (
        _fixed_target(options.server, token)
        if options.server is not None
        else _running_target(settings)
    )
    with watch_host(), _quiet_end():
        if find_target is None:
            _serve_alone(settings, default_session=options.default_session)
        else:
            from ci_tools_server.bridge import bridge

            anyio.run(
                partial(
                    bridge,
                    find_target,
                    default_session=options.default_session,
                    proxy=find_proxy(options.server),
                )
            )


@contextmanager
def _quiet_end() -> "Iterator[None]":
    """Take it as the end that nobody reads what is written: the host has died."""
    try:
        yield
    except* (BrokenPipeError, ConnectionResetError):
        logger.info("the host is gone: stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ci-tools mcp",
        description="Serve the Model Context Protocol on stdin and stdout. Joins a running "
        "`ci-tools serve` of the same state directory; otherwise runs code by itself.",
    )
    parser.add_argument(
        "--server",
        metavar="URL",
        help="join the service at this address (its token in CI_TOOLS_TOKEN)",
    )
    parser.add_argument(
        "--no-default-session",
        dest="default_session",
        action="store_false",
        help="calls that name no session get a new one each, instead of sharing one",
    )
    return parser


def _serve_alone(settings: Settings, *, default_session: bool) -> None:
    from ci_tools_mcp import create_server

    @asynccontextmanager
    async def open_responsively() -> "AsyncIterator[SessionService]":
        # In a thread: 0.3 s of imports would hold up the host's next requests.
        await anyio.to_thread.run_sync(_import_stores)
        async with open_service(settings) as service:
            yield service

    create_server(open_responsively, default_session=default_session).run("stdio")


def _import_stores() -> None:
    for name in ("ci_tools.stores.records", "ci_tools.stores.blobs", "ci_tools_jupyter"):
        with suppress(ImportError):  # `open_service` says better what is missing
            importlib.import_module(name)


def _running_target(settings: Settings) -> "Callable[[], Target | None] | None":
    if find_run(settings.state_dir) is None:
        return None
    from ci_tools_server.bridge import Target

    def find_target() -> Target | None:
        run = find_run(settings.state_dir)
        return None if run is None else Target(url=f"{run.url}/mcp", token=run.secret)

    return find_target


def find_proxy(server: str | None) -> str | None:
    """Return the proxy that the environment names for an address; none for this machine."""
    address = urlsplit(server or "")
    if not address.hostname or is_loopback(address.hostname):
        return None
    import urllib.request

    if urllib.request.proxy_bypass(address.hostname):
        return None
    return urllib.request.getproxies().get(address.scheme)


def _fixed_target(server: str, token: str) -> "Callable[[], Target | None]":
    from ci_tools_server.bridge import Target

    address = urlsplit(server)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigurationError(
            f"--server {server!r} is no address: give one like https://ci.example.org"
        )
    if token and address.scheme == "http" and not is_loopback(address.hostname):
        logger.warning("the token is sent unencrypted: use https://")
    url = server.rstrip("/").removesuffix("/mcp") + "/mcp"
    target = Target(url=url, token=token)
    return lambda: target
