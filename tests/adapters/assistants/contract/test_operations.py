"""Every operation of the specifications is used, and every answer compared with its schema."""

from collections.abc import Iterator

import pytest

from tests.adapters.assistants.clients.serving import Served, served_api
from tests.adapters.assistants.contract.operations import REFUSED, USES
from tests.adapters.assistants.contract.specification import Operation, load
from tests.adapters.assistants.contract.world import World

VERSIONS = ("v1", "v2", "containers")

OPERATIONS = [operation for version in VERSIONS for operation in load(version).operations]
"""All of them but those of vector stores."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_api(tmp_path_factory.mktemp("contract")) as served:
        yield served


@pytest.fixture(scope="module")
def worlds(served: Served) -> Iterator[dict[str, World]]:
    worlds = {version: World(served, version) for version in VERSIONS}
    yield worlds
    for world in worlds.values():
        world.close()


def test_the_specifications_have_as_many_operations_as_published() -> None:
    assert [len(load(version).operations) for version in VERSIONS] == [36, 35, 9]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_operation_answers_as_specified(worlds: dict[str, World], operation: Operation) -> None:
    world = worlds[operation.version]
    world.served.watch.problems.clear()

    USES[operation.id](world)

    assert "\n".join(world.served.watch.problems) == ""
    assert operation.name in world.served.watch.seen or operation.id in REFUSED
