from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ci_tools.testing import FakeBackend
from ci_tools_jupyter import JupyterBackend
from ci_tools_jupyter.sandbox import EmbeddedKernels
from tests.kernels.rig import Place, ServerProcess, jupyter_server, kernel_gateway

PLACES = ("fake", "embedded", "unsandboxed", "remote", "gateway")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def stock_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A stock Jupyter Server with its usual limits."""
    with jupyter_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A stock Kernel Gateway."""
    with kernel_gateway(tmp_path_factory.mktemp("gateway")) as server:
        yield server


@pytest.fixture(scope="session")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[JupyterBackend]:
    """A backend with only the embedded server."""
    backend = JupyterBackend(state_dir=tmp_path_factory.mktemp("state"))
    async with backend.open():
        yield backend


@pytest.fixture(scope="session", params=PLACES)
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    """Each kind of place where kernels run."""
    name: str = request.param
    state: Path = tmp_path_factory.mktemp(name)
    if name == "fake":
        fake = FakeBackend(state)
        async with fake.open():
            yield Place(name=name, backend=fake, server="embedded")
        return
    fixture = {"remote": "stock_server", "gateway": "gateway"}.get(name)
    remotes = {name: request.getfixturevalue(fixture).to_profile()} if fixture else {}
    kernels = EmbeddedKernels(isolation="none") if name == "unsandboxed" else None
    backend = JupyterBackend(state_dir=state, remotes=remotes, kernels=kernels)
    async with backend.open():
        yield Place(name=name, backend=backend, server=name if fixture else "embedded")
