"""No input makes an error of the server: requests that schemathesis makes from the specifications.

Half of them name objects that exist, so that they come further than to a 404.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.adapters.assistants.clients.serving import KEY, Served, served_api
from tests.adapters.assistants.contract.specification import Operation, load
from tests.adapters.assistants.contract.world import World

EXAMPLES = {"v1": 3, "v2": 5, "containers": 5}
"""Requests of each kind for each operation."""

REQUEST_LIMIT = 20
"""Seconds that an answer may take."""

OPERATIONS = [operation for version in EXAMPLES for operation in load(version).operations]

SCHEMAS = {
    version: schemathesis.openapi.from_dict(copy.deepcopy(load(version).document))
    for version in EXAMPLES
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_api(tmp_path_factory.mktemp("robustness")) as served:
        yield served


@pytest.fixture(scope="module")
def real_ids(served: Served) -> Iterator[dict[str, dict[str, str]]]:
    """What the parameters of paths may be, by version."""
    found = {}
    for version in ("v1", "v2"):
        world = World(served, version)
        run = world.run
        message = world.get(f"/threads/{run['thread_id']}/messages", order="asc")["data"][0]
        found[version] = {
            "assistant_id": world.assistant["id"],
            "thread_id": run["thread_id"],
            "message_id": message["id"],
            "run_id": run["id"],
            "step_id": world.step["id"],
            "file_id": world.file["id"],
            "model": "gpt-4o",
        }
        world.close()
    world = World(served, "v2")
    upload = {"filename": "a.txt", "purpose": "assistants", "mime_type": "text/plain", "bytes": 9}
    found["v2"]["upload_id"] = world.post("/uploads", upload)["id"]
    found["containers"] = {"container_id": world.post("/containers", {"name": "Mine"})["id"]}
    world.close()
    yield found


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("kind", ["wanted", "unwanted", "on real objects"])
def test_no_input_makes_an_error_of_the_server(
    served: Served, real_ids: dict[str, dict[str, str]], operation: Operation, kind: str
) -> None:
    ids = parameters(operation, real_ids[operation.version]) if kind == "on real objects" else None
    if kind == "on real objects" and (ids is None or operation.method == "delete"):
        return
    served.watch.problems.clear()
    mode = GenerationMode.NEGATIVE if kind == "unwanted" else GenerationMode.POSITIVE
    headers = {"Authorization": f"Bearer {KEY}"}
    if operation.version != "containers":
        headers["OpenAI-Beta"] = f"assistants={operation.version}"
    target = SCHEMAS[operation.version][operation.path][operation.method]

    with requests.Session() as session:

        @settings(
            max_examples=EXAMPLES[operation.version],
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=target.as_strategy(mode, path_parameters=ids))
        def send(case: Any) -> None:
            response = case.call(
                base_url=served.url, session=session, headers=headers, timeout=REQUEST_LIMIT
            )
            assert response.status_code < 500, response.content

        send()

    assert "\n".join(served.watch.problems) == ""


def parameters(operation: Operation, ids: dict[str, str]) -> dict[str, str] | None:
    """Return the parameters of the operation's path, or None if there are none to be had."""
    names = [part.strip("{}") for part in operation.path.split("/") if part.startswith("{")]
    if not names or not set(names) <= set(ids):
        return None
    return {name: ids[name] for name in names}
