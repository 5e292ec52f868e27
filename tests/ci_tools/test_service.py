from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import anyio
import pytest

import ci_tools
from ci_tools import (
    DisplayOutput,
    ErrorOutput,
    FileTooLargeError,
    InvalidArgumentError,
    InvalidPathError,
    LimitError,
    NotFoundError,
    ServiceClosedError,
    SessionService,
    Settings,
    StepDisplayUpdated,
    StepFinished,
    StepOutput,
    StepQueued,
    StepStarted,
    StepStatus,
    StreamOutput,
    open_service,
)
from ci_tools.models import new_id
from ci_tools.testing import FakeBackend

FOREVER = "import time\nprint('started', flush=True)\nwhile True: time.sleep(0.01)"


async def _started(service: SessionService, session_id: str, code: str = FOREVER) -> str:
    """Submit code that prints and wait until it has printed."""
    step = await service.submit_code(session_id, code)
    async with service.watch_run_step(step.id) as events:
        async for event in events:
            if isinstance(event, StepOutput | StepFinished):
                break
    return step.id


def test_public_names_are_exactly_what_is_exported() -> None:
    assert all(hasattr(ci_tools, name) for name in ci_tools.__all__)  # some load only now
    assert set(ci_tools.__all__) <= set(dir(ci_tools))
    public = {
        name
        for name, value in vars(ci_tools).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }

    assert set(ci_tools.__all__) == public


async def test_variables_live_between_steps(service: SessionService) -> None:
    session = await service.create_session(name="numbers")

    await service.run_code(session.id, "x = 20 + 1")
    step = await service.run_code(session.id, "print('hello'); x * 2")

    assert step.status is StepStatus.COMPLETED
    assert step.outputs == (
        StreamOutput(name="stdout", text="hello\n"),
        DisplayOutput(kind="result", data={"text/plain": "42"}, execution_count=2),
    )
    assert (step.epoch, step.execution_count, step.error, step.notices) == (1, 2, None, ())
    assert step.created_at <= (step.started_at or 0) <= (step.finished_at or 0)
    assert await service.get_run_step(step.id) == step


async def test_code_that_raises_is_a_failed_step_with_its_traceback(
    service: SessionService,
) -> None:
    session = await service.create_session()

    step = await service.run_code(session.id, "print('before')\n1/0")

    assert step.status is StepStatus.FAILED
    assert step.error is not None
    assert step.error.code == "code_error"
    assert step.error.message == "ZeroDivisionError: division by zero"
    assert isinstance(step.outputs[1], ErrorOutput)
    assert "ZeroDivisionError" in step.outputs[1].traceback


async def test_steps_of_a_session_run_one_after_another_in_order(service: SessionService) -> None:
    session = await service.create_session()

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            await service.submit_code(session.id, f"seen = [*globals().get('seen', []), {number}]")
        tasks.start_soon(service.run_code, session.id, "pass")
    step = await service.run_code(session.id, "seen")

    assert step.outputs == (
        DisplayOutput(kind="result", data={"text/plain": "[0, 1, 2, 3, 4]"}, execution_count=7),
    )


async def test_stream_tells_queued_started_output_and_finished(service: SessionService) -> None:
    session = await service.create_session()
    first = await _started(service, session.id)
    kinds = []

    with anyio.fail_after(10):
        async with service.stream_code(session.id, "print('x')") as events:
            await service.cancel_run_step(first)
            async for event in events:
                kinds.append(type(event))

    assert kinds == [StepQueued, StepStarted, StepOutput, StepFinished]


async def test_leaving_a_stream_early_cancels_the_step_and_keeps_the_variables(
    service: SessionService,
) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "kept = 'kept'")

    with anyio.fail_after(10):
        async with service.stream_code(session.id, FOREVER) as events:
            async for event in events:
                if isinstance(event, StepOutput):
                    break

    [cancelled, _] = await service.list_run_steps(session.id)
    assert cancelled.status is StepStatus.CANCELLED
    assert cancelled.outputs[0] == StreamOutput(name="stdout", text="started\n")
    step = await service.run_code(session.id, "kept")
    assert step.outputs[0] == DisplayOutput(
        kind="result", data={"text/plain": "'kept'"}, execution_count=3
    )


