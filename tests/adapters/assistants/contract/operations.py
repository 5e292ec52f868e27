"""For every operation of the specifications, by its id, what uses it with success."""

from collections.abc import Callable, Mapping
from typing import Any

from tests.adapters.assistants.contract.world import Object, World
from tests.adapters.assistants.scripted.script import Gate, Wait, turn

Use = Callable[[World], object]


# Assistants


def create_assistant(world: World) -> None:
    more: Object = {"file_ids": [world.file["id"]]}
    if world.version == "v2":
        more = {
            "tool_resources": {"code_interpreter": {"file_ids": [world.file["id"]]}},
            "temperature": 0.5,
            "top_p": 0.9,
            "response_format": {"type": "text"},
        }
    full = world.new_assistant(
        name="n" * 256,
        description="d" * 512,
        instructions="i" * 256_000,
        metadata={"k" * 64: "v" * 512},
        **more,
    )
    assert full["name"] == "n" * 256
    assert full["metadata"] == {"k" * 64: "v" * 512}
    assert {key: full[key] for key in more} == more
    least = world.post("/assistants", {"model": "anything/at:all"})
    assert (least["name"], least["instructions"], least["tools"]) == (None, None, [])
    assert (least["model"], least["metadata"]) == ("anything/at:all", {})


def modify_assistant(world: World) -> None:
    made = world.new_assistant(name="Before", metadata={"a": "1"})
    changed = world.post(f"/assistants/{made['id']}", {"name": "After", "metadata": {"b": "2"}})
    assert changed == made | {"name": "After", "metadata": {"b": "2"}}


def delete_assistant(world: World) -> None:
    made = world.new_assistant()
    deleted = {"id": made["id"], "object": "assistant.deleted", "deleted": True}
    assert world.delete(f"/assistants/{made['id']}") == deleted
    assert world.http.get(f"/assistants/{made['id']}").status_code == 404


# Threads and messages


def create_thread(world: World) -> None:
    assert world.post("/threads")["metadata"] == {}
    thread = world.new_thread("Look at this.", **world.of_file(world.file))
    if world.version == "v2":
        resources = {"code_interpreter": {"file_ids": [world.file["id"]]}}
        assert thread["tool_resources"] == resources


def modify_thread(world: World) -> None:
    made = world.new_thread()
    changed = world.post(f"/threads/{made['id']}", {"metadata": {"a": "b"}})
    assert changed == made | {"metadata": {"a": "b"}}


def delete_thread(world: World) -> None:
    made = world.new_thread()
    deleted = {"id": made["id"], "object": "thread.deleted", "deleted": True}
    assert world.delete(f"/threads/{made['id']}") == deleted
    assert world.http.get(f"/threads/{made['id']}/messages").status_code == 404


def create_message(world: World) -> None:
    assert world.message["role"] == "user"
    assert world.message["content"][0]["text"] == {"value": "Look.", "annotations": []}
    assert {key: world.message[key] for key in world.of_file(world.file)} == world.of_file(
        world.file
    )
    if world.version == "v2":
        parts = [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        ]
        body = {"role": "assistant", "content": parts}
        made = world.post(f"/threads/{world.thread['id']}/messages", body)
        assert [part["type"] for part in made["content"]] == ["text", "image_url"]


def list_messages(world: World) -> None:
    page = world.get(f"/threads/{world.run['thread_id']}/messages", limit=1)
    assert page["has_more"]
    assert page["data"][0]["run_id"] == world.run["id"]
    rest = world.get(f"/threads/{world.run['thread_id']}/messages", after=page["last_id"])
    assert [message["role"] for message in rest["data"]] == ["user"]
    assert not rest["has_more"]


def modify_message(world: World) -> None:
    changed = world.post(world.message_path, {"metadata": {"c": "d"}})
    assert changed == world.message | {"metadata": {"c": "d"}}


def delete_message(world: World) -> None:
    body = {"role": "user", "content": "Forget this."}
    made = world.post(f"/threads/{world.thread['id']}/messages", body)
    path = f"/threads/{world.thread['id']}/messages/{made['id']}"
    deleted = {"id": made["id"], "object": "thread.message.deleted", "deleted": True}
    assert world.delete(path) == deleted
    assert world.http.get(path).status_code == 404


