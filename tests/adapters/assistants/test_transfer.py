import json
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import hypothesis
import pytest
from hypothesis import strategies

from ci_tools.models import new_id
from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.http.answers import answer_schemas
from ci_tools_assistants.objects import Kind
from ci_tools_assistants.transfer import endpoints as transfer
from ci_tools_assistants.transfer.dumps import read_dump
from ci_tools_assistants.versions import to_wire
from tests.adapters.assistants.api import V1, ApiClient, open_client

Objects = list[dict[str, Any]]


def to_lines(objects: Objects) -> bytes:
    return "\n".join(json.dumps(item) for item in objects).encode()


async def export(client: ApiClient, **query: Any) -> Objects:
    response = await client.get("/export", **query)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


async def bring(client: ApiClient, objects: Objects) -> dict[str, Any]:
    response = await client.post("/import", content=to_lines(objects))
    assert response.status_code == 200, response.text
    return dict(response.json())


async def fill(client: ApiClient) -> tuple[str, str]:
    """Make an assistant, and a thread with messages, a run and a step; return their ids."""
    assistant = await client.make("/assistants", {"model": "m", "name": "Tutor"})
    thread = await client.make(
        "/threads",
        {"metadata": {"a": "b"}, "messages": [{"role": "user", "content": "hello"}]},
    )
    run = await client.make(f"/threads/{thread['id']}/runs", {"assistant_id": assistant["id"]})
    await client.api.records.change_run(
        run["id"], lambda old: {**old, "status": "completed"}, principal="ada"
    )
    step = {
        "id": new_id("step_"),
        "object": "thread.run.step",
        "created_at": run["created_at"],
        "run_id": run["id"],
        "assistant_id": assistant["id"],
        "thread_id": thread["id"],
        "type": "tool_calls",
        "status": "completed",
        "step_details": {
            "type": "tool_calls",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "code_interpreter",
                    "code_interpreter": {
                        "input": "1",
                        "outputs": [{"type": "logs", "logs": "1"}],
                    },
                }
            ],
        },
        "last_error": None,
        "expired_at": None,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": run["created_at"],
        "metadata": {},
        "usage": None,
    }
    await client.api.records.add(Kind.STEP, step, principal="ada", parent=run["id"])
    await client.make(f"/threads/{thread['id']}/messages", {"role": "user", "content": "more"})
    return assistant["id"], thread["id"]


async def test_what_is_exported_comes_home_elsewhere(client: ApiClient, tmp_path: Path) -> None:
    _, thread_id = await fill(client)
    exported = await export(client)

    async with open_client(tmp_path / "other") as other:
        counts = await bring(other, exported)
        again = await bring(other, exported)
        back = await export(other)
        listed = await other.fetch(f"/threads/{thread_id}/messages")

    assert back == exported
    assert [item["content"][0]["text"]["value"] for item in listed["data"]] == ["more", "hello"]
    assert counts == {
        "object": "import",
        "assistants": 1,
        "threads": 1,
        "messages": 2,
        "runs": 1,
        "run_steps": 1,
        "skipped": 0,
    }
    assert again["skipped"] == 6


async def test_a_part_can_be_exported(client: ApiClient) -> None:
    _, thread_id = await fill(client)
    await client.make("/threads")

    some = await export(client, params={"thread_id": thread_id})
    assistants = await export(client, params={"object": "assistants"})
    older = await export(client, headers=V1)

    assert [item["object"] for item in some] == [
        "thread",
        "thread.message",
        "thread.message",
        "thread.run",
        "thread.run.step",
    ]
    assert [item["object"] for item in assistants] == ["assistant"]
    assert older[0]["file_ids"] == []


async def test_an_export_of_version_1_comes_home(client: ApiClient, tmp_path: Path) -> None:
    file_id = await client.upload()
    await client.make(
        "/assistants",
        {"model": "m", "tools": [{"type": "retrieval"}], "file_ids": [file_id]},
        headers=V1,
    )
    await client.make(
        "/threads",
        {"messages": [{"role": "user", "content": "x", "file_ids": [file_id]}]},
        headers=V1,
    )
    older = await export(client, headers=V1)

    async with open_client(tmp_path / "other") as other:
        await bring(other, older)
        back = await export(other, headers=V1)
        newer = await export(other)

    assert back == older
    assert newer[0]["tools"] == [{"type": "file_search"}]
    assert newer[1]["tool_resources"] == {"code_interpreter": {"file_ids": [file_id]}}


