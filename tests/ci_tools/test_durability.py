"""What outlives a service process, and what several processes do with one state directory."""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from ci_tools import (
    DisplayOutput,
    NotFoundError,
    SessionService,
    Settings,
    StepFinished,
    StepOutput,
    StepStatus,
    StreamOutput,
    open_service,
)
from ci_tools.testing import FakeBackend

FOREVER = "import time\nprint('started', flush=True)\nwhile True: time.sleep(0.01)"

KILLED_SERVICE = """
import sys, anyio
from pathlib import Path
from ci_tools import Settings, StepOutput, open_service
from ci_tools.testing import FakeBackend

async def main(state, folders):
    settings, backend = Settings(state_dir=state, lease_time=1), FakeBackend(folders)
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        code = "print('partial', flush=True)\\nimport time\\ntime.sleep(60)"
        step = await service.submit_code(session.id, code)
        queued = await service.submit_code(session.id, "1")
        async with service.watch_run_step(step.id) as events:
            async for event in events:
                if isinstance(event, StepOutput):
                    break
        while not (state / "spool" / f"{step.id}.txt").exists():
            await anyio.sleep(0.05)
        print(session.id, step.id, queued.id, flush=True)
        await anyio.sleep(60)

anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
"""


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(20):
        while not await condition():
            await anyio.sleep(0.05)


async def _started(service: SessionService, session_id: str) -> str:
    step = await service.submit_code(session_id, FOREVER)
    async with service.watch_run_step(step.id) as events:
        async for event in events:
            if isinstance(event, StepOutput | StepFinished):
                break
    return step.id


async def test_session_keeps_its_variables_when_the_service_is_restarted(
    settings: Settings, backend: FakeBackend
) -> None:
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        await service.run_code(session.id, "x = 42")

    async with open_service(settings, backend=backend) as service:
        step = await service.run_code(session.id, "x")

    assert step.outputs[0] == DisplayOutput(
        kind="result", data={"text/plain": "42"}, execution_count=2
    )
    assert (step.epoch, step.notices, backend.started) == (1, (), 1)


async def test_kernels_that_end_with_the_service_are_replaced_and_said(
    settings: Settings, tmp_path: Path
) -> None:
    async with open_service(settings, backend=FakeBackend(tmp_path / "f")) as service:
        session = await service.create_session()
        await service.run_code(session.id, "open('kept', 'w').write('kept')")

    async with open_service(settings, backend=FakeBackend(tmp_path / "f")) as service:
        step = await service.run_code(session.id, "open('kept').read()")

    assert step.epoch == 2
    assert step.notices == ("Kernel restarted (it had ended): variables lost, files kept.",)
    assert step.status is StepStatus.COMPLETED


async def test_session_whose_kernel_is_gone_does_not_seem_to_have_one(
    settings: Settings, tmp_path: Path
) -> None:
    async with open_service(settings, backend=FakeBackend(tmp_path / "f")) as service:
        session = await service.create_session()
        await service.run_code(session.id, "1")

    async with open_service(settings, backend=FakeBackend(tmp_path / "f")) as service:
        # At once, and not only when it has been noted, which takes its time.
        [listed] = await service.list_sessions()
        assert listed.kernel is None
        assert (await service.get_session(session.id)).kernel is None

        async def noted() -> bool:
            return (await service.measure_load()).kernels == 0

        await _until(noted)


async def test_closing_the_service_stores_running_steps_as_cancelled(
    settings: Settings, backend: FakeBackend
) -> None:
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        await service.run_code(session.id, "x = 1")
        step_id = await _started(service, session.id)
        queued = await service.submit_code(session.id, "2")

    async with open_service(settings, backend=backend) as service:
        step = await service.get_run_step(step_id)
        waited = await service.get_run_step(queued.id)
        after = await service.run_code(session.id, "x")

    assert step.status is StepStatus.CANCELLED
    assert step.outputs[0] == StreamOutput(name="stdout", text="started\n")
    assert waited.status is StepStatus.CANCELLED
    assert after.status is StepStatus.COMPLETED