async def test_cancelling_the_caller_of_run_code_cancels_the_step(service: SessionService) -> None:
    session = await service.create_session()

    with anyio.fail_after(10):
        with anyio.move_on_after(0.5):
            await service.run_code(session.id, FOREVER)

    [step] = await service.list_run_steps(session.id)
    assert step.status is StepStatus.CANCELLED


async def test_step_past_its_limit_is_expired_and_the_next_one_runs(
    service: SessionService,
) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "kept = 1")

    with anyio.fail_after(10):
        expired = await service.run_code(session.id, FOREVER, timeout=0.3)
        after = await service.run_code(session.id, "print(kept)")

    assert expired.status is StepStatus.EXPIRED
    assert expired.error is not None
    assert expired.error.code == "timeout"
    assert after.status is StepStatus.COMPLETED
    assert after.outputs == (StreamOutput(name="stdout", text="1\n"),)
    assert after.epoch == 1


async def test_code_that_ignores_the_interrupt_loses_its_kernel_and_says_so(
    service: SessionService,
) -> None:
    session = await service.create_session()
    stubborn = (
        "import time\nwhile True:\n  try:\n    time.sleep(1)\n  except KeyboardInterrupt:\n    pass"
    )

    with anyio.fail_after(20):
        expired = await service.run_code(session.id, stubborn, timeout=0.3)
        after = await service.run_code(session.id, "1")

    assert expired.status is StepStatus.EXPIRED
    assert expired.error is not None
    assert "Variables are lost" in expired.error.message
    assert after.epoch == 2
    assert after.notices == (
        "Kernel restarted (it did not stop when interrupted): variables lost, files kept.",
    )


async def test_kernel_that_ends_itself_fails_the_step_and_the_next_one_says_so_once(
    service: SessionService,
) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "open('kept.txt', 'w').write('kept')")

    with anyio.fail_after(10):
        died = await service.run_code(session.id, "import os; os._exit(3)")
        after = await service.run_code(session.id, "print(open('kept.txt').read())")
        later = await service.run_code(session.id, "1")

    assert died.status is StepStatus.FAILED
    assert died.error is not None
    assert died.error.code == "kernel_died"
    assert after.notices == ("Kernel restarted (it died): variables lost, files kept.",)
    assert after.outputs == (StreamOutput(name="stdout", text="kept\n"),)
    assert (after.epoch, later.epoch, later.notices) == (2, 2, ())


async def test_kernel_that_died_between_steps_is_replaced_and_said(
    service: SessionService, backend: FakeBackend
) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "x = 1")
    kernel = (await service.get_session(session.id)).kernel
    assert kernel is not None
    backend.kill_kernel(kernel)

    step = await service.run_code(session.id, "2")

    assert step.status is StepStatus.COMPLETED
    assert step.epoch == 2
    assert "variables lost, files kept" in step.notices[0]


async def test_cancelled_queued_step_never_runs(service: SessionService) -> None:
    session = await service.create_session()
    first = await _started(service, session.id)
    queued = await service.submit_code(session.id, "open('ran', 'w')")

    with anyio.fail_after(10):
        cancelled = await service.cancel_run_step(queued.id)
        await service.cancel_run_step(first)

    assert cancelled.status is StepStatus.CANCELLED
    assert await service.list_files(session.id) == []


async def test_wait_returns_the_step_as_it_is_and_later_as_it_ended(
    service: SessionService,
) -> None:
    session = await service.create_session()
    step_id = await _started(service, session.id)

    waiting = await service.wait_run_step(step_id, timeout=0.01)
    await service.cancel_run_step(step_id)
    ended = await service.wait_run_step(step_id)

    assert waiting.status is StepStatus.IN_PROGRESS
    assert waiting.outputs == (StreamOutput(name="stdout", text="started\n"),)
    assert ended.status is StepStatus.CANCELLED


async def test_restart_loses_variables_and_keeps_files(service: SessionService) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "x = 1; open('f', 'w').write('f')")

    restarted = await service.restart_session(session.id)
    step = await service.run_code(session.id, "'x' in globals(), open('f').read()")

    assert restarted.replayed == ()
    assert step.epoch == 2
    assert step.notices == ("Kernel restarted (on request): variables lost, files kept.",)
    assert step.outputs[0] == DisplayOutput(
        kind="result", data={"text/plain": "(False, 'f')"}, execution_count=1
    )


