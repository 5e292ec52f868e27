from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ci_tools import SessionService, Settings, open_service
from tests.kernels.rig import ServerProcess, jupyter_server, kernel_gateway


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A stock Jupyter Server with its usual limits."""
    with jupyter_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A stock Kernel Gateway, which has no API for files."""
    with kernel_gateway(tmp_path_factory.mktemp("gateway")) as server:
        yield server


@pytest.fixture(scope="module")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SessionService]:
    """The service on its own embedded server."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("state"), interrupt_grace=20)
    async with open_service(settings) as service:
        yield service


def remote_settings(server: ServerProcess, state: Path, **more: object) -> Settings:
    """Return settings that make a server the profile `default`."""
    profile = server.to_profile()
    return Settings.model_validate(
        {
            "state_dir": state,
            "jupyter_url": profile.url,
            "jupyter_token": profile.token,
            "lease_time": 1,
            **more,
        }
    )
