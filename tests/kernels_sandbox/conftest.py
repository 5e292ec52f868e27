"""Fixtures for the tests of sandboxed kernels."""

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.kernels_sandbox.rig import NEIGHBOURS, Session, open_session, write_kernelspecs


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # jupyter_client knows no other


@pytest.fixture(scope="session")
def kernelspecs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the kernelspecs `sandbox`, `small` and `stock`."""
    if sys.platform != "linux":
        pytest.skip("sandboxed kernels need Linux")
    folder = tmp_path_factory.mktemp("kernelspecs") / "kernels"
    return write_kernelspecs(folder)


@pytest.fixture
async def session(kernelspecs: Path, tmp_path: Path) -> AsyncIterator[Session]:
    """A sandboxed kernel."""
    async with open_session(kernelspecs, tmp_path / "mine") as session:
        yield session


@pytest.fixture
async def small(kernelspecs: Path, tmp_path: Path) -> AsyncIterator[Session]:
    """A sandboxed kernel with small limits."""
    async with open_session(kernelspecs, tmp_path / "mine", name="small") as session:
        yield session


@pytest.fixture
async def neighbours(kernelspecs: Path, tmp_path: Path) -> AsyncIterator[list[Session]]:
    """Four sessions, each with a variable and a file."""
    async with contextlib.AsyncExitStack() as stack:
        sessions = []
        for number in range(NEIGHBOURS):
            folder = tmp_path / f"n{number}"
            session = await stack.enter_async_context(open_session(kernelspecs, folder))
            await session.run(f"x = {number}\nopen('kept', 'w').write('{number}')")
            sessions.append(session)
        yield sessions
