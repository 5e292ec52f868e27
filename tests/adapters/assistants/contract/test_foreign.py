"""Every operation treats what another principal has like what nobody has."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from ci_tools_assistants.http.openapi import to_document
from ci_tools_assistants.operations import all_operations
from tests.adapters.assistants.clients.serving import Served, make_keys, served_api
from tests.adapters.assistants.contract.specification import METHODS
from tests.adapters.assistants.contract.world import World

PATHS = [
    (method, path)
    for path, item in to_document(all_operations())["paths"].items()
    for method in METHODS
    if method in item and "_id}" in path
]
"""Everything that names an object in its path, ours included."""

PREFIXES = {
    "assistant_id": "asst_",
    "thread_id": "thread_",
    "message_id": "msg_",
    "run_id": "run_",
    "step_id": "step_",
    "file_id": "file-",
    "upload_id": "upload_",
    "container_id": "sess_",
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("foreign")
    names = ("alice", "bob")
    tokens = dict(zip(names, make_keys(folder, *names), strict=True))
    with served_api(folder, auth="token") as served:
        yield served, tokens


@pytest.fixture(scope="module")
def bob(keys: tuple[Served, dict[str, str]]) -> Iterator[World]:
    served, tokens = keys
    world = World(served, "v2", key=tokens["bob"])
    yield world
    world.close()


@pytest.fixture(scope="module")
def ids(keys: tuple[Served, dict[str, str]]) -> dict[str, str]:
    """What Alice has."""
    served, tokens = keys
    world = World(served, "v2", key=tokens["alice"])
    upload = {"filename": "a.txt", "purpose": "assistants", "mime_type": "text/plain", "bytes": 9}
    found = {
        "assistant_id": world.assistant["id"],
        "thread_id": world.thread["id"],
        "message_id": world.message["id"],
        "run_id": world.run["id"],
        "step_id": world.step["id"],
        "file_id": world.file["id"],
        "upload_id": world.post("/uploads", upload)["id"],
        "container_id": world.post("/containers", {"name": "Mine"})["id"],
    }
    world.close()
    return found


BODIES: dict[str, dict[str, Any]] = {
    "post /threads/{thread_id}/messages": {"json": {"role": "user", "content": "x"}},
    "post /uploads/{upload_id}/parts": {"files": {"data": ("part", b"x")}},
    "post /uploads/{upload_id}/complete": {"json": {"part_ids": []}},
    "post /containers/{container_id}/files": {"files": {"file": ("a.txt", b"x")}},
    "post /containers/{container_id}/run_steps": {"json": {"code": "1"}},
    "post /containers/{container_id}/commands": {"json": {"command": "true"}},
    "post /containers/{container_id}/paths/{path}": {"content": b"x"},
    "post /containers/{container_id}/identify": {"json": {"path": "a.txt"}},
    "post /containers/{container_id}/keep": {"json": {"path": "a.txt"}},
}
"""What requests have beside their paths, where an empty object is not enough."""


def ask(world: World, method: str, path: str, values: dict[str, str]) -> httpx2.Response:
    """Send a request with these values in its path."""
    url = re.sub(r"\{(\w+)\}", lambda name: values.get(name[1], "a.txt"), path)
    more = dict(BODIES.get(f"{method} {path}", {"json": {}} if method == "post" else {}))
    if path.endswith("/runs"):
        more["json"] = {"assistant_id": world.assistant["id"]}
    if path == "/assistants/{assistant_id}/files":
        more = {"json": {"file_id": world.file["id"]}} if method == "post" else {}
    if path.endswith("/submit_tool_outputs"):
        more["json"] = {"tool_outputs": [{"tool_call_id": "call_1", "output": "x"}]}
    return world.http.request(method, url, **more)


@pytest.mark.parametrize(("method", "path"), PATHS, ids=lambda value: str(value))
def test_what_another_principal_has_is_unknown(
    bob: World, ids: dict[str, str], method: str, path: str
) -> None:
    unknown = {name: f"{prefix}none" for name, prefix in PREFIXES.items()}

    foreign = ask(bob, method, path, ids)
    missing = ask(bob, method, path, unknown)

    text = foreign.text
    for name, id in ids.items():
        text = text.replace(id, unknown[name])
    assert (foreign.status_code, text) == (missing.status_code, missing.text)
    assert foreign.status_code in (400, 404), foreign.text


def test_lists_show_nothing_of_another_principal(bob: World, ids: dict[str, str]) -> None:
    bob.new_assistant()

    lists = [bob.http.get(path).text for path in ("/threads", "/files", "/assistants", "/export")]
    lists.append(bob.http.get("/containers").text)

    assert [id for id in ids.values() if id in "".join(lists)] == []