async def test_restart_interrupts_what_runs(service: SessionService) -> None:
    session = await service.create_session()
    step_id = await _started(service, session.id)

    with anyio.fail_after(10):
        await service.restart_session(session.id)

    assert (await service.get_run_step(step_id)).status is StepStatus.CANCELLED


async def test_replay_runs_the_completed_steps_again_in_order(service: SessionService) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "x = [1]")
    await service.run_code(session.id, "x.append(undefined)")
    await service.run_code(session.id, "x.append(2)")

    restarted = await service.restart_session(session.id, replay=True)
    step = await service.run_code(session.id, "x")

    assert [again.code for again in restarted.replayed] == ["x = [1]", "x.append(2)"]
    assert step.outputs[0] == DisplayOutput(
        kind="result", data={"text/plain": "[1, 2]"}, execution_count=3
    )


async def test_replay_restores_what_a_lost_kernel_had_and_counts_each_step_once(
    service: SessionService, backend: FakeBackend
) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "x = [1]")
    kernel = (await service.get_session(session.id)).kernel
    assert kernel is not None
    backend.kill_kernel(kernel)
    await service.run_code(session.id, "y = 2")

    first = await service.restart_session(session.id, replay=True)
    second = await service.restart_session(session.id, replay=True)
    step = await service.run_code(session.id, "print(x, y)")

    assert [again.code for again in first.replayed] == ["x = [1]", "y = 2"]
    assert [again.code for again in second.replayed] == ["x = [1]", "y = 2"]
    assert second.replayed[0].replays == first.replayed[0].id
    assert (await service.get_run_step(second.replayed[1].id)).replays == first.replayed[1].id
    assert step.outputs == (StreamOutput(name="stdout", text="[1] 2\n"),)


async def test_changed_files_are_told_with_size_and_hash(service: SessionService) -> None:
    session = await service.create_session()
    await service.upload_file(session.id, "old.txt", b"old")
    await service.upload_file(session.id, "gone.txt", b"gone")

    step = await service.run_code(
        session.id,
        "import os\nos.mkdir('out')\nopen('out/new.txt','w').write('new')\n"
        "open('old.txt','a').write('er')\nos.remove('gone.txt')",
    )
    quiet = await service.run_code(session.id, "1")

    assert [(file.path, file.size, file.change) for file in step.files] == [
        ("old.txt", 5, "changed"),
        ("out/new.txt", 3, "created"),
        ("gone.txt", None, "deleted"),
    ]
    assert step.files[1].sha256 == (
        "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
    )
    assert quiet.files == ()


async def test_mnt_data_is_the_session_folder_in_code_results_and_file_verbs(
    service: SessionService,
) -> None:
    session = await service.create_session()
    await service.upload_file(session.id, "sandbox:/mnt/data/in.txt", b"in")

    step = await service.run_code(
        session.id,
        "import os\nopen('/mnt/data/out.txt', 'w').write(open('/mnt/data/in.txt').read())\n"
        "print(os.getcwd())\nprint(os.path.abspath('out.txt'))\n'/mnt/database'",
    )

    assert step.outputs == (
        StreamOutput(name="stdout", text="/mnt/data\n/mnt/data/out.txt\n"),
        DisplayOutput(kind="result", data={"text/plain": "'/mnt/database'"}, execution_count=1),
    )
    async with service.open_file(session.id, "/mnt/data/out.txt") as chunks:
        assert b"".join([chunk async for chunk in chunks]) == b"in"


async def test_files_are_listed_described_read_replaced_and_deleted(
    service: SessionService,
) -> None:
    session = await service.create_session()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    first = await service.upload_file(session.id, "data/a.csv", chunks())
    second = await service.upload_file(session.id, "data/a.csv", b"three")
    [listed] = await service.list_files(session.id)
    described = await service.stat_file(session.id, "data/a.csv")
    async with service.open_file(session.id, "data/a.csv", offset=1, length=3) as part:
        read = b"".join([chunk async for chunk in part])

    assert first.size == 7
    assert first.id != second.id
    assert (listed.id, listed.path, listed.size, listed.media_type) == (
        second.id,
        "data/a.csv",
        5,
        "text/csv",
    )
    assert described.sha256 == second.sha256
    assert read == b"hre"

    await service.delete_file(session.id, "data/a.csv")

    assert await service.list_files(session.id) == []
    with pytest.raises(NotFoundError):
        await service.stat_file(session.id, "data/a.csv")