async def test_saved_messages_come_home_without_their_thread(client: ApiClient) -> None:
    def message(id: str, created_at: int) -> dict[str, Any]:
        return {
            "id": id,
            "object": "thread.message",
            "created_at": created_at,
            "thread_id": "thread_abc123",
            "role": "user",
            "content": [{"type": "text", "text": {"value": id, "annotations": []}}],
        }

    saved = {
        "object": "list",
        "data": [message("msg_3", 20), message("msg_2", 10), message("msg_1", 10)],
        "has_more": False,
    }
    response = await client.post("/import", content=json.dumps(saved, indent=2).encode())

    assert response.json()["messages"] == 3
    thread = await client.fetch("/threads/thread_abc123")
    assert thread["created_at"] == 10
    listed = await client.fetch("/threads/thread_abc123/messages")
    assert [item["id"] for item in listed["data"]] == ["msg_3", "msg_2", "msg_1"]
    assert listed["data"][0]["attachments"] == []


async def test_a_run_that_had_not_ended_has_failed(client: ApiClient) -> None:
    run = {
        "id": "run_1",
        "object": "thread.run",
        "created_at": 1,
        "thread_id": "thread_1",
        "assistant_id": "asst_1",
        "status": "requires_action",
        "required_action": {"type": "submit_tool_outputs"},
        "model": "m",
    }

    await bring(client, [run])

    stored = await client.fetch("/threads/thread_1/runs/run_1")
    assert stored["status"] == "failed"
    assert stored["last_error"]["code"] == "server_error"
    await client.make("/threads/thread_1/messages", {"role": "user", "content": "x"})


async def test_ids_of_others_refuse_all_of_it(client: ApiClient) -> None:
    _, thread_id = await fill(client)
    bob = await client.as_principal("bob")
    mine = {"id": "asst_mine", "object": "assistant", "created_at": 1, "model": "m"}
    theirs = {"id": thread_id, "object": "thread", "created_at": 1}

    status, error = await bob.refused("POST", "/import", content=to_lines([mine, theirs]))

    assert (status, error["code"]) == (409, "id_taken")
    assert (await bob.fetch("/assistants"))["data"] == []


async def test_of_two_who_import_the_same_at_once_one_is_told_that_it_is_taken(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(client)
    saved = [item for item in await export(client) if item["object"] != "assistant"]
    fresh = json.loads(json.dumps(saved).replace(saved[0]["id"], new_id("thread_")))
    renamed = [{**item, "id": new_id(item["id"].split("_")[0] + "_")} for item in fresh[1:]]
    lines = to_lines([fresh[0], *(item for item in renamed if "run_id" not in item)])
    both, checked = anyio.Event(), 0
    check = transfer._refuse_foreign

    def count(*args: Any, **options: Any) -> None:
        nonlocal checked
        check(*args, **options)
        checked += 1
        if checked == 2:
            anyio.from_thread.run_sync(both.set)

    monkeypatch.setattr(transfer, "_refuse_foreign", count)
    write = client.api.records.write

    async def write_together(*args: Any, **options: Any) -> Any:
        await both.wait()
        return await write(*args, **options)

    monkeypatch.setattr(client.api.records, "write", write_together)
    bob = await client.as_principal("bob")
    answers: list[int] = []

    async def bring_as(one: ApiClient) -> None:
        answers.append((await one.post("/import", content=lines)).status_code)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bring_as, client)
            tasks.start_soon(bring_as, bob)

    assert sorted(answers) == [200, 409]