# Runs


def create_run(world: World) -> None:
    run = world.new_run(
        "Solve the equation",
        model="gpt-4-turbo",
        instructions="Be brief.",
        additional_instructions="Say please.",
        additional_messages=[{"role": "user", "content": "Solve the equation, please."}],
        tools=[{"type": "code_interpreter"}],
        metadata={"a": "b"},
        temperature=0.25,
        max_prompt_tokens=5000,
        max_completion_tokens=1000,
        truncation_strategy={"type": "last_messages", "last_messages": 5},
        tool_choice="auto",
        response_format={"type": "text"},
    )
    assert run["status"] == "queued"
    assert run["expires_at"] == run["created_at"] + 600
    assert run["instructions"].startswith("Be brief.")
    assert run["instructions"].endswith("Say please.")
    assert (run["model"], run["temperature"]) == ("gpt-4-turbo", 0.25)
    assert run["truncation_strategy"] == {"type": "last_messages", "last_messages": 5}
    done = world.wait(run)
    assert done["status"] == "completed", done
    assert done["usage"]["total_tokens"] > 0
    assert done["expires_at"] is None
    events = world.stream(
        f"/threads/{run['thread_id']}/runs", {"assistant_id": world.assistant["id"]}
    )
    assert events[-2][0] == "thread.run.completed"


def create_thread_and_run(world: World) -> None:
    thread: Object = {"messages": [{"role": "user", "content": "Solve the equation"}]}
    body = {"assistant_id": world.assistant["id"], "thread": thread}
    assert world.wait(world.post("/threads/runs", body))["status"] == "completed"
    events = world.stream("/threads/runs", body)
    assert events[0][0] == "thread.created"
    assert events[-2][0] == "thread.run.completed"


def list_runs(world: World) -> None:
    page = world.get(f"/threads/{world.run['thread_id']}/runs")
    assert [run["id"] for run in page["data"]] == [world.run["id"]]
    assert page["first_id"] == page["last_id"] == world.run["id"]


def modify_run(world: World) -> None:
    changed = world.post(world.run_path, {"metadata": {"a": "b"}})
    assert changed == world.run | {"metadata": {"a": "b"}}


def cancel_run(world: World) -> None:
    gate = Gate()
    world.served.model.follow(lambda request: turn("One moment", Wait(gate)))
    try:
        run = world.new_run("Wait")
        while not gate.is_reached:
            world.get(f"/threads/{run['thread_id']}/runs/{run['id']}")
        path = f"/threads/{run['thread_id']}/runs/{run['id']}/cancel"
        assert world.post(path)["status"] in ("cancelling", "cancelled")
        done = world.wait(world.get(path.removesuffix("/cancel")))
        assert done["status"] == "cancelled"
        assert done["cancelled_at"] is not None
    finally:
        gate.open()
        world.served.model.follow(world.served.script)


def submit_tool_outputs(world: World) -> None:
    for stream in (False, True):
        tools = [FUNCTIONS["getCurrentWeather"], FUNCTIONS["getNickname"]]
        run = world.wait(world.new_run("How is the weather?", tools=tools))
        assert run["status"] == "requires_action", run
        calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        body = {"tool_outputs": [{"tool_call_id": one["id"], "output": "22C"} for one in calls]}
        path = f"/threads/{run['thread_id']}/runs/{run['id']}/submit_tool_outputs"
        if stream:
            assert world.stream(path, body)[-2][0] == "thread.run.completed"
        else:
            answer = world.post(path, body)
            assert (answer["status"], answer["required_action"]) == ("queued", None)
            assert world.wait(answer)["status"] == "completed"


FUNCTIONS: Mapping[str, Object] = {
    name: {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
        },
    }
    for name in ("getCurrentWeather", "getNickname")
}


def list_steps(world: World) -> None:
    page = world.get(f"{world.run_path}/steps", order="asc")
    assert [step["type"] for step in page["data"]] == ["tool_calls", "message_creation"]
    [call] = page["data"][0]["step_details"]["tool_calls"]
    assert call["code_interpreter"]["outputs"] == [{"type": "logs", "logs": "1.0"}]


