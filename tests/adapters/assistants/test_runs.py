"""The endpoints of runs and steps: what they take, refuse and show."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from ci_tools_assistants.errors import NoSuchObject
from ci_tools_assistants.objects import Object
from tests.adapters.assistants.contract import streams
from tests.adapters.assistants.puppet import (
    CODE,
    WEATHER,
    Ask,
    Gate,
    Stage,
    open_stage,
    outputs_of,
    path_of,
    run_code,
)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path) as stage:
        yield stage


async def test_a_new_run_has_every_key(stage: Stage) -> None:
    stage.model.plays([Gate()])
    assistant = await stage.new_assistant(CODE, instructions="Be good.", temperature=0.5)
    thread = await stage.new_thread()

    run = await stage.post(f"/threads/{thread['id']}/runs", {"assistant_id": assistant["id"]})

    assert {key: value for key, value in run.items() if not key.endswith(("_at", "id"))} == {
        "object": "thread.run",
        "status": "queued",
        "required_action": None,
        "last_error": None,
        "model": "gpt-4o",
        "instructions": "Be good.",
        "tools": [CODE],
        "metadata": {},
        "temperature": 0.5,
        "top_p": 1.0,
        "max_completion_tokens": None,
        "max_prompt_tokens": None,
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "incomplete_details": None,
        "usage": None,
        "response_format": "auto",
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }
    assert run["thread_id"] == thread["id"]
    assert run["assistant_id"] == assistant["id"]
    for key in ("started_at", "cancelled_at", "failed_at", "completed_at"):
        assert run[key] is None
    await stage.post(path_of(run) + "/cancel")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_prompt_tokens", 255),
        ("max_completion_tokens", 0),
        ("temperature", 2.1),
        ("top_p", -0.1),
        ("tools", [CODE] * 21),
        ("tools", [{"type": "browser"}]),
        ("instructions", "x" * 256_001),
        ("truncation_strategy", {"type": "last_messages"}),
        ("truncation_strategy", {"type": "last_messages", "last_messages": 0}),
        ("truncation_strategy", {"type": "first"}),
        ("tool_choice", "always"),
        ("tool_choice", {"type": "function"}),
        ("tool_choice", {"type": "function", "function": {"name": "unknown"}}),
        ("tool_choice", {"type": "code_interpreter"}),
        ("tool_choice", {"type": "file_search"}),
        ("tool_choice", "required"),
        ("response_format", "json"),
        ("response_format", {"type": "json_schema"}),
        ("parallel_tool_calls", "yes"),
        ("reasoning_effort", "enormous"),
        ("metadata", {str(number): "" for number in range(17)}),
        ("additional_messages", [{"role": "system", "content": "x"}]),
        ("assistant", "x"),
        ("model", ""),
    ],
)
async def test_what_a_run_does_not_take_is_refused_by_name(
    stage: Stage, field: str, value: Any
) -> None:
    assistant = await stage.new_assistant()
    thread = await stage.new_thread()
    path = f"/threads/{thread['id']}/runs"

    response = await stage.http.post(path, json={"assistant_id": assistant["id"], field: value})

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(field)
    assert (await stage.get(path))["data"] == []


async def test_null_is_as_good_as_nothing(stage: Stage) -> None:
    run = await stage.new_run(
        CODE,
        **dict.fromkeys(
            (
                "model",
                "instructions",
                "additional_instructions",
                "additional_messages",
                "tools",
                "metadata",
                "temperature",
                "top_p",
                "stream",
                "max_prompt_tokens",
                "max_completion_tokens",
                "truncation_strategy",
                "tool_choice",
                "parallel_tool_calls",
                "response_format",
                "reasoning_effort",
            )
        ),
    )

    assert run["tools"] == [CODE]
    assert run["parallel_tool_calls"] is True
    assert (await stage.ends(run))["status"] == "completed"


async def test_what_there_is_not_is_not_found(stage: Stage) -> None:
    assistant = await stage.new_assistant()
    run = await stage.ends(await stage.new_run())
    other = await stage.new_thread()
    body = {"assistant_id": assistant["id"]}

    texts = [
        await stage.refuse("/threads/thread_x/runs", body, status=404),
        await stage.refuse(f"/threads/{other['id']}/runs", {"assistant_id": "asst_x"}, status=404),
        await stage.refuse("/threads/runs", {"assistant_id": "asst_x"}, status=404),
    ]
    gone = await stage.http.get(f"/threads/{other['id']}/runs/{run['id']}")
    steps = await stage.http.get(f"/threads/{other['id']}/runs/{run['id']}/steps")
    step = await stage.http.get(path_of(run) + "/steps/step_x")

    assert texts == [
        "No thread found with id 'thread_x'.",
        "No assistant found with id 'asst_x'.",
        "No assistant found with id 'asst_x'.",
    ]
    assert gone.json()["error"]["message"] == f"No run found with id '{run['id']}'."
    assert (gone.status_code, steps.status_code, step.status_code) == (404, 404, 404)


async def test_another_principal_sees_nothing_of_a_run(stage: Stage) -> None:
    stage.model.plays([Ask("weather", {})])
    run = await stage.rest(await stage.new_run(WEATHER))
    engine = stage.api.runs

    for attempt in (
        engine.cancel(run["thread_id"], run["id"], principal="eve"),
        engine.submit(run["thread_id"], run["id"], [], principal="eve"),
    ):
        with pytest.raises(NoSuchObject):
            await attempt


async def test_clients_are_told_when_to_ask_again(stage: Stage) -> None:
    gate = Gate()
    stage.model.plays([gate])
    assistant, thread = await stage.new_assistant(), await stage.new_thread()
    created = await stage.http.post(
        f"/threads/{thread['id']}/runs", json={"assistant_id": assistant["id"]}
    )
    active = await stage.http.get(path_of(created.json()))
    gate.opened.set()
    await stage.ends(created.json())
    ended = await stage.http.get(path_of(created.json()))

    assert created.headers["openai-poll-after-ms"] == "100"
    assert active.headers["openai-poll-after-ms"] == "100"
    assert "openai-poll-after-ms" not in ended.headers


async def test_metadata_can_be_changed_while_a_run_is_active(stage: Stage) -> None:
    gate = Gate()
    stage.model.plays(["One", gate])
    run = await stage.new_run()
    with anyio.fail_after(30):
        await gate.reached.wait()

    changed = await stage.post(path_of(run), {"metadata": {"a": "b"}})
    gate.opened.set()
    run = await stage.ends(run)

    assert changed["metadata"] == {"a": "b"}
    assert changed["status"] == "in_progress"
    assert run["metadata"] == {"a": "b"}
    assert run["status"] == "completed"


async def test_runs_and_steps_are_listed_newest_first(stage: Stage) -> None:
    stage.model.plays([run_code("1")], ["One."])
    run = await stage.ends(await stage.new_run(CODE))
    path = f"/threads/{run['thread_id']}/runs"
    second = await stage.ends(await stage.post(path, {"assistant_id": run["assistant_id"]}))

    listed = await stage.get(path)
    steps = await stage.get(path_of(run) + "/steps")
    page = await stage.get(path_of(run) + "/steps", limit=1, after=steps["first_id"])
    include = "step_details.tool_calls[*].file_search.results[*].content"
    one = await stage.get(f"{path_of(run)}/steps/{steps['first_id']}", **{"include[]": include})
    wrong = await stage.http.get(path_of(run) + "/steps", params={"include[]": "everything"})

    assert [item["id"] for item in listed["data"]] == [second["id"], run["id"]]
    assert [step["type"] for step in steps["data"]] == ["message_creation", "tool_calls"]
    assert page["data"] == [steps["data"][1]]
    assert one == steps["data"][0]
    assert wrong.status_code == 400


async def test_a_thread_and_a_run_are_made_at_once(stage: Stage) -> None:
    assistant = await stage.new_assistant(CODE)
    thread = {"messages": [{"role": "user", "content": "Hi"}], "metadata": {"a": "b"}}
    body = {"assistant_id": assistant["id"], "thread": thread}

    run = await stage.ends(await stage.post("/threads/runs", body))
    bare = await stage.ends(await stage.post("/threads/runs", {"assistant_id": assistant["id"]}))
    text = (await stage.http.post("/threads/runs", json={**body, "stream": True})).text

    assert (await stage.get(f"/threads/{run['thread_id']}"))["metadata"] == {"a": "b"}
    assert len(await stage.messages(run)) == 2
    assert bare["status"] == "completed"
    events = streams.parse(text)
    assert streams.check_order(events) == []
    assert events[0][0] == "thread.created"
    assert events[0][1]["metadata"] == {"a": "b"}


async def test_files_of_the_request_are_given_to_the_new_thread(stage: Stage) -> None:
    upload = {"file": ("data.csv", b"1,2")}
    files = [
        (await stage.http.post("/files", data={"purpose": "assistants"}, files=upload)).json()
        for _ in range(2)
    ]
    first, second = ({"code_interpreter": {"file_ids": [file["id"]]}} for file in files)
    assistant = await stage.new_assistant(CODE)

    run = await stage.post(
        "/threads/runs",
        {
            "assistant_id": assistant["id"],
            "thread": {"tool_resources": first},
            "tool_resources": second,
        },
    )

    thread = await stage.get(f"/threads/{run['thread_id']}")
    assert thread["tool_resources"] == {
        "code_interpreter": {"file_ids": [file["id"] for file in files]}
    }


async def test_nothing_is_made_if_the_run_is_refused(stage: Stage) -> None:
    assistant = await stage.new_assistant()
    before = (await stage.get("/threads"))["data"]

    await stage.refuse(
        "/threads/runs", {"assistant_id": assistant["id"], "tool_choice": "required"}
    )

    assert (await stage.get("/threads"))["data"] == before


async def test_outputs_can_be_submitted_as_a_stream(stage: Stage) -> None:
    stage.model.plays([Ask("weather", {})], ["Sunny."])
    run = await stage.rest(await stage.new_run(WEATHER))

    response = await stage.http.post(
        path_of(run) + "/submit_tool_outputs",
        json={"tool_outputs": outputs_of(run), "stream": True},
    )

    events = streams.parse(response.text)
    assert streams.check_order(events) == []
    assert [name for name, _ in events][:3] == [
        "thread.run.step.completed",
        "thread.run.queued",
        "thread.run.in_progress",
    ]
    assert events[-2][0] == "thread.run.completed"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tool_outputs": None},
        {"tool_outputs": [{"output": "x"}]},
        {"tool_outputs": [{"tool_call_id": "call_1", "output": 5}]},
        {"tool_outputs": [], "more": 1},
    ],
)
async def test_outputs_of_a_wrong_shape_are_refused(stage: Stage, body: Object) -> None:
    stage.model.plays([Ask("weather", {})])
    run = await stage.rest(await stage.new_run(WEATHER))

    await stage.refuse(path_of(run) + "/submit_tool_outputs", body)

    assert (await stage.get(path_of(run)))["status"] == "requires_action"


async def test_version_1_sees_its_own_shapes(stage: Stage) -> None:
    v1 = {"openai-beta": "assistants=v1"}
    assistant = await stage.new_assistant(CODE)
    thread = await stage.new_thread()
    path = f"/threads/{thread['id']}/runs"

    response = await stage.http.post(path, json={"assistant_id": assistant["id"]}, headers=v1)
    run = response.json()
    await stage.ends(run)

    assert response.status_code == 200, response.text
    assert run["file_ids"] == []
    assert "file_ids" not in await stage.get(path_of(run))
    refused = await stage.http.post(
        path,
        json={"assistant_id": assistant["id"], "tools": [{"type": "retrieval"}] * 21},
        headers=v1,
    )
    assert refused.status_code == 400
