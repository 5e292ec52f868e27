"""No input makes an error of the server: requests that schemathesis makes from the specifications,
and from our own document for what is only ours.

Some name objects that exist, so that they come further than to a 404.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from ci_tools_assistants.http.openapi import to_document
from ci_tools_assistants.operations import all_operations
from tests.adapters.assistants.clients.serving import KEY, Served, served_api
from tests.adapters.assistants.contract.specification import METHODS, Operation, load
from tests.adapters.assistants.contract.world import World

EXAMPLES = {"v1": 2, "v2": 4, "ours": 4}
"""Requests of each kind for each operation."""

REQUEST_LIMIT = 20
"""Seconds that an answer may take."""

ACTS = ("/run_steps", "/commands")
"""Ends of the paths whose bodies are code: none that was made up may run on this machine."""


def find_our_operations(document: dict[str, Any]) -> list[Operation]:
    """Return the operations that neither version of the specification has."""
    published = {
        (one.method, _without_names(one.path))
        for version in ("v1", "v2")
        for one in load(version).operations
    }
    return [
        Operation(version="ours", method=method, path=path, id=path, answer=None)
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
        and (method, _without_names(path)) not in published
        and path != "/import"  # schemathesis knows no JSON Lines
    ]


def _without_names(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


OURS = to_document(all_operations())

OPERATIONS = [*load("v1").operations, *load("v2").operations, *find_our_operations(OURS)]

DOCUMENTS = {"v1": load("v1").document, "v2": load("v2").document, "ours": OURS}

KNOWN = frozenset(
    {
        *("assistant_id", "thread_id", "message_id", "run_id", "step_id", "file_id", "model"),
        *("upload_id", "container_id", "path"),
    }
)
"""Parameters of paths for which there are real values."""

SCHEMAS = {
    version: schemathesis.openapi.from_dict(copy.deepcopy(document))
    for version, document in DOCUMENTS.items()
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
    container = world.post("/containers", {"name": "Mine"})["id"]
    step = world.post(f"/containers/{container}/run_steps", {"code": "1 + 1"})
    file = world.upload_to(container)
    found["ours"] = {
        "container_id": container,
        "step_id": step["id"],
        "path": "a.txt",
        "file_id": file["id"],
    }
    world.close()
    yield found


def names_in(operation: Operation) -> list[str]:
    """Return the parameters in the operation's path."""
    return [part.strip("{}") for part in operation.path.split("/") if part.startswith("{")]


def can_be_tried(operation: Operation) -> bool:
    """Tell whether made up requests may go to objects that are there."""
    names = names_in(operation)
    is_act = operation.method == "post" and operation.path.endswith(ACTS)
    return bool(names) and set(names) <= KNOWN and operation.method != "delete" and not is_act


def send_examples(
    served: Served, operation: Operation, mode: GenerationMode, ids: dict[str, str] | None = None
) -> None:
    """Send made up requests; `ids` are the parameters of the path, else these are made up too."""
    served.watch.problems.clear()
    version = "v1" if operation.version == "v1" else "v2"
    headers = {"Authorization": f"Bearer {KEY}", "OpenAI-Beta": f"assistants={version}"}
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
            # What comes in a later release says so with 501.
            assert response.status_code < 500 or response.status_code == 501, response.content

        send()

    assert "\n".join(served.watch.problems) == ""


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_wanted_input_makes_no_error_of_the_server(served: Served, operation: Operation) -> None:
    send_examples(served, operation, GenerationMode.POSITIVE)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_unwanted_input_makes_no_error_of_the_server(served: Served, operation: Operation) -> None:
    send_examples(served, operation, GenerationMode.NEGATIVE)


@pytest.mark.parametrize(
    "operation",
    [one for one in OPERATIONS if can_be_tried(one)],
    ids=lambda operation: operation.name,
)
def test_input_to_real_objects_makes_no_error_of_the_server(
    served: Served, real_ids: dict[str, dict[str, str]], operation: Operation
) -> None:
    known = real_ids[operation.version]
    ids = {name: known[name] for name in names_in(operation)}

    send_examples(served, operation, GenerationMode.POSITIVE, ids)
