from typing import Any

import pytest

from ci_tools_assistants.objects import Kind
from tests.adapters.assistants.api import V1, ApiClient


async def test_a_thread_has_every_field_of_the_specification(client: ApiClient) -> None:
    made = await client.make("/threads")

    assert made["id"].startswith("thread_")
    assert made == {
        "id": made["id"],
        "object": "thread",
        "created_at": made["created_at"],
        "metadata": {},
        "tool_resources": {},
    }
    assert await client.fetch(f"/threads/{made['id']}") == {**made, "session_id": None}


async def test_no_body_at_all_makes_a_thread(client: ApiClient) -> None:
    response = await client.post("/threads")

    assert response.status_code == 200


async def test_a_thread_begins_with_its_messages_and_their_files(client: ApiClient) -> None:
    file_id = await client.upload()
    attachments = [{"file_id": file_id, "tools": [{"type": "code_interpreter"}]}]

    made = await client.make(
        "/threads",
        {
            "messages": [
                {"role": "user", "content": "one", "attachments": attachments},
                {"role": "assistant", "content": "two"},
            ]
        },
    )

    assert made["tool_resources"] == {"code_interpreter": {"file_ids": [file_id]}}
    listed = await client.fetch(f"/threads/{made['id']}/messages")
    assert [item["content"][0]["text"]["value"] for item in listed["data"]] == ["two", "one"]
    assert listed["data"][1]["attachments"] == attachments


async def test_a_thread_can_be_changed(client: ApiClient) -> None:
    file_id = await client.upload()
    made = await client.make("/threads", {"metadata": {"a": "b"}})

    changed = await client.make(
        f"/threads/{made['id']}",
        {
            "metadata": {"c": "d"},
            "tool_resources": {"code_interpreter": {"file_ids": [file_id]}},
        },
    )
    kept = await client.make(f"/threads/{made['id']}")
    cleared = await client.make(
        f"/threads/{made['id']}", {"metadata": None, "tool_resources": None}
    )

    assert changed["metadata"] == {"c": "d"}
    assert changed["tool_resources"] == {"code_interpreter": {"file_ids": [file_id]}}
    assert kept == changed
    assert cleared == {**made, "metadata": {}}


async def test_files_that_a_thread_gives_up_are_forgotten(client: ApiClient) -> None:
    first, second = await client.upload(), await client.upload("b.csv")
    tools = [{"type": "code_interpreter"}]
    made = await client.make(
        "/threads",
        {
            "messages": [
                {
                    "role": "user",
                    "content": "x",
                    "attachments": [
                        {"file_id": first, "tools": tools},
                        {"file_id": second, "tools": tools},
                    ],
                }
            ]
        },
    )

    await client.make(
        f"/threads/{made['id']}",
        {"tool_resources": {"code_interpreter": {"file_ids": [second]}}},
    )

    private = await client.api.records.get_private(Kind.THREAD, made["id"], principal="ada")
    assert private["attached_file_ids"] == [second]


async def test_deleting_a_thread_deletes_its_messages_and_closes_its_session(
    client: ApiClient,
) -> None:
    made = await client.make("/threads", {"messages": [{"role": "user", "content": "x"}]})
    session = await client.api.service.act_as("ada").create_session()
    await client.api.records.change_private(
        Kind.THREAD, made["id"], lambda old: {**old, "session_id": session.id}, principal="ada"
    )
    assert (await client.fetch(f"/threads/{made['id']}"))["session_id"] == session.id

    response = await client.delete(f"/threads/{made['id']}")

    assert response.json() == {"id": made["id"], "object": "thread.deleted", "deleted": True}
    status, error = await client.refused("GET", f"/threads/{made['id']}")
    assert (status, error["message"]) == (404, f"No thread found with id '{made['id']}'.")
    assert (await client.refused("GET", f"/threads/{made['id']}/messages"))[0] == 404
    assert await client.api.service.act_as("ada").list_sessions() == []


async def test_threads_can_be_listed_by_metadata(client: ApiClient) -> None:
    async def found(**query: str) -> list[str]:
        listed = await client.fetch("/threads", params=query)
        return [thread["metadata"]["name"] for thread in listed["data"]]

    for name, user in (("a", "1"), ("b", "2"), ("c", "1")):
        await client.make("/threads", {"metadata": {"name": name, "user": user}})

    assert await found() == ["c", "b", "a"]
    assert await found(**{"metadata[user]": "1"}) == ["c", "a"]
    assert await found(**{"metadata[user]": "1", "metadata[name]": "a"}) == ["a"]
    assert await found(**{"metadata[user]": "3"}) == []
    assert await found(**{"metadata[user]": "1", "limit": "1", "order": "asc"}) == ["a"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": {}}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, None),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "y": 1}]}, "messages[0].y"),
        ({"messages": [{"role": "user", "content": "x"}] * 1001}, "messages"),
        ({"metadata": "x"}, "metadata"),
        ({"tool_resources": {"code_interpreter": []}}, "tool_resources.code_interpreter"),
    ],
)
async def test_bad_input_is_named(client: ApiClient, body: Any, param: str | None) -> None:
    status, error = await client.refused("POST", "/threads", json=body)

    assert status == 400
    assert param is None or error["param"] == param


async def test_version_1_sees_no_tool_resources(client: ApiClient) -> None:
    file_id = await client.upload()

    made = await client.make(
        "/threads",
        {"messages": [{"role": "user", "content": "x", "file_ids": [file_id]}]},
        headers=V1,
    )

    assert set(made) == {"id", "object", "created_at", "metadata"}
    newer = await client.fetch(f"/threads/{made['id']}")
    assert newer["tool_resources"] == {"code_interpreter": {"file_ids": [file_id]}}
