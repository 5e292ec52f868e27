from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ci_tools import SessionService, Settings, open_service
from ci_tools.testing import FakeBackend


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", interrupt_grace=1, lease_time=1)


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[FakeBackend]:
    """A backend whose kernels survive the service, as those of a remote server do."""
    backend = FakeBackend(tmp_path / "folders", persistent=True)
    yield backend
    await backend.aclose()


@pytest.fixture
async def service(settings: Settings, backend: FakeBackend) -> AsyncIterator[SessionService]:
    async with open_service(settings, backend=backend) as service:
        yield service