async def test_what_is_there_stays_as_it_is(client: ApiClient) -> None:
    assistant_id, _ = await fill(client)
    changed = {"id": assistant_id, "object": "assistant", "created_at": 1, "model": "other"}

    counts = await bring(client, [changed])

    assert counts["skipped"] == 1
    assert (await client.fetch(f"/assistants/{assistant_id}"))["model"] == "m"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: not a JSON object."),
        (b"1", "line 2: Expected an object with 'object' one of"),
        (b'{"object": "file"}', "line 2: Expected an object with 'object' one of"),
        (b'{"object": "thread", "id": "thread_1"}', "line 2: Missing required parameter: 'create"),
        (b'{"object": "thread", "id": "x-1", "created_at": 1}', "line 2: Invalid 'id'"),
        (b'{"object": "thread", "id": "thread_a", "created_at": -1}', "line 2: Invalid 'created"),
        (b'{"object": "thread", "id": "thread_a", "created_at": "1"}', "line 2: Invalid type for"),
    ],
)
async def test_a_bad_line_is_named_and_nothing_is_stored(
    client: ApiClient, line: bytes, message: str
) -> None:
    good = b'{"object": "thread", "id": "thread_1", "created_at": 1}\n'

    status, error = await client.refused("POST", "/import", content=good + line)

    assert status == 400
    assert error["message"].startswith(message)
    assert (await client.fetch("/threads"))["data"] == []


async def test_a_large_thread_comes_home_right_after_it_was_deleted(client: ApiClient) -> None:
    _, thread_id = await fill(client)
    one = next(item for item in await export(client) if item["object"] == "thread.message")
    await bring(client, [{**one, "id": new_id("msg_")} for _ in range(300)])
    saved = await export(client)
    await client.delete(f"/threads/{thread_id}")

    brought = await bring(client, saved)

    def by_id(item: dict[str, Any]) -> str:
        return str(item["id"])

    assert (brought["messages"], brought["skipped"]) == (302, 1)
    assert sorted(await export(client), key=by_id) == sorted(saved, key=by_id)


async def test_steps_need_their_run(client: ApiClient) -> None:
    await fill(client)
    step = (await export(client))[-1]

    status, error = await client.refused(
        "POST", "/import", content=to_lines([{**step, "id": "step_1"}])
    )

    assert status == 400
    assert step["run_id"] in error["message"]


async def test_formats_and_choices_come_home_as_they_were(
    client: ApiClient, tmp_path: Path
) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}, "strict": None}}
    assistant = await client.make(
        "/assistants", {"model": "m", "response_format": schema, "tools": [tool]}
    )
    thread = await client.make("/threads")
    await client.make(
        f"/threads/{thread['id']}/runs",
        {
            "assistant_id": assistant["id"],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "truncation_strategy": {"type": "last_messages", "last_messages": 3},
        },
    )
    await client.make(f"/threads/{thread['id']}", {"metadata": {"a": "b"}})
    exported = await export(client)
    exported[-1] |= {"status": "completed", "last_error": None}

    async with open_client(tmp_path / "other") as other:
        await bring(other, exported)
        back = await export(other)

    assert back == exported


async def test_an_imported_message_shows_nothing_of_the_run_it_names(client: ApiClient) -> None:
    _, thread_id = await fill(client)
    run = (await client.fetch(f"/threads/{thread_id}/runs"))["data"][0]
    bob = await client.as_principal("bob")
    message = {
        "id": "msg_1",
        "object": "thread.message",
        "created_at": 1,
        "thread_id": "thread_1",
        "role": "assistant",
        "run_id": run["id"],
        "content": [],
    }

    await bring(bob, [message])

    _, steps = await client.api.records.load_context("thread_1", principal="bob", limit=10)
    assert steps == []


async def test_a_step_is_in_the_thread_of_its_run(client: ApiClient, tmp_path: Path) -> None:
    await fill(client)
    exported = await export(client)
    exported[-1]["thread_id"] = "thread_other"

    async with open_client(tmp_path / "other") as other:
        await bring(other, exported)
        back = await export(other)

    assert back[-1]["thread_id"] == back[-2]["thread_id"]


@pytest.mark.parametrize(
    "item",
    [
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function", "function": {"name": "x y"}}]},
        {"tools": [{"type": "function", "function": {"name": "x", "parameters": [1]}}]},
        {"response_format": {"type": "json_schema", "json_schema": 7}},
        {"reasoning_effort": "zzz"},
    ],
)
async def test_what_no_run_could_use_is_refused(client: ApiClient, item: dict[str, Any]) -> None:
    assistant = {"id": "asst_1", "object": "assistant", "created_at": 1, "model": "m", **item}

    status, _ = await client.refused("POST", "/import", content=to_lines([assistant]))

    assert status == 400


