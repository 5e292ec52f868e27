"""`ci-tools serve`: the HTTP app under uvicorn, on one socket, until a signal."""

import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import anyio
import uvicorn

from ci_tools import CIToolsError, SessionService, Settings, open_service
from ci_tools_server.app import create_app
from ci_tools_server.listening import to_base_url
from ci_tools_server.run_file import RunFile, new_secret, remove_run_file, write_run_file
from ci_tools_server.traces import Traces, open_traces

logger = logging.getLogger(__name__)

_STOP_GRACE = 5
"""Seconds that open requests have to end when the service is stopped."""

_KEEP_ALIVE = 65
"""Seconds that a quiet connection is kept: longer than clients keep theirs (httpx 5 s, many proxies
60 s), or they would now and then send a request into one that is being closed."""


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve on an open socket until SIGTERM or SIGINT."""
    stop = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.take)
    with open_traces() as traces:
        anyio.run(_serve_on, listener, settings, traces, stop)


class _Stop:
    """A signal that comes before uvicorn listens for it.

    uvicorn also raises it again when it has stopped: by then there is nothing left to do.
    """

    def __init__(self) -> None:
        self._is_wanted = False
        self._server: uvicorn.Server | None = None

    def take(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self._is_wanted = True
        self._tell()

    def watch(self, server: uvicorn.Server) -> None:
        """Have a server stopped by such a signal, also one that has come already."""
        self._server = server
        self._tell()

    def _tell(self) -> None:
        if self._is_wanted and self._server is not None:
            self._server.should_exit = True


async def _serve_on(
    listener: socket.socket, settings: Settings, traces: Traces, stop: _Stop
) -> None:
    port: int = listener.getsockname()[1]
    run = RunFile(url=_local_url(settings, port), pid=os.getpid(), secret=new_secret())
    # Opened here and not by the app's lifespan, whose errors uvicorn would log with a traceback.
    async with open_service(settings) as service:
        if settings.auth == "token":
            await _make_first_token(service)

        @asynccontextmanager
        async def opened() -> AsyncIterator[SessionService]:
            yield service

        app = create_app(
            settings,
            open_service=opened,
            base_url=to_base_url(settings, port=port),
            run_secret=run.secret,
            traces=traces,
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # it would show the secrets of tickets
            lifespan="on",
            server_header=False,
            http="h11",  # httptools leaves white space around header values, against RFC 9110
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_STOP_GRACE,
        )
        server = _Server(config, settings, run)
        stop.watch(server)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_warm_up, service, server.listening)
            await server.serve(sockets=[listener])
            tasks.cancel_scope.cancel()


async def _warm_up(service: SessionService, listening: anyio.Event) -> None:
    """Start what kernels need before somebody asks for it, but not before clients are answered.

    It may have to build the kernels' environment first, for which the first code would wait.
    """
    await listening.wait()
    try:
        await service.warm_up()
    except CIToolsError as error:
        logger.warning("code cannot run: %s", error)
    except Exception:  # the outermost handler of this task: all else works
        logger.exception("code may not run")


async def _make_first_token(service: SessionService) -> None:
    if await service.list_tokens():
        return
    _, secret = await service.create_token()
    # Not a log line: logs are kept, and this must not be.
    sys.stderr.write(
        f"Token of the principal 'local', shown only now: {secret}\n"
        "Send it to MCP at /mcp as `Authorization: Bearer …`, and to the Assistants API at /v1 as "
        "the API key; more by `ci-tools token create --principal NAME`.\n"
    )
    sys.stderr.flush()


class _Server(uvicorn.Server):
    """uvicorn's server, which announces itself to this user's other processes."""

    def __init__(self, config: uvicorn.Config, settings: Settings, run: RunFile) -> None:
        super().__init__(config)
        self._settings = settings
        self._run = run
        self.listening = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        if not write_run_file(self._settings.state_dir, self._run):
            logger.warning(
                "another `ci-tools serve` of %s is running: `ci-tools mcp` joins that one",
                self._settings.state_dir,
            )
        logger.info("listening on %s", to_base_url(self._settings, port=_port(self._run)))
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        remove_run_file(self._settings.state_dir, self._run)
        logger.info("stopping")
        await super().shutdown(sockets)


def _local_url(settings: Settings, port: int) -> str:
    # Where this machine's processes reach the service: a wildcard address is no address to call.
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host and "[" not in host else f"http://{host}:{port}"


def _port(run: RunFile) -> int:
    return int(run.url.rsplit(":", 1)[1])
