"""Runs that are cancelled, expire, lose their process or their thread."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import update

from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.runs import engine as engine_module
from ci_tools_assistants.runs import upkeep as run_upkeep
from ci_tools_assistants.runs.feeds import Reader
from ci_tools_assistants.runs.requests import RunBody, to_run
from ci_tools_assistants.runs.states import move
from ci_tools_assistants.storage.records import Records
from ci_tools_assistants.storage.schema import runs
from tests.adapters.assistants.contract.streams import check_order
from tests.adapters.assistants.puppet import (
    CODE,
    WEATHER,
    Ask,
    Gate,
    Part,
    Stage,
    open_stage,
    outputs_of,
    path_of,
    read_all,
    run_code,
)

WAIT = "import time\nprint('started', flush=True)\ntime.sleep(60)"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path) as stage:
        yield stage


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_upkeep, "TICK", 0.05)


async def cancel(stage: Stage, run: Object) -> Object:
    return await stage.post(path_of(run) + "/cancel")


async def assert_is_free(stage: Stage, run: Object) -> None:
    """A message can be added, and another run completes."""
    stage.model.turns.clear()
    path = f"/threads/{run['thread_id']}"
    await stage.post(path + "/messages", {"role": "user", "content": "Still there?"})
    another = await stage.post(path + "/runs", {"assistant_id": run["assistant_id"]})
    assert (await stage.ends(another))["status"] == "completed"


async def until_code_prints(reader: Reader) -> None:
    with anyio.fail_after(30):
        while True:
            for event in await reader.read(patience=25) or ():
                if '"logs"' in json.dumps(event.data):
                    return


async def test_a_run_is_cancelled_while_the_model_speaks(stage: Stage) -> None:
    gate = Gate()
    stage.model.plays(["Half an", gate, " answer"])
    run = await stage.new_run()
    reader = stage.active(run).feed.subscribe()
    with anyio.fail_after(30):
        await gate.reached.wait()

    answer = await cancel(stage, run)
    events = await read_all(reader)
    run = await stage.rest(run)

    assert answer["status"] == "cancelling"
    assert stage.model.is_cancelled
    assert [event.name for event in events[-4:]] == [
        "thread.run.cancelling",
        "thread.message.incomplete",
        "thread.run.step.cancelled",
        "thread.run.cancelled",
    ]
    assert check_order([*((event.name, event.data) for event in events), ("done", "")]) == []
    assert run["status"] == "cancelled"
    assert run["cancelled_at"] is not None
    message = (await stage.messages(run))[-1]
    assert message["incomplete_details"] == {"reason": "run_cancelled"}
    assert message["content"][0]["text"]["value"] == "Half an"
    await assert_is_free(stage, run)


async def test_cancelling_interrupts_the_running_cell(stage: Stage) -> None:
    stage.model.plays([run_code("kept = 1"), run_code(WAIT)])
    run = await stage.new_run(CODE)
    reader = stage.active(run).feed.subscribe()
    await until_code_prints(reader)

    await cancel(stage, run)
    with anyio.fail_after(30):
        run = await stage.rest(run)

    assert run["status"] == "cancelled"
    [step] = await stage.steps(run)
    assert step["status"] == "cancelled"
    first, second = step["step_details"]["tool_calls"]
    assert second["code_interpreter"]["outputs"][0]["logs"].startswith("started")
    stage.model.plays([run_code("print(kept)")])
    await assert_is_free(stage, run)


async def test_a_run_that_waits_for_outputs_is_cancelled(stage: Stage) -> None:
    stage.model.plays([Ask("weather", {})])
    run = await stage.rest(await stage.new_run(WEATHER))
    assert run["status"] == "requires_action"

    answer = await cancel(stage, run)
    outputs = outputs_of(run)
    run = await stage.ends(run)

    assert answer["status"] == "cancelling"
    assert run["status"] == "cancelled"
    assert run["usage"]["total_tokens"] == 15
    [step] = await stage.steps(run)
    assert step["status"] == "cancelled"
    assert step["usage"]["total_tokens"] == 15
    refusal = await stage.refuse(path_of(run) + "/submit_tool_outputs", {"tool_outputs": outputs})
    assert refusal == 'Runs in status "cancelled" do not accept tool outputs.'
    await assert_is_free(stage, run)


async def test_a_queued_run_is_cancelled_before_it_begins(stage: Stage) -> None:
    assistant = await stage.new_assistant()
    thread = await stage.new_thread()
    run = new_record(assistant, thread)
    active = await stage.api.runs.start(run, principal="local")

    # Nothing was awaited: its task has not begun yet.
    await stage.api.runs.cancel(thread["id"], run["id"], principal="local")
    run = await stage.rest(run)

    assert run["status"] == "cancelled"
    assert active.done.is_set()
    await assert_is_free(stage, run)


async def test_only_active_runs_can_be_cancelled(stage: Stage) -> None:
    run = await stage.ends(await stage.new_run())

    refusal = await stage.refuse(path_of(run) + "/cancel")
    await stage.refuse(f"/threads/thread_x/runs/{run['id']}/cancel", status=404)

    assert refusal == "Cannot cancel run with status 'completed'."


class Nth:
    """Does something before the n-th call of the record store."""

    def __init__(self, records: Records, number: int, act: Callable[[], Awaitable[object]]) -> None:
        self.is_done = False
        self._records = records
        self._left = number
        self._act = act

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._records, name)

        async def counted(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self.is_done = True
                await self._act()
            return await call(*arguments, **options)

        return counted


async def test_a_run_can_be_cancelled_at_every_await(stage: Stage) -> None:
    """Whatever the run is about to do, it ends cancelled or completed, and leaves nothing open."""
    assistant = await stage.new_assistant(CODE)
    engine, records = stage.api.runs, stage.api.records
    ends: set[tuple[bool, str]] = set()
    number, was_cancelled = 0, True
    while was_cancelled:
        number += 1
        stage.model.turns = [["x", run_code("print(1)")], ["End"]]
        thread = await stage.new_thread()
        run = new_record(assistant, thread)
        nth = Nth(
            records,
            number,
            partial(engine.cancel, thread["id"], run["id"], principal="local"),
        )
        await engine.start(run, principal="local")
        active = stage.active(run)
        engine._records = active._records = nth  # type: ignore[assignment]
        with anyio.fail_after(60):
            await active.done.wait()
        engine._records = records
        run = await stage.ends(run)
        was_cancelled = nth.is_done
        ends.add((was_cancelled, run["status"]))
        assert all(step["status"] != "in_progress" for step in await stage.steps(run))
        assert all(one["status"] != "in_progress" for one in await stage.messages(run))

    assert number > 8
    # An end that is being stored already is not taken back.
    assert ends == {(True, "cancelled"), (True, "completed"), (False, "completed")}


async def test_a_model_turn_can_be_cancelled_at_every_piece(stage: Stage) -> None:
    parts: list[Part] = ["One", " two", run_code("1"), Ask("weather", {"city": "x"}), "late"]
    for number in range(len(parts) + 1):
        gate = Gate()
        stage.model.turns = [[*parts[:number], gate, *parts[number:]]]
        run = await stage.new_run(CODE, WEATHER)
        with anyio.fail_after(30):
            await gate.reached.wait()

        await cancel(stage, run)
        run = await stage.rest(run)

        assert run["status"] == "cancelled"
        assert all(step["status"] != "in_progress" for step in await stage.steps(run))
        assert all(one["status"] != "in_progress" for one in await stage.messages(run))


async def test_a_run_that_takes_too_long_expires(tmp_path: Path) -> None:
    async with open_stage(tmp_path, run_lifetime=1) as stage:
        stage.model.plays(["Half", Gate()])
        run = await stage.new_run()

        run = await stage.ends(run)

        assert run["status"] == "expired"
        message = (await stage.messages(run))[-1]
        assert message["incomplete_details"] == {"reason": "run_expired"}
        [step] = await stage.steps(run)
        assert step["status"] == "expired"
        await assert_is_free(stage, run)


async def test_a_run_that_waits_too_long_for_outputs_expires(tmp_path: Path) -> None:
    async with open_stage(tmp_path, run_lifetime=1) as stage:
        stage.model.plays([Ask("weather", {})])
        run = await stage.rest(await stage.new_run(WEATHER))
        outputs = outputs_of(run)

        run = await stage.ends(run)

        assert run["status"] == "expired"
        [step] = await stage.steps(run)
        assert step["status"] == "expired"
        assert step["expired_at"] is not None
        path = path_of(run) + "/submit_tool_outputs"
        assert await stage.refuse(path, {"tool_outputs": outputs}) == (
            'Runs in status "expired" do not accept tool outputs.'
        )
        await assert_is_free(stage, run)


async def test_outputs_that_come_after_the_time_are_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_upkeep, "TICK", 60)
    stage.model.plays([Ask("weather", {})])
    run = await stage.rest(await stage.new_run(WEATHER))
    await change_stored(stage, run, expires_at=now() - 1)

    refusal = await stage.refuse(
        path_of(run) + "/submit_tool_outputs", {"tool_outputs": outputs_of(run)}
    )

    assert refusal == 'Runs in status "expired" do not accept tool outputs.'


async def test_a_thread_is_locked_while_its_run_is_active(stage: Stage) -> None:
    gate = Gate()
    stage.model.plays([gate, "Done."])
    run = await stage.new_run()
    thread = f"/threads/{run['thread_id']}"

    message = await stage.refuse(thread + "/messages", {"role": "user", "content": "x"})
    second = await stage.refuse(thread + "/runs", {"assistant_id": run["assistant_id"]})

    assert message == (
        f"Can't add messages to {run['thread_id']} while a run {run['id']} is active."
    )
    assert second == f"Thread {run['thread_id']} already has an active run {run['id']}."
    gate.opened.set()
    run = await stage.ends(run)
    await assert_is_free(stage, run)


async def test_with_a_queue_messages_and_runs_wait_for_their_turn(tmp_path: Path) -> None:
    async with open_stage(tmp_path, thread_queue_time=30) as stage:
        gate = Gate()
        stage.model.plays([gate, "First."], ["Second."])
        run = await stage.new_run()
        thread = f"/threads/{run['thread_id']}"
        order: list[str] = []

        async def add_message() -> None:
            await stage.post(thread + "/messages", {"role": "user", "content": "More"})
            order.append("message")

        async def start_run() -> None:
            second = await stage.post(thread + "/runs", {"assistant_id": run["assistant_id"]})
            order.append("run")
            await stage.ends(second)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(add_message)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(start_run)
                await anyio.wait_all_tasks_blocked()
                assert order == []
                gate.opened.set()

        assert order == ["message", "run"]
        said = [one["content"][0]["text"]["value"] for one in await stage.messages(run)]
        assert said == ["Hello", "First.", "More", "Second."]


async def test_who_waits_too_long_in_the_queue_is_refused(tmp_path: Path) -> None:
    async with open_stage(tmp_path, thread_queue_time=0.2) as stage:
        stage.model.plays([Gate()])
        run = await stage.new_run()

        refusal = await stage.refuse(
            f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "x"}
        )

        assert "while a run" in refusal
        await cancel(stage, run)


async def test_deleting_a_thread_stops_its_run(stage: Stage) -> None:
    gate = Gate()
    stage.model.plays(["Half", gate])
    run = await stage.new_run()
    with anyio.fail_after(30):
        await gate.reached.wait()

    response = await stage.http.delete(f"/threads/{run['thread_id']}")

    assert response.status_code == 200
    assert stage.model.is_cancelled
    assert stage.api.runs.find_active(run["id"]) is None


async def test_an_end_that_cannot_be_stored_is_stored_later(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "RETRY_WAIT", 0.01)
    gate = Gate()
    stage.model.plays(["Half", gate])
    run = await stage.new_run()
    with anyio.fail_after(30):
        await gate.reached.wait()
    change_run, failures = stage.api.records.change_run, 3

    async def fail(*arguments: Any, **options: Any) -> Object:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("disk full")
        return await change_run(*arguments, **options)

    monkeypatch.setattr(stage.api.records, "change_run", fail)
    gate.opened.set()
    run = await stage.ends(run)

    assert run["status"] == "failed"
    assert "cannot be stored yet" in caplog.text
    await assert_is_free(stage, run)


async def test_an_end_that_fails_unexpectedly_does_not_lock_the_thread(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    stage.model.plays(["Half", gate])
    run = await stage.new_run()
    with anyio.fail_after(30):
        await gate.reached.wait()
    change_run, failures = stage.api.records.change_run, 2

    async def fail(*arguments: Any, **options: Any) -> Object:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise RuntimeError("a mistake")
        return await change_run(*arguments, **options)

    monkeypatch.setattr(stage.api.records, "change_run", fail)
    gate.opened.set()
    run = await stage.ends(run)

    assert run["status"] == "failed"
    assert "a mistake" in caplog.text
    assert [step["status"] for step in await stage.steps(run)] == ["failed"]
    await assert_is_free(stage, run)


async def test_the_run_goes_on_when_its_readers_leave(stage: Stage) -> None:
    gate = Gate()
    stage.model.plays(["One", gate, "Two"])
    run = await stage.new_run()
    with stage.active(run).feed.subscribe() as reader:
        await reader.read(patience=5)
    gate.opened.set()

    assert (await stage.ends(run))["status"] == "completed"


async def test_two_hundred_threads_run_at_once(stage: Stage) -> None:
    assistant = await stage.new_assistant(CODE)
    stage.model.script = lambda request: (
        [run_code("print(6 * 7)")] if str(request.messages[-1].content).endswith("0") else ["42"]
    )
    finished: list[str] = []

    async def run_one(number: int) -> None:
        thread = await stage.new_thread(f"Number {number}")
        path = f"/threads/{thread['id']}/runs"
        response = await stage.http.post(
            path, json={"assistant_id": assistant["id"], "stream": True}
        )
        assert response.text.endswith("event: done\ndata: [DONE]\n\n")
        [run] = (await stage.get(path))["data"]
        assert (await stage.messages(run))[-1]["content"][0]["text"]["value"] == "42"
        finished.append(run["status"])

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(run_one, number)

    assert finished == ["completed"] * 200
    assert stage.api.runs.count_active() == 0


# Processes that end


async def leave(
    folder: Path, *turn: Any, tools: tuple[Object, ...] = (), cancelled: bool = False
) -> Object:
    """Return a run in the state in which a process that was killed has left it."""
    async with open_stage(folder) as stage:
        gate = Gate()
        stage.model.plays([*turn, gate])
        run = await stage.new_run(*tools)
        with anyio.fail_after(30):
            await gate.reached.wait()
        if cancelled:
            await stage.api.records.change_run(
                run["id"], lambda stored: move(stored, "cancelling", now=now()), principal="local"
            )
        # As if the process was gone from here on: it stores nothing any more.
        stage.api.records.change_run = never  # type: ignore[method-assign]
        stage.api.records.save = never  # type: ignore[method-assign]
        return run


async def never(*_: Any, **__: Any) -> Any:
    raise OSError("the process is gone")


async def test_a_run_between_turns_is_resumed_by_the_next_process(tmp_path: Path) -> None:
    run = await leave(tmp_path, "Half an answer")

    async with open_stage(tmp_path) as stage:
        stage.model.plays(["A whole answer"])
        run = await stage.ends(run)

        assert run["status"] == "completed"
        assert [one["content"][0]["text"]["value"] for one in await stage.messages(run)] == [
            "Hello",
            "A whole answer",
        ]
        assert [step["status"] for step in await stage.steps(run)] == ["completed"]
        await assert_is_free(stage, run)


async def test_code_that_was_not_begun_may_be_written_again(tmp_path: Path) -> None:
    run = await leave(tmp_path, Ask("code_interpreter", ""), tools=(CODE,))

    async with open_stage(tmp_path) as stage:
        stage.model.plays([run_code("print('once')")], ["Done."])
        run = await stage.ends(run)

        assert run["status"] == "completed"
        assert len(await stage.steps(run)) == 2


async def test_a_run_that_waits_for_outputs_survives_the_process(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage:
        stage.model.plays([run_code("print('ran')"), Ask("weather", {})])
        run = await stage.rest(await stage.new_run(CODE, WEATHER))

    async with open_stage(tmp_path) as stage:
        assert await stage.get(path_of(run)) == run
        stage.model.plays(["Sunny."])
        await stage.post(path_of(run) + "/submit_tool_outputs", {"tool_outputs": outputs_of(run)})
        run = await stage.ends(run)

        assert run["status"] == "completed"
        assert run["usage"]["total_tokens"] == 30
        told = [str(message.content) for message in stage.model.requests[0].messages]
        assert any("ran" in text for text in told)


async def test_a_run_expires_while_no_process_is_there(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage:
        stage.model.plays([Ask("weather", {})])
        run = await stage.rest(await stage.new_run(WEATHER))
        await change_stored(stage, run, expires_at=now() - 1)

    async with open_stage(tmp_path) as stage:
        run = await stage.ends(run)

        assert run["status"] == "expired"
        [step] = await stage.steps(run)
        assert step["status"] == "expired"


async def test_an_orphan_that_was_to_be_cancelled_is(tmp_path: Path) -> None:
    run = await leave(tmp_path, "Half", cancelled=True)

    async with open_stage(tmp_path) as stage:
        run = await stage.ends(run)

        assert run["status"] == "cancelled"
        message = (await stage.messages(run))[-1]
        assert message["incomplete_details"] == {"reason": "run_cancelled"}
        assert [step["status"] for step in await stage.steps(run)] == ["cancelled"]


async def test_closing_the_service_leaves_a_run_that_can_go_on(tmp_path: Path) -> None:
    gate = Gate()
    async with open_stage(tmp_path) as stage:
        stage.model.plays(["Half", gate])
        run = await stage.new_run()
        reader = stage.active(run).feed.subscribe()
        with anyio.fail_after(30):
            await gate.reached.wait()

    events = await read_all(reader)
    assert events[-1].name == "error"
    async with open_stage(tmp_path) as stage:
        assert (await stage.ends(run))["status"] == "completed"


async def test_another_process_can_cancel_a_run(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage, open_stage(tmp_path) as other:
        stage.model.plays(["Half", Gate()])
        run = await stage.new_run()
        with anyio.fail_after(30):
            while not await stage.steps(run):
                await anyio.sleep(0.01)

        answer = await cancel(other, run)

        assert answer["status"] == "cancelling"
        assert (await stage.ends(run))["status"] == "cancelled"
        assert stage.model.is_cancelled


async def test_another_process_can_delete_the_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_stage(tmp_path) as stage, open_stage(tmp_path) as other:
        gate = Gate()
        stage.model.plays(["Half", gate, run_code("1")])
        run = await stage.new_run(CODE)
        active = stage.active(run)
        with anyio.fail_after(30):
            await gate.reached.wait()

        response = await other.http.delete(f"/threads/{run['thread_id']}")
        gate.opened.set()
        with anyio.fail_after(30):
            await active.done.wait()

        assert response.status_code == 200
        assert stage.api.runs.count_active() == 0
        assert not [record for record in caplog.records if record.exc_info]


async def test_another_process_can_take_the_outputs(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage, open_stage(tmp_path) as other:
        stage.model.plays([Ask("weather", {})])
        run = await stage.rest(await stage.new_run(WEATHER))
        other.model.plays(["Sunny."])

        await other.post(path_of(run) + "/submit_tool_outputs", {"tool_outputs": outputs_of(run)})

        assert (await other.ends(run))["status"] == "completed"


def new_record(assistant: Object, thread: Object) -> Object:
    body = RunBody(assistant_id=assistant["id"])
    return to_run(body, assistant, thread_id=thread["id"], lifetime=600, now=now())


async def change_stored(stage: Stage, run: Object, **fields: Any) -> None:
    changed = {**run, **fields}
    await stage.api.records.change(Kind.RUN, run["id"], lambda _: changed, principal="local")
    await stage.api.records.write(
        lambda conn: conn.execute(
            update(runs).where(runs.c.id == run["id"]).values(expires_at=changed["expires_at"])
        )
    )