async def test_files_of_this_machine_are_no_images(client: ApiClient) -> None:
    part = {"type": "image_url", "image_url": {"url": "file:///etc/hostname"}}
    message = {
        "id": "msg_1",
        "object": "thread.message",
        "created_at": 1,
        "thread_id": "thread_1",
        "role": "user",
        "content": [part],
    }

    status, _ = await client.refused("POST", "/import", content=to_lines([message]))

    assert status == 400


JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(-2, 1 << 60)
    | strategies.floats(allow_nan=False, allow_infinity=False)
    | strategies.text(max_size=5)
    | strategies.sampled_from(["thread", "auto", "function", "run_1", "code_interpreter"]),
    lambda inner: (
        strategies.lists(inner, max_size=2)
        | strategies.dictionaries(strategies.sampled_from(["type", "text", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where the values in a JSON value are."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        items: Any = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in items:
            found += places(one, (*path, key))
    return found


@hypothesis.settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    database=None,
    derandomize=True,
)
@hypothesis.given(data=strategies.data())
def test_whatever_is_imported_can_be_read_in_both_versions(data: strategies.DataObject) -> None:
    item = data.draw(strategies.sampled_from(SAVED))
    changed = json.loads(json.dumps(item))
    path = data.draw(strategies.sampled_from(places(changed)))
    *way, last = path
    place = changed
    for key in way:
        place = place[key]
    place[last] = data.draw(JSON)

    try:
        [(_, complete)] = read_dump(json.dumps(changed).encode())
    except ApiError as error:
        assert error.status == 400
        return

    for version in ("v1", "v2"):
        to_wire(complete, version)
    assert set(complete) - {"file_ids"} >= set(complete_keys(item)) - {"file_ids"}


def complete_keys(item: dict[str, Any]) -> set[str]:
    """Return the keys of an object's schema in the specification that it must have."""
    names = {
        "assistant": "AssistantObject",
        "thread": "ThreadObject",
        "thread.message": "MessageObject",
        "thread.run": "RunObject",
        "thread.run.step": "RunStepObject",
    }
    return set(answer_schemas()[names[item["object"]]]["required"])


SAVED: Objects = [
    {
        "id": "asst_1",
        "object": "assistant",
        "created_at": 1,
        "model": "m",
        "tools": [{"type": "function", "function": {"name": "f"}}, {"type": "retrieval"}],
        "tool_resources": {"code_interpreter": {"file_ids": ["f"]}},
        "metadata": {"a": "b"},
        "response_format": {"type": "json_object"},
    },
    {"id": "thread_1", "object": "thread", "created_at": 1, "tool_resources": None},
    {
        "id": "msg_1",
        "object": "thread.message",
        "created_at": 1,
        "thread_id": "thread_1",
        "role": "user",
        "content": [
            {
                "type": "text",
                "text": {
                    "value": "x",
                    "annotations": [
                        {
                            "type": "file_citation",
                            "text": "x",
                            "start_index": 0,
                            "end_index": 1,
                            "file_citation": {"file_id": "f", "quote": "q"},
                        }
                    ],
                },
            },
            {"type": "image_url", "image_url": {"url": "https://x.test/"}},
        ],
        "attachments": [{"file_id": "f", "tools": [{"type": "code_interpreter"}]}],
        "file_ids": ["f"],
    },
    {
        "id": "run_1",
        "object": "thread.run",
        "created_at": 1,
        "thread_id": "thread_1",
        "assistant_id": "asst_1",
        "status": "completed",
        "model": "m",
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": "none",
        "truncation_strategy": {"type": "auto"},
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        "file_ids": ["f"],
    },
    {
        "id": "step_1",
        "object": "thread.run.step",
        "created_at": 1,
        "thread_id": "thread_1",
        "run_id": "run_1",
        "assistant_id": "asst_1",
        "type": "tool_calls",
        "status": "completed",
        "step_details": {
            "type": "tool_calls",
            "tool_calls": [
                {"id": "c", "type": "code", "code": {"input": "1", "outputs": []}},
                {"id": "d", "type": "retrieval", "retrieval": {}},
                {"id": "e", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
    },
]
