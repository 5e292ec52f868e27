"""The loop of a run, with a puppet for a model and the fake backend for kernels."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from ci_tools_assistants.objects import Object, now
from ci_tools_assistants.runs.events import Event
from ci_tools_assistants.runs.execution import MALFORMED_TURNS
from ci_tools_assistants.runs.running import ActiveRun
from tests.adapters.assistants.contract.streams import check_order
from tests.adapters.assistants.puppet import (
    CODE,
    RATE_LIMITED,
    WEATHER,
    Ask,
    End,
    Gate,
    Refuse,
    Stage,
    open_stage,
    outputs_of,
    path_of,
    read_all,
    run_code,
)

MESSAGE = [
    "thread.run.step.created",
    "thread.run.step.in_progress",
    "thread.message.created",
    "thread.message.in_progress",
    "thread.message.delta",
    "thread.message.completed",
    "thread.run.step.completed",
]

BEGIN = ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path) as stage:
        yield stage


async def stream(stage: Stage, *tools: Object, **more: Any) -> tuple[Object, list[Event]]:
    """Run a new assistant in a new thread; return the run as it rests, and its events."""
    assistant = await stage.new_assistant(*tools)
    thread = await stage.new_thread()
    return await stream_in(stage, thread, assistant, **more)


async def stream_in(
    stage: Stage, thread: Object, assistant: Object, **more: Any
) -> tuple[Object, list[Event]]:
    started: list[ActiveRun] = []
    start = stage.api.runs.work_on

    def note(*arguments: Any, **options: Any) -> ActiveRun:
        active = start(*arguments, **options)
        readers.append(active.feed.subscribe())
        started.append(active)
        return active

    readers: list[Any] = []
    stage.api.runs.work_on = note  # type: ignore[method-assign]
    try:
        run = await stage.post(
            f"/threads/{thread['id']}/runs", {"assistant_id": assistant["id"], **more}
        )
    finally:
        stage.api.runs.work_on = start  # type: ignore[method-assign]
    events = await read_all(readers[0])
    run = await stage.rest(run)
    wire = [(event.name, event.data) for event in events]
    assert check_order([*wire, ("done", "[DONE]")]) == []
    return run, events


def names_of(events: Sequence[Event]) -> list[str]:
    """Return the names of events, several deltas in a row as one."""
    names: list[str] = []
    for event in events:
        if not (event.name.endswith(".delta") and names[-1:] == [event.name]):
            names.append(event.name)
    return names


async def test_an_answer_comes_in_the_canonical_order(stage: Stage) -> None:
    stage.model.plays(["Hello", " world"])

    run, events = await stream(stage)

    assert names_of(events) == [*BEGIN, *MESSAGE, "thread.run.completed"]
    assert run["status"] == "completed"
    assert run["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    [step] = await stage.steps(run)
    assert step["usage"] == run["usage"]
    message = (await stage.messages(run))[-1]
    assert message["content"] == [
        {"type": "text", "text": {"value": "Hello world", "annotations": []}}
    ]
    assert message["run_id"] == run["id"]
    assert step["step_details"]["message_creation"] == {"message_id": message["id"]}


async def test_what_is_streamed_last_is_what_is_stored(stage: Stage) -> None:
    stage.model.plays(["See: ", run_code("print(1)")], ["It is 1."])

    run, events = await stream(stage, CODE)

    last = {event.data["id"]: event.data for event in events if "delta" not in event.name}
    for item in [*await stage.steps(run), *(await stage.messages(run))[1:], run]:
        sent = {key: value for key, value in last[item["id"]].items() if key != "file_ids"}
        assert sent == item


async def test_code_runs_between_messages(stage: Stage) -> None:
    stage.model.plays(["I compute.", run_code("print(6 * 7)")], ["It is 42."])

    run, events = await stream(stage, CODE)

    tool = [
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.run.step.delta",
        "thread.run.step.completed",
    ]
    assert names_of(events) == [*BEGIN, *MESSAGE, *tool, *MESSAGE, "thread.run.completed"]
    steps = await stage.steps(run)
    assert [step["type"] for step in steps] == ["message_creation", "tool_calls"] + [
        "message_creation"
    ]
    [call] = steps[1]["step_details"]["tool_calls"]
    assert call["code_interpreter"] == {
        "input": "print(6 * 7)",
        "outputs": [{"type": "logs", "logs": "42"}],
    }
    assert run["usage"]["total_tokens"] == 30
    assert sum(step["usage"]["total_tokens"] for step in steps) == 30
    told = stage.model.requests[1].messages
    assert "42" in str(told[-1].content)


async def test_deltas_of_code_and_logs_add_up_to_the_step(stage: Stage) -> None:
    code = "for number in range(3):\n    print(number, 'é\\n')"
    stage.model.plays([run_code(code)], ["Done."])

    run, events = await stream(stage, CODE)

    written, logs = "", ""
    for event in events:
        if event.name == "thread.run.step.delta":
            [call] = event.data["delta"]["step_details"]["tool_calls"]
            written += call["code_interpreter"].get("input", "")
            for output in call["code_interpreter"].get("outputs", []):
                logs += output["logs"]
    made = (await stage.steps(run))[0]["step_details"]["tool_calls"][0]["code_interpreter"]
    assert made["input"] == written == code
    assert [output["logs"] for output in made["outputs"]] == [logs]


async def test_an_error_in_code_goes_back_to_the_model(stage: Stage) -> None:
    stage.model.plays([run_code("1 / 0")], ["That failed."])

    run, _ = await stream(stage, CODE)

    assert run["status"] == "completed"
    assert "ZeroDivisionError" in str(stage.model.requests[1].messages[-1].content)


async def test_a_kernel_that_dies_does_not_end_the_run(stage: Stage) -> None:
    stage.model.plays(
        [run_code("kept = 1")],
        [run_code("import os\nos.kill(os.getpid(), 9)")],
        [run_code("print('alive', 'kept' in globals())")],
        ["Done."],
    )

    run, _ = await stream(stage, CODE)

    assert run["status"] == "completed"
    last = (await stage.steps(run))[2]["step_details"]["tool_calls"][0]["code_interpreter"]
    assert "alive False" in last["outputs"][0]["logs"]
    assert "restarted" in str(stage.model.requests[3].messages[-1].content)


async def test_a_server_that_is_away_does_not_end_the_run(stage: Stage) -> None:
    stage.model.plays([run_code("1 + 1")], ["I could not."])
    backend: Any = stage.api.service._engine.backend
    backend.unavailable = True

    run, _ = await stream(stage, CODE)

    assert run["status"] == "completed"
    assert "away" in str(stage.model.requests[1].messages[-1].content)


async def test_images_come_before_the_text_and_files_are_attached(stage: Stage) -> None:
    code = (
        "from IPython.display import display\n"
        "open('/mnt/data/a.txt', 'w').write('x')\n"
        "display({'image/png': 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
        "DwADhgGAWjR9awAAAABJRU5ErkJggg=='}, raw=True)"
    )
    stage.model.plays([run_code(code)], ["Here: ", "sandbox:/mnt/data/a.txt", " and again"])

    run, events = await stream(stage, CODE)

    message = (await stage.messages(run))[-1]
    image, text = message["content"]
    outputs = (await stage.steps(run))[0]["step_details"]["tool_calls"][0]["code_interpreter"]
    assert image["type"] == "image_file"
    assert [output for output in outputs["outputs"] if output["type"] == "image"] == [
        {"type": "image", "image": {"file_id": image["image_file"]["file_id"]}}
    ]
    [annotation] = text["text"]["annotations"]
    start, end = annotation["start_index"], annotation["end_index"]
    assert text["text"]["value"][start:end] == annotation["text"] == "sandbox:/mnt/data/a.txt"
    assert message["attachments"] == [
        {"file_id": annotation["file_path"]["file_id"], "tools": [CODE]}
    ]
    deltas = [
        part
        for event in events
        if event.name == "thread.message.delta"
        for part in event.data["delta"]["content"]
    ]
    assert [part["index"] for part in deltas] == [0, 1, 1, 1, 1]
    assert deltas[-1]["text"] == {"value": "", "annotations": [{"index": 0, **annotation}]}


async def test_functions_wait_for_their_outputs_and_the_run_goes_on(stage: Stage) -> None:
    stage.model.plays(
        [Ask("weather", {"city": "Paris"}), Ask("weather", {"city": "Rome"})], ["Sunny."]
    )

    run, events = await stream(stage, WEATHER)

    assert names_of(events)[-1] == "thread.run.requires_action"
    assert run["status"] == "requires_action"
    assert run["usage"] is None
    calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == [
        '{"city": "Paris"}',
        '{"city": "Rome"}',
    ]
    [step] = await stage.steps(run)
    assert step["status"] == "in_progress"
    assert step["usage"] is None
    queued = await stage.post(
        path_of(run) + "/submit_tool_outputs", {"tool_outputs": outputs_of(run)[::-1]}
    )
    assert queued["status"] == "queued"
    assert queued["required_action"] is None
    assert queued["expires_at"] == run["expires_at"]
    run = await stage.ends(run)
    assert run["status"] == "completed"
    assert run["usage"]["total_tokens"] == 30
    steps = await stage.steps(run)
    assert [step["usage"]["total_tokens"] for step in steps] == [15, 15]
    assert [call["function"]["output"] for call in steps[0]["step_details"]["tool_calls"]] == [
        "sunny",
        "sunny",
    ]


async def test_code_and_functions_of_one_turn_come_back_together(stage: Stage) -> None:
    stage.model.plays(
        [
            Ask("weather", {"city": "Paris"}),
            run_code("open('/mnt/data/b.txt', 'w').write('x')\nprint('ran')"),
        ],
        ["See sandbox:/mnt/data/b.txt"],
    )

    run, _ = await stream(stage, CODE, WEATHER)

    [call] = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    [step] = await stage.steps(run)
    assert step["step_details"]["tool_calls"][1]["code_interpreter"]["outputs"] == [
        {"type": "logs", "logs": "ran"}
    ]
    await stage.post(path_of(run) + "/submit_tool_outputs", {"tool_outputs": outputs_of(run)})
    run = await stage.ends(run)
    told = [str(message.content) for message in stage.model.requests[1].messages]
    assert any("sunny" in text for text in told)
    assert any("ran" in text for text in told)
    message = (await stage.messages(run))[-1]
    assert [one["file_id"] for one in message["attachments"]] == [
        message["content"][0]["text"]["annotations"][0]["file_path"]["file_id"]
    ]


async def test_tool_outputs_must_be_those_that_are_asked_for(stage: Stage) -> None:
    stage.model.plays([Ask("weather", {}), Ask("weather", {})], ["Sunny."])
    run, _ = await stream(stage, WEATHER)
    path = path_of(run) + "/submit_tool_outputs"
    first, second = outputs_of(run)
    ids = [first["tool_call_id"], second["tool_call_id"]]

    partial = await stage.refuse(path, {"tool_outputs": [first]})
    unknown = await stage.refuse(
        path, {"tool_outputs": [first, {"tool_call_id": "call_x", "output": ""}]}
    )
    await stage.refuse(path, {"tool_outputs": [first, first]})

    assert partial == f"Expected tool outputs for call_ids {ids}, got {ids[:1]}"
    assert unknown == f"Expected tool outputs for call_ids {ids}, got {[ids[0], 'call_x']}"
    await stage.post(path, {"tool_outputs": [{"tool_call_id": ids[0]}, second]})
    run = await stage.ends(run)
    assert await stage.refuse(path, {"tool_outputs": [first, second]}) == (
        'Runs in status "completed" do not accept tool outputs.'
    )
    calls = (await stage.steps(run))[0]["step_details"]["tool_calls"]
    assert [call["function"]["output"] for call in calls] == ["", "sunny"]


async def test_an_answer_that_is_too_long_is_incomplete(stage: Stage) -> None:
    stage.model.plays(["Once upon", End("length")])

    run, events = await stream(stage, max_completion_tokens=256)

    assert stage.model.requests[0].max_tokens == 256
    assert names_of(events)[-3:] == [
        "thread.message.incomplete",
        "thread.run.step.completed",
        "thread.run.incomplete",
    ]
    assert run["incomplete_details"] == {"reason": "max_completion_tokens"}
    message = (await stage.messages(run))[-1]
    assert message["incomplete_details"] == {"reason": "max_tokens"}
    assert message["content"][0]["text"]["value"] == "Once upon"


async def test_calls_that_were_cut_off_are_never_made(stage: Stage) -> None:
    stage.model.plays(
        [run_code("open('/mnt/data/x', 'w')"), Ask("weather", '{"city": "Par'), End("length")]
    )

    run, _ = await stream(stage, CODE, WEATHER)

    assert run["status"] == "incomplete"
    [step] = await stage.steps(run)
    assert step["status"] == "failed"
    assert step["step_details"]["tool_calls"][0]["code_interpreter"]["outputs"] == []
    assert stage.api.service.count_live()[0] == 0


async def test_broken_arguments_go_back_to_the_model_and_then_fail_the_run(stage: Stage) -> None:
    broken = [Ask("weather", '{"city": "Par'), Ask("code_interpreter", '{"code": "print(')]
    stage.model.plays(*[broken] * MALFORMED_TURNS)

    run, _ = await stream(stage, CODE, WEATHER)

    assert run["status"] == "failed"
    assert run["last_error"]["code"] == "server_error"
    first, second = await stage.steps(run)
    assert first["status"] == "completed"
    assert "not a complete JSON" in first["step_details"]["tool_calls"][0]["function"]["output"]
    assert second["status"] == "failed"
    assert stage.api.service.count_live()[0] == 0


async def test_one_turn_with_broken_arguments_is_forgiven(stage: Stage) -> None:
    broken = [Ask("weather", '{"city": "Par')]
    stage.model.plays(broken, [run_code("1")], broken, ["Done."])

    run, _ = await stream(stage, CODE, WEATHER)

    assert run["status"] == "completed"


async def test_a_tool_that_there_is_not_is_answered(stage: Stage) -> None:
    stage.model.plays([Ask("browser", {"url": "x"}), run_code("1")], ["Sorry."])

    run, _ = await stream(stage, WEATHER)

    assert run["status"] == "completed"
    first, second = (await stage.steps(run))[0]["step_details"]["tool_calls"]
    assert first["function"]["output"] == "There is no tool 'browser'."
    assert second["function"]["output"] == "There is no tool 'code_interpreter'."


async def test_rounds_of_tools_are_bounded(tmp_path: Path) -> None:
    async with open_stage(tmp_path, run_rounds=3) as stage:
        stage.model.plays(*[[run_code("1")]] * 10)

        run, _ = await stream(stage, CODE)

        assert run["status"] == "failed"
        assert "3 rounds" in run["last_error"]["message"]
        assert [step["status"] for step in await stage.steps(run)] == ["completed"] * 3 + ["failed"]


async def test_a_forced_tool_is_forced_once(stage: Stage) -> None:
    stage.model.plays([run_code("1")], ["Done."])

    await stream(stage, CODE, tool_choice=CODE)

    assert [request.tool_choice for request in stage.model.requests] == [CODE, "auto"]


async def test_no_tool_stays_no_tool(stage: Stage) -> None:
    stage.model.plays(["Done."])

    await stream(stage, CODE, tool_choice="none")

    assert [request.tool_choice for request in stage.model.requests] == ["none"]


async def test_bounds_on_tokens_hold_across_turns(stage: Stage) -> None:
    stage.model.plays([run_code("1"), End(completion=200)], [run_code("2"), End(completion=60)])

    run, events = await stream(stage, CODE, max_completion_tokens=256)

    assert [request.max_tokens for request in stage.model.requests] == [256, 56]
    assert run["incomplete_details"] == {"reason": "max_completion_tokens"}
    assert run["usage"]["completion_tokens"] == 260
    assert events[-1].name == "thread.run.incomplete"


async def test_a_prompt_over_its_bound_is_not_sent(stage: Stage) -> None:
    stage.model.plays([run_code("1"), End(prompt=900)])

    run, _ = await stream(stage, CODE, max_prompt_tokens=1000)

    assert run["status"] == "incomplete"
    assert run["incomplete_details"] == {"reason": "max_prompt_tokens"}
    assert len(stage.model.requests) == 1


async def test_a_refusal_is_a_message(stage: Stage) -> None:
    stage.model.plays([Refuse("I will"), Refuse(" not.")])

    run, events = await stream(stage)

    assert run["status"] == "completed"
    message = (await stage.messages(run))[-1]
    assert message["content"] == [{"type": "refusal", "refusal": "I will not."}]
    assert names_of(events) == [*BEGIN, *MESSAGE, "thread.run.completed"]


async def test_a_filtered_answer_fails_the_run(stage: Stage) -> None:
    stage.model.plays(["Well", End("content_filter")])

    run, _ = await stream(stage)

    assert run["status"] == "failed"
    message = (await stage.messages(run))[-1]
    assert message["incomplete_details"] == {"reason": "content_filter"}


async def test_metadata_that_a_client_changes_while_a_run_works_stays(stage: Stage) -> None:
    gate = Gate()
    stage.model.plays(["Half", gate, " an answer"])
    run = await stage.new_run()
    reader = stage.active(run).feed.subscribe()
    with anyio.fail_after(30):
        await gate.reached.wait()
    message = (await stage.messages(run))[-1]
    assert message["status"] == "in_progress"
    thread = f"/threads/{run['thread_id']}"
    given = {"metadata": {"a": "b"}}

    for path in (thread, f"{thread}/messages/{message['id']}", path_of(run)):
        await stage.post(path, given)
    gate.opened.set()
    events = await read_all(reader)
    run = await stage.ends(run)
    message = (await stage.messages(run))[-1]

    assert message["content"][0]["text"]["value"] == "Half an answer"
    for item in (run, message, await stage.get(thread)):
        assert item["metadata"] == given["metadata"]
    sent = {event.name: event.data for event in events}
    assert sent["thread.message.completed"] == message
    assert sent["thread.run.completed"]["metadata"] == run["metadata"]


async def test_a_message_that_is_deleted_while_it_is_written_stays_away(stage: Stage) -> None:
    gate = Gate()
    stage.model.plays(["Half", gate, " an answer"])
    run = await stage.new_run()
    with anyio.fail_after(30):
        await gate.reached.wait()
    message = (await stage.messages(run))[-1]

    path = f"/threads/{run['thread_id']}/messages/{message['id']}"
    deleted = await stage.http.delete(path)
    gate.opened.set()
    run = await stage.ends(run)

    assert deleted.json()["deleted"]
    assert run["status"] == "completed"
    assert [one["role"] for one in await stage.messages(run)] == ["user"]


async def test_an_empty_answer_is_an_empty_message(stage: Stage) -> None:
    stage.model.plays([])

    run, events = await stream(stage)

    assert names_of(events) == [*BEGIN, *MESSAGE, "thread.run.completed"]
    message = (await stage.messages(run))[-1]
    assert message["content"] == [{"type": "text", "text": {"value": "", "annotations": []}}]


async def test_an_empty_line_before_a_call_is_no_message(stage: Stage) -> None:
    stage.model.plays(["\n\n", run_code("1")], ["\n\n", "One."])

    run, _ = await stream(stage, CODE)

    assert [step["type"] for step in await stage.steps(run)] == ["tool_calls", "message_creation"]
    message = (await stage.messages(run))[-1]
    assert message["content"][0]["text"]["value"] == "\n\nOne."


async def test_text_after_a_call_is_a_message_of_its_own(stage: Stage) -> None:
    stage.model.plays([run_code("1"), "I also say this."], ["One."])

    run, _ = await stream(stage, CODE)

    assert run["status"] == "completed"
    said = [message["content"][0]["text"]["value"] for message in (await stage.messages(run))[1:]]
    assert said == ["I also say this.", "One."]


@pytest.mark.parametrize("before", [[], ["Half an"]])
async def test_a_model_that_fails_fails_the_run(stage: Stage, before: list[str]) -> None:
    stage.model.plays([*before, RATE_LIMITED])

    run, events = await stream(stage)

    assert run["status"] == "failed"
    assert run["last_error"] == {"code": "rate_limit_exceeded", "message": "Too many requests."}
    assert [event.name for event in events[-2:]] == ["thread.run.failed", "error"]
    assert run["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    for step in await stage.steps(run):
        assert step["status"] == "failed"
        assert step["last_error"] == run["last_error"]
    for message in (await stage.messages(run))[1:]:
        assert message["incomplete_details"] == {"reason": "run_failed"}
        assert message["content"][0]["text"]["value"] == "Half an"


async def test_an_error_of_our_own_is_not_shown(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.model.plays([RuntimeError("secret detail")])

    run, _ = await stream(stage)

    assert run["status"] == "failed"
    assert "secret" not in run["last_error"]["message"]
    assert "secret detail" in caplog.text


async def test_what_a_run_overrides_reaches_the_model(stage: Stage) -> None:
    assistant = await stage.new_assistant(CODE, instructions="Be good.", temperature=0.1)
    thread = await stage.new_thread("Hello")

    run, _ = await stream_in(
        stage,
        thread,
        assistant,
        instructions="Be short.",
        additional_instructions="Be kind.",
        additional_messages=[{"role": "user", "content": "And this?"}],
        tools=[WEATHER],
        temperature=0.7,
        top_p=0.5,
        reasoning_effort="low",
        parallel_tool_calls=False,
        response_format={"type": "json_object"},
        metadata={"a": "b"},
    )

    [request] = stage.model.requests
    assert str(request.messages[0].content) == "Be short.\n\nBe kind."
    assert [str(message.content) for message in request.messages[1:]] == ["Hello", "And this?"]
    assert list(request.tools) == [WEATHER]
    assert (request.temperature, request.top_p, request.reasoning_effort) == (0.7, 0.5, "low")
    assert request.parallel is False
    assert request.response_format == {"type": "json_object"}
    assert run["instructions"] == "Be short.\n\nBe kind."
    assert run["metadata"] == {"a": "b"}


async def test_a_later_run_knows_what_earlier_ones_did(stage: Stage) -> None:
    stage.model.plays([run_code("number = 6 * 7")], ["I have a number."], ["It is 42."])
    assistant = await stage.new_assistant(CODE)
    thread = await stage.new_thread("Make a number")
    await stream_in(stage, thread, assistant)

    more = [{"role": "user", "content": "Which?"}]
    await stream_in(stage, thread, assistant, additional_messages=more)

    told = str(stage.model.requests[-1].messages)
    assert "number = 6 * 7" in told
    assert "I have a number." in told


@pytest.mark.parametrize("asks_again", [True, False])
async def test_a_run_knows_what_code_of_a_failed_one_has_done(
    stage: Stage, asks_again: bool
) -> None:
    stage.model.plays([run_code("number = 6 * 7\nprint('made')")], [RATE_LIMITED])
    assistant = await stage.new_assistant(CODE)
    thread = await stage.new_thread("Make a number")
    failed = await stage.post(f"/threads/{thread['id']}/runs", {"assistant_id": assistant["id"]})
    assert (await stage.ends(failed))["status"] == "failed"

    more = [{"role": "user", "content": "And?"}] if asks_again else []
    await stream_in(stage, thread, assistant, additional_messages=more)

    told = str(stage.model.requests[-1].messages)
    assert "number = 6 * 7" in told
    assert "made" in told


async def test_only_the_last_messages_are_shown_if_so_asked(stage: Stage) -> None:
    assistant = await stage.new_assistant()
    thread = await stage.new_thread("one", "two", "three")

    await stream_in(
        stage,
        thread,
        assistant,
        truncation_strategy={"type": "last_messages", "last_messages": 2},
    )

    [request] = stage.model.requests
    assert [str(message.content) for message in request.messages] == ["two", "three"]


async def test_a_function_may_have_the_name_of_our_tool(stage: Stage) -> None:
    own = {"type": "function", "function": {"name": "code_interpreter", "parameters": {}}}
    stage.model.plays([Ask("code_interpreter", {"x": 1})])

    run, _ = await stream(stage, CODE, own)

    assert run["status"] == "requires_action"
    names = [tool["function"]["name"] for tool in stage.model.requests[0].tools]
    assert names[0] == "code_interpreter"
    assert names[1] != "code_interpreter"


async def test_searching_files_is_said_to_be_missing(stage: Stage) -> None:
    run, _ = await stream(stage, {"type": "file_search"})

    assert run["status"] == "completed"
    assert not stage.model.requests[0].tools
    assert "file_search is not available" in str(stage.model.requests[0].messages[0].content)


async def test_a_run_expires_ten_minutes_after_its_creation(stage: Stage) -> None:
    before = now()

    run = await stage.new_run()

    assert run["status"] == "queued"
    assert before + 600 <= run["expires_at"] <= now() + 600
    assert (await stage.ends(run))["expires_at"] is None
