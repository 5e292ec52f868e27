"""Runs whose process ends while their code runs: what is kept, and how they go on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from ci_tools import SessionService, StepStatus
from ci_tools_assistants.files.records import FileRecords
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.runs import recovery, settling
from ci_tools_assistants.runs import upkeep as run_upkeep
from ci_tools_assistants.runs.feeds import Reader
from ci_tools_assistants.runs.states import move
from ci_tools_assistants.storage.records import Records, Remove, Write
from tests.adapters.assistants.api import V1
from tests.adapters.assistants.desk import SHOW_PIXEL
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

WAIT = "print('started', flush=True)\nimport time\ntime.sleep(60)"

MAKE = f"open('/mnt/data/made.csv', 'a').write('x')\nprint('made')\n{SHOW_PIXEL}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_upkeep, "TICK", 0.05)


async def never(*_: Any, **__: Any) -> Any:
    raise OSError("the process is gone")


def kill(stage: Stage) -> None:
    """Let a process store nothing any more, as if it was gone from here on."""
    stage.api.records.change_run = never  # type: ignore[method-assign]
    stage.api.records.save = never  # type: ignore[method-assign]
    stage.api.records.change_private = never  # type: ignore[method-assign]


def kill_at(stage: Stage, is_moment: Callable[[Write], bool], *, stored: bool) -> anyio.Event:
    """Kill the process when it stores something, before that or (`stored`) after it."""
    save, killed = stage.api.records.save, anyio.Event()

    async def save_until(writes: Sequence[Write | Remove], *, principal: str) -> list[Object]:
        if any(isinstance(write, Write) and is_moment(write) for write in writes):
            if stored:
                await save(writes, principal=principal)
            kill(stage)
            killed.set()
            raise OSError("the process is gone")
        return await save(writes, principal=principal)

    stage.api.records.save = save_until  # type: ignore[method-assign]
    return killed


def begins_code(write: Write) -> bool:
    return recovery.CELLS in (write.private or {})


def ends_calls(write: Write) -> bool:
    item = write.object
    return item.get("type") == "tool_calls" and item["status"] == "completed"


async def until_code_prints(reader: Reader) -> None:
    with reader, anyio.fail_after(30):
        while True:
            for event in await reader.read(patience=25) or ():
                if '"logs"' in json.dumps(event.data):
                    return


async def leave_running(
    folder: Path, *calls: Any, tools: tuple[Object, ...] = (CODE,), killed: bool = True
) -> Object:
    """Return a run whose process has ended while its code ran."""
    async with open_stage(folder) as stage:
        stage.model.plays([*calls])
        run = await stage.new_run(*tools)
        await until_code_prints(stage.active(run).feed.subscribe())
        if killed:
            kill(stage)
        return run


def told(stage: Stage, number: int = 0) -> str:
    """Return the results of tools in a request that the model got."""
    messages = stage.model.requests[number].messages
    return "\n".join(str(message.content) for message in messages if message.type == "tool")


def outputs_in(step: Object, number: int = 0) -> list[Object]:
    found: list[Object] = step["step_details"]["tool_calls"][number]["code_interpreter"]["outputs"]
    return found


@pytest.mark.parametrize("killed", [True, False])
async def test_a_run_goes_on_after_code_that_was_cut_off(tmp_path: Path, killed: bool) -> None:
    run = await leave_running(tmp_path, run_code(WAIT), killed=killed)

    async with open_stage(tmp_path) as stage:
        stage.model.plays(["I know."])
        run = await stage.ends(run)
        steps = await stage.steps(run)
        messages = await stage.messages(run)
        text = told(stage)

    assert run["status"] == "completed"
    assert [step["status"] for step in steps] == ["completed", "completed"]
    [logs] = outputs_in(steps[0])
    assert logs["logs"].startswith("started\n")
    assert logs["logs"].endswith("\n" + recovery.CUT_OFF)
    assert "started" in text
    assert "may have had effects" in text
    assert steps[0]["usage"]["total_tokens"] == 15
    assert run["usage"]["total_tokens"] == 30
    assert messages[-1]["content"][0]["text"]["value"] == "I know."


async def test_files_that_cut_off_code_has_left_can_be_downloaded(tmp_path: Path) -> None:
    code = "open('/mnt/data/left.csv', 'w').write('x')\n" + WAIT
    run = await leave_running(tmp_path, run_code(code))

    async with open_stage(tmp_path) as stage:
        await stage.ends(run)
        [attached] = (await stage.messages(run))[-1]["attachments"]
        file = await stage.get(f"/files/{attached['file_id']}")

    assert (file["filename"], file["purpose"]) == ("left.csv", "assistants_output")


async def test_code_that_ended_in_time_gives_its_results(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage:
        killed = kill_at(stage, ends_calls, stored=False)
        stage.model.plays([run_code(MAKE)])
        run = await stage.new_run(CODE)
        with anyio.fail_after(30):
            await killed.wait()

    async with open_stage(tmp_path) as stage:
        stage.model.plays(["Look."])
        run = await stage.ends(run)
        [step, _] = await stage.steps(run)
        message = (await stage.messages(run))[-1]
        files = (await stage.get("/files", purpose="assistants_output"))["data"]
        [attached] = message["attachments"]
        content = await stage.http.get(f"/files/{attached['file_id']}/content")
        text = told(stage)

    assert run["status"] == "completed"
    logs, image = outputs_in(step)
    assert logs == {"type": "logs", "logs": "made"}
    assert message["content"][0] == {
        "type": "image_file",
        "image_file": {"file_id": image["image"]["file_id"], "detail": "auto"},
    }
    assert content.content == b"x"  # it ran once
    assert "made" in text and "stopped" not in text
    assert len(files) == 2 or len(files) == 3  # an image may have been kept a moment before


async def test_images_that_were_stored_keep_their_files(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage:
        stage.model.plays([run_code(SHOW_PIXEL + WAIT)])
        run = await stage.new_run(CODE)
        active = stage.active(run)
        await until_code_prints(active.feed.subscribe())
        await active.save([])
        [step] = await stage.steps(run)
        [image] = [output for output in outputs_in(step) if output["type"] == "image"]
        kill(stage)

    async with open_stage(tmp_path) as stage:
        run = await stage.ends(run)
        [step, _] = await stage.steps(run)
        first = (await stage.messages(run))[-1]["content"][0]

    assert [output for output in outputs_in(step) if output["type"] == "image"] == [image]
    assert first["image_file"]["file_id"] == image["image"]["file_id"]


async def test_what_was_stored_last_stays_if_the_core_has_less(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage:
        session = await stage.api.service.create_session()
        step = await stage.api.service.run_code(session.id, "print('one')")
        cut = replace(step, status=StepStatus.CANCELLED)
        files = FileRecords(stage.api.service, stage.api.records)
        image = {"type": "image", "image": {"file_id": "file-1"}}
        logs = {"type": "logs", "logs": "one\ntwo"}

        found = await recovery.recover(files, cut, [image, logs])

    assert found.outputs == [
        image,
        {"type": "logs", "logs": f"one\ntwo\n{recovery.CUT_OFF}"},
    ]


async def test_code_that_was_not_begun_is_not_run(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage:
        killed = kill_at(stage, begins_code, stored=True)
        stage.model.plays([run_code(MAKE)])
        run = await stage.new_run(CODE)
        with anyio.fail_after(30):
            await killed.wait()

    async with open_stage(tmp_path) as stage:
        run = await stage.ends(run)
        [step, _] = await stage.steps(run)
        text = told(stage)

    assert run["status"] == "completed"
    assert outputs_in(step) == [{"type": "logs", "logs": recovery.NOT_BEGUN}]
    assert "was not run" in text


async def test_functions_beside_cut_off_code_are_asked_for(tmp_path: Path) -> None:
    run = await leave_running(
        tmp_path, run_code(WAIT), Ask("weather", {"city": "Bern"}), tools=(CODE, WEATHER)
    )

    async with open_stage(tmp_path) as stage:
        with anyio.fail_after(30):
            while run["status"] != "requires_action":
                await anyio.sleep(0.01)
                run = await stage.get(path_of(run))
        await stage.rest(run)
        await stage.post(path_of(run) + "/submit_tool_outputs", {"tool_outputs": outputs_of(run)})
        run = await stage.ends(run)
        text = told(stage)

    assert run["status"] == "completed"
    assert "started" in text and "sunny" in text
    assert run["usage"]["total_tokens"] == 30


@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_a_run_that_ends_meanwhile_keeps_what_its_code_printed(
    tmp_path: Path, end: str
) -> None:
    async with open_stage(tmp_path) as stage:
        stage.model.plays([run_code(WAIT)])
        run = await stage.new_run(CODE)
        await until_code_prints(stage.active(run).feed.subscribe())

        def change(stored: Object) -> Object:
            if end == "cancelled":
                return move(stored, "cancelling", now=now())
            return {**stored, "expires_at": now() - 1}

        await stage.api.records.change_run(run["id"], change, principal="local")
        kill(stage)

    async with open_stage(tmp_path) as stage:
        run = await stage.ends(run)
        [step] = await stage.steps(run)

    assert run["status"] == step["status"] == end
    assert outputs_in(step)[0]["logs"].startswith("started")
    assert run["usage"]["total_tokens"] == step["usage"]["total_tokens"] == 15


async def test_code_whose_end_nobody_knows_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await leave_running(tmp_path, run_code(WAIT))
    wait = SessionService.wait_run_step

    async def wait_in_vain(self: SessionService, step_id: str, **options: Any) -> Any:
        return replace(await wait(self, step_id, **options), status=StepStatus.IN_PROGRESS)

    monkeypatch.setattr(SessionService, "wait_run_step", wait_in_vain)

    async with open_stage(tmp_path) as stage:
        run = await stage.ends(run)
        [step] = await stage.steps(run)

    assert run["status"] == "failed"
    assert run["last_error"] == settling.LOST_CODE
    assert outputs_in(step)[0]["logs"].startswith("started")


async def test_the_last_message_lists_files_of_steps_before_the_process_ended(
    tmp_path: Path,
) -> None:
    async with open_stage(tmp_path) as stage:
        gate = Gate()
        stage.model.plays([run_code(MAKE)], [gate])
        run = await stage.new_run(CODE)
        with anyio.fail_after(30):
            await gate.reached.wait()
        kill(stage)

    async with open_stage(tmp_path) as stage:
        stage.model.plays([run_code("open('/mnt/data/more.csv', 'w').write('y')")], ["Here."])
        run = await stage.ends(run)
        messages = await stage.messages(run)
        path = f"/threads/{run['thread_id']}/messages"
        old = (await stage.http.get(path, headers=V1)).json()["data"][0]
        names = {
            (await stage.get(f"/files/{attached['file_id']}"))["filename"]
            for attached in messages[-1]["attachments"]
        }

    assert names == {"made.csv", "more.csv"}
    assert len(messages[-1]["attachments"]) == 2
    assert old["file_ids"] == [item["file_id"] for item in messages[-1]["attachments"]]
    assert messages[-1]["content"][0]["type"] == "image_file"


async def test_a_resumed_run_asks_as_the_process_before_it_would_have(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage:
        gate = Gate()
        stage.model.plays([run_code(MAKE)], [gate])
        run = await stage.new_run(CODE)
        with anyio.fail_after(30):
            await gate.reached.wait()
        before = told(stage, 1)
        kill(stage)

    async with open_stage(tmp_path) as stage:
        await stage.ends(run)
        text = told(stage)

    assert "made" in text
    assert before.startswith(text)  # which images there were is said behind it


async def leave_speaking(folder: Path, run: Object | None = None, *, killed: bool) -> Object:
    """Return a run, a new one or that one, whose process has ended while its model spoke."""
    async with open_stage(folder) as stage:
        gate = Gate()
        stage.model.plays(["Half", gate])
        run = run or await stage.new_run()
        with anyio.fail_after(30):
            await gate.reached.wait()
        if killed:
            kill(stage)
        return run


async def test_a_run_that_takes_its_processes_along_is_given_up(tmp_path: Path) -> None:
    run = None
    for _ in range(settling.RESUMED_AT_MOST + 1):
        run = await leave_speaking(tmp_path, run, killed=True)
    assert run is not None

    async with open_stage(tmp_path) as stage:
        run = await stage.ends(run)
        messages = await stage.messages(run)

        assert run["status"] == "failed"
        assert run["last_error"] == settling.TOO_OFTEN
        assert messages[-1]["incomplete_details"] == {"reason": "run_failed"}
        assert stage.model.requests == []


async def test_processes_that_end_in_order_are_not_counted(tmp_path: Path) -> None:
    run = await leave_speaking(tmp_path, killed=True)
    for _ in range(settling.RESUMED_AT_MOST + 1):
        run = await leave_speaking(tmp_path, run, killed=False)

    async with open_stage(tmp_path) as stage:
        run = await stage.ends(run)
        private = await stage.api.records.get_private(Kind.RUN, run["id"], principal="local")

    assert run["status"] == "completed"
    assert private[settling.RESUMPTIONS] == 1


async def test_a_run_that_is_deleted_before_it_is_taken_up_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await leave_speaking(tmp_path, killed=True)
    adopt = Records.adopt_run
    taken = anyio.Event()

    async def adopt_and_delete(self: Records, run_id: str, *, lease: str) -> bool:
        adopted = await adopt(self, run_id, lease=lease)
        await self.delete_thread(run["thread_id"], principal="local")
        return adopted

    def forget(message: str, *_: object) -> None:
        if "deleted before" in message:
            taken.set()

    monkeypatch.setattr(Records, "adopt_run", adopt_and_delete)
    monkeypatch.setattr(run_upkeep.logger, "info", forget)

    async with open_stage(tmp_path) as stage:
        with anyio.fail_after(30):
            await taken.wait()
        assert stage.model.requests == []