async def test_upload_gives_the_session_its_own_copy(
    service: SessionService, settings: Settings
) -> None:
    session = await service.create_session()
    await service.upload_file(session.id, "a.txt", b"original")

    await service.run_code(session.id, "f = open('a.txt', 'r+'); f.write('CHANGED!'); f.close()")

    kept = [path.read_bytes() for path in settings.state_dir.rglob("*") if path.is_file()]
    assert b"original" in kept


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\x00b", "a\\..\\b"])
async def test_bad_names_are_refused(service: SessionService, path: str) -> None:
    session = await service.create_session()

    with pytest.raises(InvalidPathError):
        await service.upload_file(session.id, path, b"x")
    with pytest.raises(InvalidPathError):
        await service.stat_file(session.id, path)


async def test_too_large_upload_is_refused_and_leaves_nothing(
    tmp_path: Path, backend: FakeBackend
) -> None:
    settings = Settings(state_dir=tmp_path / "state", file_limit=10)
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()

        with pytest.raises(FileTooLargeError):
            await service.upload_file(session.id, "big.bin", b"x" * 11)

        assert await service.list_files(session.id) == []
    assert not [path for path in (tmp_path / "state").rglob("*") if path.name == "big.bin"]


async def test_flood_is_cut_in_the_step_and_whole_in_its_full_text(
    tmp_path: Path, backend: FakeBackend
) -> None:
    settings = Settings(state_dir=tmp_path / "state", text_limit=2000)
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()

        step = await service.run_code(session.id, "for i in range(3000): print(i)")
        async with service.open_full_text(step.id) as chunks:
            full = b"".join([chunk async for chunk in chunks])

    [output] = step.outputs
    assert isinstance(output, StreamOutput)
    assert output.text.startswith("0\n1\n2\n")
    assert output.text.endswith("2998\n2999\n")
    assert len(output.text) < 2100
    assert output.omitted == len(full) - 2000
    assert full.decode().split() == [str(number) for number in range(3000)]
    assert step.truncated
    assert "full text is kept" in step.notices[0]
    assert list((tmp_path / "state" / "spool").iterdir()) == []


async def test_code_that_prints_without_end_is_stopped(
    tmp_path: Path, backend: FakeBackend
) -> None:
    settings = Settings(state_dir=tmp_path / "state", text_limit=1000, full_text_limit=100_000)
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()

        with anyio.fail_after(20):
            step = await service.run_code(session.id, "while True: print('x' * 100)")
            after = await service.run_code(session.id, "1")

    assert step.status is StepStatus.FAILED
    assert step.error is not None
    assert step.error.code == "output_limit"
    assert after.status is StepStatus.COMPLETED
    assert after.epoch == 1


async def test_display_updates_and_clears_change_what_is_kept(service: SessionService) -> None:
    session = await service.create_session()

    async with service.stream_code(
        session.id,
        "from IPython.display import clear_output, update_display\n"
        "print('first')\nclear_output(wait=True)\n"
        "display({'text/plain': 'one'}, raw=True, display_id='d')\n"
        "update_display({'text/plain': 'two'}, raw=True, display_id='d')",
    ) as events:
        seen = [event async for event in events]

    assert seen[-2] == StepDisplayUpdated(display_id="d", data={"text/plain": "two"})
    last = seen[-1]
    assert isinstance(last, StepFinished)
    assert last.step.outputs == (
        DisplayOutput(kind="display", data={"text/plain": "two"}, display_id="d"),
    )


async def test_nothing_of_another_principal_is_visible(service: SessionService) -> None:
    ada, bob = service.act_as("ada"), service.act_as("bob")
    session = await ada.create_session()
    step = await ada.run_code(session.id, "open('f', 'w')")

    for call in (
        bob.get_session(session.id),
        bob.run_code(session.id, "1"),
        bob.get_run_step(step.id),
        bob.cancel_run_step(step.id),
        bob.list_run_steps(session.id),
        bob.list_files(session.id),
        bob.stat_file(session.id, "f"),
        bob.upload_file(session.id, "f", b""),
        bob.delete_file(session.id, "f"),
        bob.restart_session(session.id),
        bob.close_session(session.id),
        bob.export_notebook(session.id),
        bob.create_ticket(session.id, "f", "download"),
    ):
        with pytest.raises(NotFoundError):
            await call
    assert await bob.list_sessions() == []
    assert (await ada.list_sessions())[0].id == session.id


