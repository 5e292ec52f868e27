"""Sessions over plain HTTP; all that they can do is tested in `tests/adapters/client`."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from openai import AsyncOpenAI, NotFoundError

from ci_tools import Session, Settings, open_service
from ci_tools.models import new_id
from ci_tools.testing import FakeBackend
from ci_tools_assistants import containers
from ci_tools_assistants.app import AssistantsApp
from ci_tools_assistants.containers.shapes import to_container
from tests.adapters.assistants.api import ApiClient, open_client
from tests.adapters.client.conftest import serve_api

SLOW = "import time\nprint('started', flush=True)\ntime.sleep(60)"


async def new_container(client: ApiClient, **body: Any) -> str:
    return str((await client.make("/containers", {"name": "Mine", **body}))["id"])


def frames(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and data of a stream's events."""
    found = []
    for frame in text.split("\n\n"):
        lines = [line for line in frame.split("\n") if line and not line.startswith(":")]
        if lines:
            name, data = lines
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_every_operation_is_documented_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs" / "containers.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([A-Z]+ /\S+)` \|", page, re.MULTILINE)
    real = [
        f"{operation.method} {operation.path.replace(':path}', '}')}"
        for operation in containers.operations()
    ]

    assert sorted(documented) == sorted(real)


@pytest.mark.parametrize(
    ("isolation", "memory", "shown"),
    [
        ("namespaces", 1 << 30, "1g"),
        ("namespaces", 5 << 30, "4g"),
        ("namespaces", 64 << 30, "64g"),
        ("namespaces", 1 << 29, None),
        ("none", 4 << 30, None),
        ("remote", 4 << 30, None),
    ],
)
def test_a_sandboxed_container_shows_its_memory(
    isolation: str, memory: int, shown: str | None
) -> None:
    session = Session(
        id="sess_a",
        principal="ada",
        name=None,
        server="embedded",
        kernelspec="",
        isolation=isolation,
        created_at=0,
        last_used_at=0,
    )

    container = to_container(session, Settings(kernel_memory=memory))

    assert container.get("memory_limit") == shown


async def test_the_official_client_uses_containers(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    async with open_service(settings, backend=FakeBackend(tmp_path / "kernels")) as service:
        _, key = await service.create_token()
        kept = await service.uploads.add("kept.csv", b"1,2")
        async with (
            serve_api(service, settings) as url,
            AsyncOpenAI(
                base_url=f"{url}/v1", api_key=key, _strict_response_validation=True
            ) as openai,
        ):
            container = await openai.containers.create(
                name="Mine", file_ids=[kept.id or ""], memory_limit="1g"
            )
            other = await openai.containers.create(name="Other")
            file = await openai.containers.files.create(container.id, file=("a.txt", b"hello"))
            staged = await openai.containers.files.create(other.id, file_id=kept.id or "")
            await service.run_code(container.id, "open('made.txt', 'w').write('by code')")
            files = [item async for item in openai.containers.files.list(container.id, limit=1)]
            made = next(item for item in files if item.path == "/mnt/data/made.txt")
            content = await openai.containers.files.content.retrieve(
                made.id, container_id=container.id
            )
            listed = [item async for item in openai.containers.list(limit=1, order="asc")]
            found = await openai.containers.retrieve(container.id)
            await openai.containers.files.delete(file.id, container_id=container.id)
            with pytest.raises(NotFoundError):
                await openai.containers.files.retrieve(file.id, container_id=container.id)
            await openai.containers.delete(other.id)
            with pytest.raises(NotFoundError):
                await openai.containers.retrieve(other.id)

    assert container.id.startswith("sess_") and container.status == "running"
    assert (file.path, file.bytes, file.source) == ("/mnt/data/a.txt", 5, "user")
    assert (staged.id, staged.path) == (kept.id, "/mnt/data/kept.csv")
    assert {item.path: item.source for item in files} == {
        "/mnt/data/a.txt": "user",
        "/mnt/data/kept.csv": "user",
        "/mnt/data/made.txt": "assistant",
    }
    assert content.content == b"by code"
    assert [item.id for item in listed] == [container.id, other.id]
    assert found.name == "Mine"


async def test_a_file_has_one_id_on_every_face(client: ApiClient) -> None:
    file_id = await client.upload("a.csv", b"1,2\n")
    container = await new_container(client, file_ids=[file_id])

    retrieved = await client.fetch(f"/containers/{container}/files/{file_id}")
    content = await client.get(f"/containers/{container}/files/{file_id}/content")

    assert (retrieved["id"], retrieved["path"]) == (file_id, "/mnt/data/a.csv")
    assert content.content == b"1,2\n"


async def test_a_container_that_cannot_have_its_files_is_not_left_behind(
    client: ApiClient,
) -> None:
    status, error = await client.refused(
        "POST", "/containers", json={"name": "Mine", "file_ids": ["file-gone"]}
    )

    assert (status, error["code"]) == (404, "not_found")
    assert error["details"] == {"kind": "file", "id": "file-gone"}
    assert (await client.fetch("/containers"))["data"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "a", "skills": [{"type": "skill_reference", "skill_id": "s"}]}, "skills"),
        ({"name": "a", "memory_limit": "64g"}, "memory_limit"),
        ({"name": "a", "memory_limit": "3g"}, "memory_limit"),
        (
            {
                "name": "a",
                "network_policy": {"type": "allowlist", "allowed_domains": ["example.org"]},
            },
            "network_policy.allowed_domains",
        ),
        ({"name": "a", "expires_after": {"anchor": "never", "minutes": 1}}, "expires_after.anchor"),
        ({"name": 1}, "name"),
        ({"nme": "a"}, "nme"),
    ],
)
async def test_what_a_container_cannot_have_is_refused(
    client: ApiClient, body: dict[str, Any], param: str
) -> None:
    status, error = await client.refused("POST", "/containers", json=body)

    assert (status, error["param"]) == (400, param)


async def test_an_allowed_network_is_shown_with_the_container(tmp_path: Path) -> None:
    hosts = ("pypi.org", "*.example.org")
    async with open_client(
        tmp_path, kernel_network_most="allowlist", kernel_network_hosts=hosts, isolation="auto"
    ) as client:
        policy = {"type": "allowlist", "allowed_domains": ["pypi.org"]}
        status = await client.post("/containers", json={"name": "a", "network_policy": policy})

    # The fake backend has no sandbox, and says that it cannot hold code to a list.
    assert status.status_code == 400
    assert "sandbox" in status.json()["error"]["message"]


async def test_containers_are_listed_by_name_and_page(client: ApiClient) -> None:
    ids = [await new_container(client, name=name) for name in ("a", "b", "a")]

    newest = await client.fetch("/containers?limit=2")
    rest = await client.fetch(f"/containers?limit=2&after={newest['last_id']}")
    named = await client.fetch("/containers?name=a&order=asc")

    assert [item["id"] for item in newest["data"]] == [ids[2], ids[1]]
    assert (newest["has_more"], rest["has_more"]) == (True, False)
    assert [item["id"] for item in rest["data"]] == [ids[0]]
    assert [item["id"] for item in named["data"]] == [ids[0], ids[2]]
    status, _ = await client.refused("GET", "/containers?after=sess_gone")
    assert status == 404


async def test_code_is_run_and_looked_at_again(client: ApiClient) -> None:
    container = await new_container(client)
    id = new_id("step_")
    path = f"/containers/{container}/run_steps"

    step = await client.make(path, {"code": "print('hi')\n6 * 7", "id": id})
    again = await client.make(path, {"code": "print('hi')\n6 * 7", "id": id, "stream": False})
    listed = await client.fetch(path)
    found = await client.fetch(f"{path}/{id}")
    short = await client.fetch(f"/run_steps/{id}?wait=1")

    assert step == again == found == short == listed["data"][0]
    assert (step["object"], step["status"]) == ("container.run_step", "completed")
    assert step["outputs"][0] == {"type": "stream", "name": "stdout", "text": "hi\n"}
    assert step["outputs"][1]["data"] == {"text/plain": "42"}
    other = await new_container(client)
    status, _ = await client.refused("GET", f"/containers/{other}/run_steps/{id}")
    assert status == 404


async def test_code_is_streamed_as_events(client: ApiClient) -> None:
    container = await new_container(client)

    response = await client.post(
        f"/containers/{container}/run_steps", json={"code": "print('hi')", "stream": True}
    )

    assert response.headers["content-type"].startswith("text/event-stream")
    names = [name for name, _ in frames(response.text)]
    assert names[0] == "container.run_step.started"
    assert names[-1] == "container.run_step.finished"
    assert ("container.run_step.output", "hi\n") in [
        (name, data.get("output", {}).get("text")) for name, data in frames(response.text)
    ]


async def test_a_refused_stream_is_a_plain_error(client: ApiClient) -> None:
    for path, body in (
        ("/containers/sess_gone/run_steps", {"code": "1", "stream": True}),
        ("/containers/sess_gone/commands", {"command": "true", "stream": True}),
        ("/containers/sess_gone/commands", {"command": "true"}),
    ):
        status, error = await client.refused("POST", path, json=body)
        assert (status, error["code"]) == (404, "not_found")
        assert error["details"] == {"kind": "session", "id": "sess_gone"}


async def test_a_step_in_the_background_goes_on_and_is_cancelled(client: ApiClient) -> None:
    container = await new_container(client)
    path = f"/containers/{container}/run_steps"

    with anyio.fail_after(20):
        step = await client.make(path, {"code": SLOW, "background": True})
        waited = await client.fetch(f"{path}/{step['id']}?wait=0.05")
        cancelled = await client.make(f"{path}/{step['id']}/cancel")
        events = await client.get(f"{path}/{step['id']}/events")
        interrupted = await client.make(f"/containers/{container}/interrupt")

    assert waited["status"] in ("queued", "in_progress")
    assert cancelled["status"] == "cancelled"
    assert [name for name, _ in frames(events.text)] == ["container.run_step.finished"]
    assert interrupted == {"object": "container.interrupted", "step": None}


async def test_files_are_moved_by_path_with_curl(client: ApiClient) -> None:
    container = await new_container(client)
    base = f"/containers/{container}"

    put = await client.post(f"{base}/paths/data/%C3%BC%20%231.txt", content=b"0123456789")
    part = await client.get(f"{base}/paths/data/ü %231.txt", headers={"Range": "bytes=2-4"})
    stat = await client.fetch(f"{base}/stat/data/ü %231.txt?digest=false")
    deleted = await client.delete(f"{base}/paths/data/ü %231.txt")
    gone, _ = await client.refused("GET", f"{base}/paths/data/ü %231.txt")
    refused, error = await client.refused("POST", f"{base}/paths/a%5Cb", content=b"x")

    assert put.json()["path"] == "/mnt/data/data/ü #1.txt"
    assert (part.status_code, part.content) == (206, b"234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    assert (stat["path"], stat["size"]) == ("data/ü #1.txt", 10)
    assert deleted.json()["deleted"] is True
    assert gone == 404
    assert (refused, error["code"]) == (400, "invalid_path")


async def test_an_answer_about_a_file_is_what_is_said_of_it_right_after(client: ApiClient) -> None:
    container = await new_container(client)
    kept = await client.upload()
    path = f"/containers/{container}/files"

    by_form = (await client.post(path, files={"file": ("a.txt", b"hello")})).json()
    by_id = await client.make(path, {"file_id": kept})
    by_path = (await client.post(f"/containers/{container}/paths/b.txt", content=b"x")).json()

    for made in (by_form, by_id, by_path):
        assert await client.fetch(f"{path}/{made['id']}") == made


async def test_a_form_may_say_where_its_file_goes(client: ApiClient) -> None:
    container = await new_container(client)

    made = await client.post(
        f"/containers/{container}/files",
        data={"path": "data/b.csv"},
        files={"file": ("a.csv", b"1,2")},
    )
    status, error = await client.refused(
        "POST", f"/containers/{container}/files", files={"other": ("a.csv", b"1,2")}
    )

    assert made.json()["path"] == "/mnt/data/data/b.csv"
    assert (status, error["param"]) == (400, "file")


async def test_the_same_session_is_a_container_and_back(client: ApiClient) -> None:
    container = await new_container(client)
    await client.api.service.act_as("ada").run_code(container, "x = 41")

    step = await client.make(f"/containers/{container}/run_steps", {"code": "x + 1"})
    notebook = await client.fetch(f"/containers/{container}/notebook")
    variables = await client.fetch(f"/containers/{container}/variables")

    assert step["outputs"][0]["data"] == {"text/plain": "42"}
    assert len(notebook["cells"]) == 2
    assert variables["data"] == [{"name": "x", "type": "int", "detail": "41"}]


async def test_nothing_of_a_container_is_seen_by_another_principal(client: ApiClient) -> None:
    container = await new_container(client)
    base = f"/containers/{container}"
    step = (await client.make(f"{base}/run_steps", {"code": "1"}))["id"]
    file = (await client.post(f"{base}/paths/a.txt", content=b"x")).json()["id"]
    kept = (await client.make(f"{base}/keep", {"path": "a.txt"}))["id"]
    bob = await client.as_principal("bob")
    requests: list[tuple[str, str, Any]] = []
    for operation in AssistantsApp(None).router.operations:
        if not operation.handler.__module__.startswith("ci_tools_assistants.containers"):
            continue
        if not {"container_id", "step_id", "file_id"} & set(operation.names):
            continue
        path = operation.path
        for name, value in (
            ("{container_id}", container),
            ("{step_id}", step),
            ("{file_id}", file if "containers" in path else kept),
            ("{path:path}", "a.txt"),
        ):
            path = path.replace(name, value)
        body = {
            "RunStepBody": {"code": "1"},
            "CommandBody": {"command": "true"},
            "PathBody": {"path": "a.txt"},
            "TicketBody": {"path": "a.txt", "action": "download"},
        }.get(operation.body.__name__ if operation.body else "", {})
        if path.endswith("/files"):
            body = {"file_id": file}
        requests.append((operation.method, path, body))

    assert len(requests) > 25
    async with bob:
        assert (await bob.fetch("/containers"))["data"] == []
        for method, path, body in requests:
            status, error = await bob.refused(method, path, json=body if method == "POST" else None)
            assert (status, error["code"]) == (404, "not_found"), path
    assert (await client.get(f"{base}/paths/a.txt")).content == b"x"


NASTY = [
    "",
    "\x00",
    "../..",
    "ü/\ufffd",
    "%2e%2e%2f",
    "a" * 3000,
    "sess_\u2028",
    "null",
    "-1",
    "1e999",
]
"""Texts that ids, paths and numbers are not."""

NASTY_BODIES: list[Any] = [
    None,
    [],
    "text",
    {"unknown": 1},
    {"code": None, "command": 7, "path": [], "name": {}, "file_id": False, "replay": "yes"},
    {"code": "1", "timeout": 1e308, "wait": -1},
    {"code": "1", "id": "\x00"},
    {"code": "\x00 \u2028", "background": True, "stream": True},
    {"command": "true", "cwd": "/etc", "output_limit": -5},
    {"command": "\x00"},
    {"path": "../x", "action": "upload"},
    {"path": "a\x00b"},
    {"name": "\x00", "environment": {"\x00": "a"}},
    {"name": "n", "environment": {"A": "\x00"}, "network": "\x00"},
    {"name": "n" * 1000},
    {"name": "n", "file_ids": ["\x00"]},
    {"name": "n", "kernelspec": "\x00", "server": "\x00"},
    {"file_id": "\x00", "path": "\x00"},
]


async def test_no_input_is_answered_with_an_error_of_ours(client: ApiClient) -> None:
    container = await new_container(client)
    refused = 0
    for operation in containers.operations():
        for number, body in enumerate(NASTY_BODIES):
            text = NASTY[number % len(NASTY)]
            path = operation.path.replace("{container_id}", container if number % 3 else text)
            for name in ("{step_id}", "{file_id}", "{path:path}"):
                path = path.replace(name, text)
            content = json.dumps(body).encode() if operation.method == "POST" else None
            response = await client.request(
                operation.method,
                quote(path, safe="/%"),
                params={} if number % 2 else {"limit": text, "wait": text, "after": text},
                content=content,
            )
            if operation.method == "DELETE" and path == f"/containers/{container}":
                container = await new_container(client)
            refused += response.status_code >= 400
            assert response.status_code < 500, (operation.method, path, body, response.text)

    assert refused > 300