# Files and uploads


def create_file(world: World) -> None:
    made = world.upload("notes.md", b"# Notes\n")
    assert (made["filename"], made["bytes"], made["purpose"]) == ("notes.md", 8, "assistants")


def list_files(world: World) -> None:
    assert world.file["id"] in [one["id"] for one in world.get("/files")["data"]]


def delete_file(world: World) -> None:
    made = world.upload()
    deleted = {"id": made["id"], "object": "file", "deleted": True}
    assert world.delete(f"/files/{made['id']}") == deleted
    assert world.http.get(f"/files/{made['id']}").status_code == 404


def download_file(world: World) -> None:
    response = world.http.get(f"/files/{world.file['id']}/content")
    assert response.content == b"a,b\n1,2\n3,4\n"
    assert response.headers["content-type"].startswith("text/csv")
    assert "mydata.csv" in response.headers["content-disposition"]


def new_upload(world: World, content: bytes) -> Object:
    body = {"filename": "big.txt", "purpose": "assistants", "mime_type": "text/plain"}
    return world.post("/uploads", {**body, "bytes": len(content)})


def add_upload_part(world: World, upload: Object | None = None, data: bytes = b"half ") -> Object:
    upload = upload or new_upload(world, b"half of it")
    response = world.http.post(f"/uploads/{upload['id']}/parts", files={"data": ("part", data)})
    assert response.status_code == 200, response.text
    part: Object = response.json()
    assert part["upload_id"] == upload["id"]
    return part


def complete_upload(world: World) -> None:
    upload = new_upload(world, b"half of it")
    parts = [add_upload_part(world, upload, data) for data in (b"of it", b"half ")]
    body = {"part_ids": [part["id"] for part in reversed(parts)]}
    done = world.post(f"/uploads/{upload['id']}/complete", body)
    assert done["status"] == "completed"
    content = world.http.get(f"/files/{done['file']['id']}/content").content
    assert content == b"half of it"


def cancel_upload(world: World) -> None:
    upload = new_upload(world, b"never")
    assert world.post(f"/uploads/{upload['id']}/cancel")["status"] == "cancelled"


# Files of version 1


def create_assistant_file(world: World) -> Object:
    assistant, file = world.new_assistant(), world.upload()
    made = world.post(f"/assistants/{assistant['id']}/files", {"file_id": file["id"]})
    assert made["id"] == file["id"]
    assert world.get(f"/assistants/{assistant['id']}")["file_ids"] == [file["id"]]
    return made


def list_assistant_files(world: World) -> None:
    made = create_assistant_file(world)
    assert world.get(f"/assistants/{made['assistant_id']}/files")["data"] == [made]


def get_assistant_file(world: World) -> None:
    made = create_assistant_file(world)
    assert world.get(f"/assistants/{made['assistant_id']}/files/{made['id']}") == made


def delete_assistant_file(world: World) -> None:
    made = create_assistant_file(world)
    world.delete(f"/assistants/{made['assistant_id']}/files/{made['id']}")
    assert world.get(f"/assistants/{made['assistant_id']}/files")["data"] == []
    assert world.get(f"/files/{made['id']}")["id"] == made["id"]


def list_message_files(world: World) -> None:
    [found] = world.get(f"{world.message_path}/files")["data"]
    assert (found["id"], found["message_id"]) == (world.file["id"], world.message["id"])


def get_message_file(world: World) -> None:
    found = world.get(f"{world.message_path}/files/{world.file['id']}")
    assert (found["id"], found["message_id"]) == (world.file["id"], world.message["id"])


# Models


def delete_model(world: World) -> Any:
    """A model is the operator's and cannot be deleted by a client; the error says so."""
    response = world.http.delete("/models/gpt-4o")
    assert response.status_code in (403, 404), response.text


# Containers


def new_container(world: World) -> Object:
    return world.post("/containers", {"name": "Mine"})


def new_container_file(world: World, container: Object) -> Object:
    made = world.upload_to(container["id"])
    assert made["path"] == "/mnt/data/a.txt"
    return made


