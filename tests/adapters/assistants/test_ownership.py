"""Nothing of another principal is visible: not by id, list, file or session."""

from ci_tools_assistants.objects import Kind
from tests.adapters.assistants.api import ApiClient

CODE = [{"type": "code_interpreter"}]


async def test_nothing_of_another_principal_is_visible(client: ApiClient) -> None:
    bob = await client.as_principal("bob")
    file_id = await client.upload()
    resources = {"code_interpreter": {"file_ids": [file_id]}}
    assistant = await client.make("/assistants", {"model": "m", "tool_resources": resources})
    thread = await client.make("/threads", {"metadata": {"user": "1"}})
    message = await client.make(
        f"/threads/{thread['id']}/messages",
        {
            "role": "user",
            "content": "x",
            "attachments": [{"file_id": file_id, "tools": CODE}],
        },
    )
    run = await client.make(f"/threads/{thread['id']}/runs", {"assistant_id": assistant["id"]})
    in_thread = f"/threads/{thread['id']}"

    for path in (
        f"/assistants/{assistant['id']}",
        f"/assistants/{assistant['id']}/files",
        f"/assistants/{assistant['id']}/files/{file_id}",
        in_thread,
        f"{in_thread}/messages",
        f"{in_thread}/messages/{message['id']}",
        f"{in_thread}/messages/{message['id']}/files",
        f"{in_thread}/runs",
        f"{in_thread}/runs/{run['id']}",
        f"{in_thread}/runs/{run['id']}/steps",
        f"/files/{file_id}",
        f"/files/{file_id}/content",
        f"/assistants?after={assistant['id']}",
        f"/threads?after={thread['id']}",
        f"/files?after={file_id}",
    ):
        status, error = await bob.refused("GET", path)
        assert (path, status) == (path, 404)
        assert error["message"].startswith("No ")
    for path in (
        f"/assistants/{assistant['id']}",
        in_thread,
        f"{in_thread}/messages/{message['id']}",
        f"/files/{file_id}",
    ):
        assert (path, (await bob.refused("DELETE", path))[0]) == (path, 404)
    for path, body in (
        (f"/assistants/{assistant['id']}", {"name": "x"}),
        (f"/assistants/{assistant['id']}/files", {"file_id": file_id}),
        (in_thread, {"metadata": {}}),
        (f"{in_thread}/messages", {"role": "user", "content": "x"}),
        (f"{in_thread}/messages/{message['id']}", {"metadata": {}}),
        (f"{in_thread}/runs", {"assistant_id": assistant["id"]}),
        (f"{in_thread}/runs/{run['id']}", {"metadata": {}}),
        (f"{in_thread}/runs/{run['id']}/cancel", {}),
    ):
        assert (path, (await bob.refused("POST", path, json=body))[0]) == (path, 404)
    for path in ("/assistants", "/threads", "/threads?metadata[user]=1", "/files"):
        assert (await bob.fetch(path))["data"] == []


async def test_foreign_files_cannot_be_used(client: ApiClient) -> None:
    bob = await client.as_principal("bob")
    file_id = await client.upload()
    resources = {"code_interpreter": {"file_ids": [file_id]}}
    attachments = [{"file_id": file_id, "tools": CODE}]
    image = [{"type": "image_file", "image_file": {"file_id": file_id}}]
    mine = await bob.make("/threads")

    for path, body in (
        ("/assistants", {"model": "m", "tool_resources": resources}),
        ("/threads", {"tool_resources": resources}),
        (f"/threads/{mine['id']}", {"tool_resources": resources}),
        (
            f"/threads/{mine['id']}/messages",
            {"role": "user", "content": "x", "attachments": attachments},
        ),
        (f"/threads/{mine['id']}/messages", {"role": "user", "content": image}),
    ):
        status, error = await bob.refused("POST", path, json=body)
        assert (status, error["message"]) == (404, f"No file found with id '{file_id}'.")


async def test_a_foreign_assistant_cannot_be_run(client: ApiClient) -> None:
    bob = await client.as_principal("bob")
    assistant = await client.make("/assistants", {"model": "m"})
    mine = await bob.make("/threads")

    status, error = await bob.refused(
        "POST", f"/threads/{mine['id']}/runs", json={"assistant_id": assistant["id"]}
    )

    assert (status, error["message"]) == (404, f"No assistant found with id '{assistant['id']}'.")


async def test_the_session_of_a_thread_is_its_principals(client: ApiClient) -> None:
    session = await client.api.service.act_as("ada").create_session()
    thread = await client.make("/threads")
    await client.api.records.change_private(
        Kind.THREAD, thread["id"], lambda old: {**old, "session_id": session.id}, principal="ada"
    )

    status, _ = await (await client.as_principal("bob")).refused("GET", f"/containers/{session.id}")

    assert (await client.fetch(f"/threads/{thread['id']}"))["session_id"] == session.id
    assert status == 404