async def test_running_step_of_another_principal_is_not_visible(service: SessionService) -> None:
    session = await service.create_session()
    step_id = await _started(service, session.id)

    with pytest.raises(NotFoundError):
        await service.act_as("bob").get_run_step(step_id)
    with pytest.raises(NotFoundError):
        async with service.act_as("bob").watch_run_step(step_id):
            pass

    await service.cancel_run_step(step_id)


async def test_closed_session_is_unknown_and_leaves_nothing(
    service: SessionService, backend: FakeBackend, settings: Settings, tmp_path: Path
) -> None:
    session = await service.create_session()
    await service.upload_file(session.id, "a.txt", b"content of the upload")
    running = await _started(service, session.id)

    with anyio.fail_after(10):
        await service.close_session(session.id)

    with pytest.raises(NotFoundError):
        await service.get_session(session.id)
    with pytest.raises(NotFoundError):
        await service.get_run_step(running)
    assert backend.alive == 0
    assert not (tmp_path / "folders" / session.id).exists()
    assert not [
        path
        for path in settings.state_dir.rglob("*")
        if path.is_file() and path.read_bytes() == b"content of the upload"
    ]


async def test_caps_are_told_with_what_to_do(tmp_path: Path, backend: FakeBackend) -> None:
    settings = Settings(
        state_dir=tmp_path / "state",
        sessions_per_principal=1,
        steps_per_principal=1,
        bytes_per_principal=10,
    )
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        with pytest.raises(LimitError):
            await service.create_session()
        await service.act_as("other").create_session()
        with pytest.raises(LimitError):
            await service.upload_file(session.id, "big.txt", b"x" * 11)
        step_id = await _started(service, session.id)
        with pytest.raises(LimitError):
            await service.submit_code(session.id, "1")

        await service.cancel_run_step(step_id)

        assert (await service.run_code(session.id, "1")).status is StepStatus.COMPLETED


async def test_requests_over_the_rate_are_refused_until_later(
    tmp_path: Path, backend: FakeBackend
) -> None:
    settings = Settings(state_dir=tmp_path / "state", requests_per_minute=3)
    async with open_service(settings, backend=backend) as service:
        service.admit()
        for _ in range(2):
            await service.list_sessions()

        with pytest.raises(LimitError) as refused:
            await service.list_sessions()
        with pytest.raises(LimitError):
            service.admit()

        assert refused.value.retry_after is not None
        assert await service.act_as("other").list_sessions() == []


async def test_warming_up_reaches_the_backend(
    service: SessionService, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed = anyio.Event()

    async def warm_up() -> None:
        warmed.set()

    monkeypatch.setattr(backend, "warm_up", warm_up)

    await service.warm_up()

    assert warmed.is_set()
    assert await service.list_sessions() == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), 1e9])
async def test_bad_timeouts_are_refused(service: SessionService, timeout: float) -> None:
    session = await service.create_session()

    with pytest.raises(InvalidArgumentError):
        await service.run_code(session.id, "1", timeout=timeout)


async def test_unknown_server_and_kernelspec_are_refused_with_a_list(
    service: SessionService,
) -> None:
    with pytest.raises(InvalidArgumentError, match="embedded"):
        await service.create_session(server="nowhere")
    with pytest.raises(InvalidArgumentError, match="python3"):
        await service.create_session(kernelspec="cobol")


async def test_kernel_that_cannot_start_fails_the_step_and_the_session_recovers(
    service: SessionService, backend: FakeBackend
) -> None:
    session = await service.create_session()
    backend.unavailable = True
    failed = await service.run_code(session.id, "1")
    backend.unavailable = False

    step = await service.run_code(session.id, "1")

    assert failed.status is StepStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "start_failed"
    assert step.status is StepStatus.COMPLETED