async def test_killed_service_loses_nothing_that_was_printed(
    settings: Settings, tmp_path: Path
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED_SERVICE, settings.state_dir, tmp_path / "folders"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    session_id, step_id, queued_id = child.stdout.readline().split()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()

    async with open_service(settings, backend=FakeBackend(tmp_path / "folders")) as service:

        async def settled() -> bool:
            step = await service.get_run_step(queued_id)
            return step.status.is_final

        await _until(settled)
        killed = await service.get_run_step(step_id)
        queued = await service.get_run_step(queued_id)
        after = await service.run_code(session_id, "1")

    assert killed.status is queued.status is StepStatus.FAILED
    assert killed.error is not None
    assert queued.error is not None
    assert killed.error.code == queued.error.code == "service_died"
    assert killed.outputs == (StreamOutput(name="stdout", text="partial\n"),)
    assert after.status is StepStatus.COMPLETED
    assert after.epoch == 2


async def test_steps_of_a_living_process_are_not_settled_by_another(
    settings: Settings, backend: FakeBackend
) -> None:
    async with (
        open_service(settings, backend=backend) as one,
        open_service(settings, backend=backend) as other,
    ):
        session = await one.create_session()
        step_id = await _started(one, session.id)
        await anyio.sleep(2 * settings.lease_time)

        seen = await other.get_run_step(step_id)
        await one.cancel_run_step(step_id)

    assert seen.status is StepStatus.IN_PROGRESS


async def test_two_processes_take_turns_on_one_session(
    settings: Settings, backend: FakeBackend
) -> None:
    async with (
        open_service(settings, backend=backend) as one,
        open_service(settings, backend=backend) as other,
    ):
        session = await one.create_session()
        await one.run_code(session.id, "n = 0")

        async def add(service: SessionService) -> None:
            for _ in range(5):
                step = await service.run_code(
                    session.id, "m = n\nfor _ in range(1000): pass\nn = m + 1"
                )
                assert step.status is StepStatus.COMPLETED

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(add, one)
                tasks.start_soon(add, other)
        step = await other.run_code(session.id, "print(n)")

    assert step.outputs == (StreamOutput(name="stdout", text="10\n"),)
    assert backend.started == 1


async def test_restart_is_said_once_by_whichever_process_runs_the_next_step(
    settings: Settings, backend: FakeBackend
) -> None:
    async with open_service(settings, backend=backend) as one:
        session = await one.create_session()
        await one.run_code(session.id, "x = 1")
        await one.restart_session(session.id)

    async with (
        open_service(settings, backend=backend) as two,
        open_service(settings, backend=backend) as three,
    ):
        steps = [await service.run_code(session.id, "1") for service in (two, three, two)]

    said = ("Kernel restarted (on request): variables lost, files kept.",)
    assert [step.notices for step in steps] == [said, (), ()]
    assert [step.epoch for step in steps] == [2, 2, 2]


async def test_step_can_be_cancelled_and_awaited_from_another_process(
    settings: Settings, backend: FakeBackend
) -> None:
    async with (
        open_service(settings, backend=backend) as one,
        open_service(settings, backend=backend) as other,
    ):
        session = await one.create_session()
        step_id = await _started(one, session.id)

        with anyio.fail_after(10):
            cancelled = await other.cancel_run_step(step_id)
            awaited = await other.wait_run_step(step_id)

    assert cancelled.status is StepStatus.CANCELLED
    assert awaited == cancelled


async def test_idle_kernel_is_stopped_and_the_session_stays(
    tmp_path: Path, backend: FakeBackend
) -> None:
    settings = Settings(state_dir=tmp_path / "state", kernel_idle_timeout=0.2)
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        first = await service.run_code(session.id, "open('f', 'w').write('f')")

        async def stopped() -> bool:
            return backend.alive == 0

        await _until(stopped)
        files = await service.list_files(session.id)
        kept = await service.get_run_step(first.id)
        after = await service.run_code(session.id, "1")

    assert [file.path for file in files] == ["f"]
    assert kept == first
    assert after.epoch == 2
    assert after.notices == (
        "Kernel restarted (stopped after 0.2 s without use): variables lost, files kept.",
    )


@pytest.mark.parametrize("limit", ["session_retention", "session_lifetime"])
async def test_session_past_its_retention_or_its_life_is_unknown_and_deleted(
    tmp_path: Path, backend: FakeBackend, limit: str
) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path / "state", limit: 0.4})
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        step = await service.run_code(session.id, "open('f', 'w').write('f')")

        async def gone() -> bool:
            return not (tmp_path / "folders" / session.id).exists() and not list(
                await service.list_sessions()
            )

        await _until(gone)
        with pytest.raises(NotFoundError):
            await service.get_session(session.id)
        with pytest.raises(NotFoundError):
            await service.get_run_step(step.id)
    assert backend.alive == 0
