from typing import Any

import pytest

from ci_tools.models import new_id
from ci_tools_assistants.objects import Kind
from tests.adapters.assistants.api import V1, ApiClient


@pytest.fixture
async def path(client: ApiClient) -> str:
    """Where the messages of a thread are."""
    return f"/threads/{(await client.make('/threads'))['id']}/messages"


async def test_a_message_has_every_field_of_the_specification(client: ApiClient, path: str) -> None:
    made = await client.make(path, {"role": "user", "content": "hello 🦜"})

    assert made["id"].startswith("msg_")
    assert made == {
        "id": made["id"],
        "object": "thread.message",
        "created_at": made["created_at"],
        "thread_id": path.split("/")[2],
        "status": "completed",
        "incomplete_details": None,
        "completed_at": made["created_at"],
        "incomplete_at": None,
        "role": "user",
        "content": [{"type": "text", "text": {"value": "hello 🦜", "annotations": []}}],
        "assistant_id": None,
        "run_id": None,
        "attachments": [],
        "metadata": {},
    }
    assert await client.fetch(f"{path}/{made['id']}") == made


async def test_content_may_be_text_and_images(client: ApiClient, path: str) -> None:
    image = await client.upload("a.png", b"\x89PNG")

    made = await client.make(
        path,
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_file", "image_file": {"file_id": image}},
                {"type": "image_url", "image_url": {"url": "https://x.test/a", "detail": "low"}},
            ],
        },
    )

    assert made["content"] == [
        {"type": "text", "text": {"value": "see", "annotations": []}},
        {"type": "image_file", "image_file": {"file_id": image, "detail": "auto"}},
        {"type": "image_url", "image_url": {"url": "https://x.test/a", "detail": "low"}},
    ]


async def test_only_the_metadata_of_a_message_can_be_changed(client: ApiClient, path: str) -> None:
    made = await client.make(path, {"role": "user", "content": "x"})

    changed = await client.make(f"{path}/{made['id']}", {"metadata": {"a": "b"}})
    status, error = await client.refused("POST", f"{path}/{made['id']}", json={"content": "y"})

    assert changed == {**made, "metadata": {"a": "b"}}
    assert (status, error["message"]) == (400, "Unknown parameter: 'content'.")


async def test_a_deleted_message_is_gone(client: ApiClient, path: str) -> None:
    made = await client.make(path, {"role": "user", "content": "x"})

    response = await client.delete(f"{path}/{made['id']}")

    assert response.json() == {
        "id": made["id"],
        "object": "thread.message.deleted",
        "deleted": True,
    }
    assert (await client.refused("GET", f"{path}/{made['id']}"))[0] == 404
    assert (await client.fetch(path))["data"] == []


async def test_a_message_of_another_thread_is_unknown(client: ApiClient, path: str) -> None:
    made = await client.make(path, {"role": "user", "content": "x"})
    other = (await client.make("/threads"))["id"]

    assert (await client.refused("GET", f"/threads/{other}/messages/{made['id']}"))[0] == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"role": "user", "content": ""}, "content"),
        ({"role": "user", "content": []}, "content"),
        ({"role": "user", "content": {}}, "content"),
        ({"role": "user", "content": None}, "content"),
        ({"role": "user", "content": "x" * 256_001}, "content"),
        ({"role": "user", "content": [{"type": "text", "text": "x" * 200_000}] * 2}, "content"),
        ({"role": "user", "content": [{"type": "text"}]}, "content[0].text"),
        ({"role": "user", "content": [{"text": "x"}]}, "content[0].type"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]},
            "content[0].image_url.url",
        ),
        ({"role": "user", "content": "x", "attachments": [{}]}, "attachments[0].file_id"),
        (
            {"role": "user", "content": "x", "attachments": [{"file_id": "f", "tools": [FUNC]}]}
            if (FUNC := {"type": "function"})
            else {},
            "attachments[0].tools[0]",
        ),
        ({"content": "x"}, "role"),
    ],
)
async def test_bad_input_is_named(client: ApiClient, path: str, body: Any, param: str) -> None:
    status, error = await client.refused("POST", path, json=body)

    assert (status, error["param"]) == (400, param)


async def test_messages_of_one_run_can_be_listed(client: ApiClient, path: str) -> None:
    thread_id = path.split("/")[2]
    made = await client.make(path, {"role": "user", "content": "x"})
    await client.api.records.add(
        Kind.MESSAGE,
        {**made, "id": new_id("msg_"), "run_id": "run_1"},
        principal="ada",
        parent=thread_id,
    )

    listed = await client.fetch(path, params={"run_id": "run_1"})

    assert [item["run_id"] for item in listed["data"]] == ["run_1"]


async def test_an_attachment_that_a_tool_does_not_support_is_refused(
    client: ApiClient, path: str
) -> None:
    image = await client.upload("a.png", b"\x89PNG")

    def body(tool: str) -> Any:
        attachments = [{"file_id": image, "tools": [{"type": tool}]}]
        return {"role": "user", "content": "x", "attachments": attachments}

    await client.make(path, body("code_interpreter"))
    status, error = await client.refused("POST", path, json=body("file_search"))

    assert status == 400
    assert "'.png'" in error["message"]
    assert "file_search" in error["message"]


async def test_version_1_sees_file_ids(client: ApiClient, path: str) -> None:
    image, table = await client.upload("a.png", b"\x89PNG"), await client.upload()

    made = await client.make(
        path, {"role": "user", "content": "x", "file_ids": [image, table]}, headers=V1
    )

    assert made["file_ids"] == [image, table]
    assert "attachments" not in made
    newer = await client.fetch(f"{path}/{made['id']}")
    assert newer["attachments"][0] == {"file_id": image, "tools": [{"type": "code_interpreter"}]}
    files = await client.fetch(f"{path}/{made['id']}/files", headers=V1)
    assert [item["id"] for item in files["data"]] == [table, image]
    assert await client.fetch(f"{path}/{made['id']}/files/{table}", headers=V1) == {
        "id": table,
        "object": "thread.message.file",
        "created_at": made["created_at"],
        "message_id": made["id"],
    }


async def test_version_1_takes_at_most_10_files(client: ApiClient, path: str) -> None:
    status, error = await client.refused(
        "POST", path, json={"role": "user", "content": "x", "file_ids": ["f"] * 11}, headers=V1
    )

    assert (status, error["param"]) == (400, "file_ids")


async def test_version_1_sees_newer_content_as_text(client: ApiClient, path: str) -> None:
    image = await client.upload("a.png", b"\x89PNG")
    made = await client.make(
        path,
        {
            "role": "user",
            "content": [
                {"type": "image_file", "image_file": {"file_id": image}},
                {"type": "image_url", "image_url": {"url": "https://x.test/a"}},
            ],
        },
    )

    older = await client.fetch(f"{path}/{made['id']}", headers=V1)

    assert older["content"] == [
        {"type": "image_file", "image_file": {"file_id": image}},
        {"type": "text", "text": {"value": "https://x.test/a", "annotations": []}},
    ]
