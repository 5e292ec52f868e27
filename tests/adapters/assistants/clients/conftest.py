from collections.abc import Iterator

import pytest

from tests.adapters.assistants.clients.printed import answer
from tests.adapters.assistants.clients.serving import Served, served_api
from tests.adapters.assistants.clients.walk import holding
from tests.adapters.assistants.scripted.script import Gate


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app with the fake backend; the assistant of the printed samples answers."""
    gate = Gate()
    with served_api(tmp_path_factory.mktemp("clients"), holding(gate, answer)) as served:
        yield served
        gate.open()


@pytest.fixture
def checked(served: Served) -> Iterator[Served]:
    """The app; a test fails if an answer to it was not as specified."""
    served.watch.problems.clear()
    yield served
    assert "\n".join(served.watch.problems) == ""
