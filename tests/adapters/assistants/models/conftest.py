"""A scripted server for all tests of a module; each test gives it its own script."""

from collections.abc import Iterator

import pytest

from tests.adapters.assistants.scripted.server import ScriptedServer, scripted_server


@pytest.fixture(scope="session")
def _shared_server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def server(_shared_server: ScriptedServer) -> ScriptedServer:
    """A server with an empty script."""
    _shared_server.follow([])
    return _shared_server