def create_container_file(world: World) -> None:
    new_container_file(world, new_container(world))


def list_containers(world: World) -> None:
    made = new_container(world)
    assert world.get("/containers")["data"][0]["id"] == made["id"]


def get_container(world: World) -> None:
    made = new_container(world)
    assert world.get(f"/containers/{made['id']}")["name"] == "Mine"


def delete_container(world: World) -> None:
    made = new_container(world)
    world.delete(f"/containers/{made['id']}")
    assert world.http.get(f"/containers/{made['id']}").status_code == 404


def list_container_files(world: World) -> None:
    container = new_container(world)
    made = new_container_file(world, container)
    assert [one["id"] for one in world.get(f"/containers/{container['id']}/files")["data"]] == [
        made["id"]
    ]


def get_container_file(world: World) -> None:
    container = new_container(world)
    made = new_container_file(world, container)
    found = world.get(f"/containers/{container['id']}/files/{made['id']}")
    assert (found["id"], found["path"], found["bytes"]) == (made["id"], "/mnt/data/a.txt", 5)


def delete_container_file(world: World) -> None:
    container = new_container(world)
    made = new_container_file(world, container)
    world.delete(f"/containers/{container['id']}/files/{made['id']}")
    assert world.get(f"/containers/{container['id']}/files")["data"] == []


def get_container_file_content(world: World) -> None:
    container = new_container(world)
    made = new_container_file(world, container)
    path = f"/containers/{container['id']}/files/{made['id']}/content"
    assert world.http.get(path).content == b"hello"


USES: Mapping[str, Use] = {
    "listAssistants": lambda world: world.get("/assistants", limit=1, order="asc"),
    "createAssistant": create_assistant,
    "getAssistant": lambda world: world.get(f"/assistants/{world.assistant['id']}"),
    "modifyAssistant": modify_assistant,
    "deleteAssistant": delete_assistant,
    "createThread": create_thread,
    "getThread": lambda world: world.get(f"/threads/{world.thread['id']}"),
    "modifyThread": modify_thread,
    "deleteThread": delete_thread,
    "listMessages": list_messages,
    "createMessage": create_message,
    "getMessage": lambda world: world.get(world.message_path),
    "modifyMessage": modify_message,
    "deleteMessage": delete_message,
    "createThreadAndRun": create_thread_and_run,
    "listRuns": list_runs,
    "createRun": create_run,
    "getRun": lambda world: world.get(world.run_path),
    "modifyRun": modify_run,
    "cancelRun": cancel_run,
    "submitToolOuputsToRun": submit_tool_outputs,  # as the specifications write it
    "listRunSteps": list_steps,
    "getRunStep": lambda world: world.get(f"{world.run_path}/steps/{world.step['id']}"),
    "listFiles": list_files,
    "createFile": create_file,
    "deleteFile": delete_file,
    "retrieveFile": lambda world: world.get(f"/files/{world.file['id']}"),
    "downloadFile": download_file,
    "createUpload": lambda world: new_upload(world, b"1234"),
    "addUploadPart": add_upload_part,
    "completeUpload": complete_upload,
    "cancelUpload": cancel_upload,
    "listModels": lambda world: world.get("/models"),
    "retrieveModel": lambda world: world.get("/models/gpt-4o"),
    "deleteModel": delete_model,
    "listAssistantFiles": list_assistant_files,
    "createAssistantFile": create_assistant_file,
    "getAssistantFile": get_assistant_file,
    "deleteAssistantFile": delete_assistant_file,
    "listMessageFiles": list_message_files,
    "getMessageFile": get_message_file,
    "CreateContainer": new_container,
    "ListContainers": list_containers,
    "RetrieveContainer": get_container,
    "DeleteContainer": delete_container,
    "CreateContainerFile": create_container_file,
    "ListContainerFiles": list_container_files,
    "RetrieveContainerFile": get_container_file,
    "DeleteContainerFile": delete_container_file,
    "RetrieveContainerFileContent": get_container_file_content,
}
"""What uses an operation, by the id that the specifications give it."""

REFUSED = frozenset({"deleteModel"})
"""Operations that are there and always refuse."""
