from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp import Client

from ci_tools import SessionService, Settings, open_service
from ci_tools.testing import FakeBackend
from tests.adapters.mcp.servers import make_server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", interrupt_grace=1)


@pytest.fixture
async def service(settings: Settings, tmp_path: Path) -> AsyncIterator[SessionService]:
    backend = FakeBackend(tmp_path / "folders")
    async with open_service(settings, backend=backend) as service:
        yield service


@pytest.fixture
async def small_service(settings: Settings, tmp_path: Path) -> AsyncIterator[SessionService]:
    """A service that keeps only 1000 bytes of text in a step."""
    small = settings.model_copy(update={"text_limit": 1000})
    backend = FakeBackend(tmp_path / "small")
    async with open_service(small, backend=backend) as service:
        yield service


@pytest.fixture
async def client(service: SessionService) -> AsyncIterator[Client]:
    """A client of a server as on stdio: calls without a session id share one."""
    async with Client(make_server(service)) as client:
        yield client


@pytest.fixture
async def http_client(service: SessionService) -> AsyncIterator[Client]:
    """A client of a server as behind HTTP: no default session, tickets for large files."""
    server = make_server(service, default_session=False, public_url="https://ci.example/")
    async with Client(server) as client:
        yield client