async def test_step_that_meets_a_warming_kernel_uses_it(
    service: SessionService, backend: FakeBackend
) -> None:
    session = await service.create_session()

    await service.warm_session(session.id)
    step = await service.run_code(session.id, "1")

    assert (step.status, step.epoch, backend.started) == (StepStatus.COMPLETED, 1, 1)


async def test_session_is_found_by_its_name_or_created(service: SessionService) -> None:
    first = await service.find_or_create_session("work")
    again = await service.find_or_create_session("work")
    other = await service.find_or_create_session("play")

    assert first == again
    assert (first.name, other.name) == ("work", "play")
    assert first.id != other.id


async def test_code_submitted_twice_under_one_id_runs_once(service: SessionService) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "runs = 0")
    id = new_id("step_")

    steps = [await service.submit_code(session.id, "runs += 1; runs", step_id=id) for _ in range(2)]
    done = await service.wait_run_step(id)
    late = await service.submit_code(session.id, "runs += 1; runs", step_id=id)

    assert [step.id for step in steps] == [id, id]
    assert done == late
    assert [getattr(output, "data", None) for output in done.outputs] == [{"text/plain": "1"}]
    for refused in ("step_short", "step_" + "é" * 24, "file-" + "a" * 24):
        with pytest.raises(InvalidArgumentError):
            await service.submit_code(session.id, "1", step_id=refused)
    with pytest.raises(InvalidArgumentError):
        await service.submit_code(session.id, "other code", step_id=id)


async def test_notebook_has_every_step(service: SessionService) -> None:
    session = await service.create_session(name="story")
    await service.run_code(session.id, "print('one')")
    await service.run_code(session.id, "2")

    notebook = await service.export_notebook(session.id)

    cells = notebook["cells"]
    assert isinstance(cells, list)
    sources = [cell["source"] for cell in cells if isinstance(cell, dict)]
    assert "print('one')" in sources
    assert "2" in sources


async def test_tokens_name_their_principal_until_revoked(service: SessionService) -> None:
    token, secret = await service.act_as("ada").create_token()

    assert await service.find_principal(secret) == "ada"
    assert await service.find_principal("cit_wrong") is None
    assert [(known.id, known.principal) for known in await service.list_tokens()] == [
        (token.id, "ada")
    ]

    await service.revoke_token(token.id)

    assert await service.find_principal(secret) is None


async def test_upload_ticket_works_once_and_only_for_what_it_is(service: SessionService) -> None:
    session = await service.create_session()
    ticket, secret = await service.create_ticket(session.id, "/mnt/data/big.bin", "upload")

    with pytest.raises(NotFoundError):
        await service.redeem_ticket(secret, "download")
    redeemed = await service.redeem_ticket(secret, "upload")
    with pytest.raises(NotFoundError):
        await service.redeem_ticket(secret, "upload")

    assert redeemed == ticket
    assert (redeemed.path, redeemed.session_id) == ("big.bin", session.id)


async def test_erased_principal_leaves_nothing(service: SessionService, settings: Settings) -> None:
    ada = service.act_as("ada")
    session = await ada.create_session()
    await ada.upload_file(session.id, "a.txt", b"the secret of ada")
    await ada.run_code(session.id, "open('b.txt', 'w').write('another secret of ada')")
    _, secret = await ada.create_token()
    other = await service.create_session()

    await ada.erase_principal()

    assert await ada.list_sessions() == []
    assert await service.find_principal(secret) is None
    assert [kept.id for kept in await service.list_sessions()] == [other.id]
    assert not [
        path
        for path in settings.state_dir.rglob("*")
        if path.is_file() and path.suffix != ".db" and b"secret of ada" in path.read_bytes()
    ]


async def test_closed_service_takes_no_more_work(settings: Settings, backend: FakeBackend) -> None:
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()

    with pytest.raises(ServiceClosedError):
        await service.run_code(session.id, "1")


async def test_error_in_the_block_of_the_service_is_raised_as_it_is(
    settings: Settings, backend: FakeBackend
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_service(settings, backend=backend):
            raise ZeroDivisionError


async def test_sixteen_sessions_work_side_by_side(service: SessionService) -> None:
    sessions = [await service.create_session() for _ in range(16)]

    async def use(session_id: str) -> None:
        for number in range(5):
            step = await service.run_code(session_id, f"x = {number}; x")
            assert step.status is StepStatus.COMPLETED

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(use, session.id)
