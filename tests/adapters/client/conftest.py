import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest
import uvicorn
from starlette.types import ASGIApp

from ci_tools import SessionService, Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_assistants.app import AssistantsApp
from ci_tools_client import RemoteService, open_client

Either: TypeAlias = SessionService | RemoteService
"""A session service, here or over HTTP."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path / "state", interrupt_grace=1, lease_time=1, file_limit=1_000_000
    )


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[FakeBackend]:
    backend = FakeBackend(tmp_path / "folders", persistent=True)
    yield backend
    await backend.aclose()


@pytest.fixture
async def local(settings: Settings, backend: FakeBackend) -> AsyncIterator[SessionService]:
    async with open_service(settings, backend=backend) as service:
        yield service


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[str]:
    """Serve on a free port of a real socket; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            http="h11",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(server.serve, sockets=[listener]))
            while not server.started:
                await anyio.sleep(0.01)
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True


@asynccontextmanager
async def serve_api(service: SessionService, settings: Settings) -> AsyncIterator[str]:
    """Serve the HTTP face of a service; it asks for a token."""
    app = AssistantsApp(service.find_principal)
    async with app.open(service, settings), serve(app) as url:
        yield url


@pytest.fixture
async def url(local: SessionService, settings: Settings) -> AsyncIterator[str]:
    async with serve_api(local, settings) as url:
        yield url


@pytest.fixture
async def remote(local: SessionService, url: str) -> AsyncIterator[RemoteService]:
    """A client of `local`, as the same principal."""
    _, token = await local.create_token()
    async with open_client(url, token) as client:
        yield client


@pytest.fixture(params=["local", "remote"])
def service(request: pytest.FixtureRequest) -> Either:
    """The service, here and over HTTP: both must do the same."""
    found: Either = request.getfixturevalue(request.param)
    return found
