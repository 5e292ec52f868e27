"""What must not spread: one session's bad luck or bad will to others, or to what is stored."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from sqlalchemy import select

from ci_tools import (
    ChangedFile,
    InvalidArgumentError,
    LimitError,
    NotFoundError,
    RunStep,
    ServerUnavailableError,
    Session,
    SessionService,
    Settings,
    StepFinished,
    StepOutput,
    StepStatus,
    StoreError,
    changes,
    open_service,
    upkeep,
)
from ci_tools.engine import Engine
from ci_tools.kernel import FileStat, KernelRequest, Workspace, WorkspaceRequest
from ci_tools.models import KernelRef, new_id
from ci_tools.stores.schema import leases
from ci_tools.testing import FakeBackend, FakeKernel
from ci_tools.workspace import LocalWorkspace

FOREVER = "import time\nprint('started', flush=True)\nwhile True: time.sleep(0.01)"


def _engine(service: SessionService) -> Engine:
    return service._engine


async def _started(service: SessionService, session_id: str) -> str:
    step = await service.submit_code(session_id, FOREVER)
    async with service.watch_run_step(step.id) as events:
        async for event in events:
            if isinstance(event, StepOutput | StepFinished):
                break
    return step.id


def _fail_once(
    monkeypatch: pytest.MonkeyPatch, service: SessionService, error: Exception
) -> anyio.Event:
    """Let the next final record not be stored; the event tells when that has happened."""
    records = _engine(service).records
    finish_step = records.finish_step
    failed = anyio.Event()

    async def fail(step: RunStep, **kwargs: Any) -> RunStep:
        if not failed.is_set():
            failed.set()
            raise error
        return await finish_step(step, **kwargs)

    monkeypatch.setattr(records, "finish_step", fail)
    return failed


async def _stored(service: SessionService, step_id: str) -> RunStep:
    """Return a step's record as soon as it is final in the store."""
    records = _engine(service).records
    with anyio.fail_after(10):
        while True:
            step = await records.get_step(step_id, principal=service.principal)
            if step.status.is_final:
                return step
            await anyio.sleep(0.05)


async def _orphan(service: SessionService, session: Session) -> RunStep:
    """Store a step of a process that is gone."""
    step = RunStep(
        id=new_id("step_"),
        session_id=session.id,
        principal=service.principal,
        code="1",
        status=StepStatus.QUEUED,
        epoch=0,
        timeout=1,
        created_at=0,
    )
    await _engine(service).records.admit_step(step, lease="lease_gone", limit=9)
    return step


async def test_connection_that_breaks_ends_its_step_and_spares_the_service(
    service: SessionService,
) -> None:
    session, other = await service.create_session(), await service.create_session()
    await service.run_code(session.id, "x = 1")
    step_id = await _started(service, other.id)

    with anyio.fail_after(10):
        step = await service.run_code(
            session.id, "import os, time\nos.write(4, b'no json\\n')\ntime.sleep(60)"
        )
    after = await service.run_code(session.id, "x")
    cancelled = await service.cancel_run_step(step_id)

    assert step.error is not None
    assert (step.status, step.error.code) == (StepStatus.FAILED, "server_lost")
    assert (after.status, after.epoch) == (StepStatus.COMPLETED, 1)
    assert cancelled.status is StepStatus.CANCELLED


class _FullDisk(FakeBackend):
    async def open_workspace(self, request: WorkspaceRequest) -> Workspace | None:
        raise OSError(28, "No space left on device")


async def test_warming_that_fails_in_any_way_spares_the_service(
    settings: Settings, tmp_path: Path
) -> None:
    async with open_service(settings, backend=_FullDisk(tmp_path)) as service:
        session = await service.create_session()
        await service.warm_session(session.id)
        with anyio.fail_after(10):
            step = await service.run_code(session.id, "1")

        assert step.status is StepStatus.FAILED
        await service.ready()


async def test_output_that_cannot_be_spooled_spares_the_step_and_the_service(
    service: SessionService, settings: Settings
) -> None:
    session = await service.create_session()
    step_id = await _started(service, session.id)
    shutil.rmtree(settings.state_dir / "spool")
    await service.cancel_run_step(step_id)

    printed = await service.submit_code(
        session.id, "import time\nprint('x' * 1000, flush=True)\ntime.sleep(0.8)\nprint('done')"
    )
    with anyio.fail_after(10):
        step = await service.wait_run_step(printed.id)

    assert step.status is StepStatus.COMPLETED
    await service.ready()


async def test_cancel_whose_caller_leaves_still_ends_a_queued_step(
    service: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await service.create_session()
    running = await _started(service, session.id)
    queued = await service.submit_code(session.id, "1")
    records = _engine(service).records
    finish_step = records.finish_step
    asked = anyio.Event()

    async def wait(step: RunStep, **kwargs: Any) -> RunStep:
        if not asked.is_set():
            asked.set()
            await anyio.sleep_forever()
        return await finish_step(step, **kwargs)

    monkeypatch.setattr(records, "finish_step", wait)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.cancel_run_step, queued.id)
        await asked.wait()
        tasks.cancel_scope.cancel()

    assert (await _stored(service, queued.id)).status is StepStatus.CANCELLED
    await service.cancel_run_step(running)
    with anyio.fail_after(10):
        assert (await service.run_code(session.id, "1")).status is StepStatus.COMPLETED


async def test_outputs_that_no_store_takes_do_not_hold_up_the_session(
    service: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await service.create_session()
    records = _engine(service).records
    finish_step = records.finish_step

    async def refuse(step: RunStep, **kwargs: Any) -> RunStep:
        if step.outputs:
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return await finish_step(step, **kwargs)

    monkeypatch.setattr(records, "finish_step", refuse)
    step = await service.run_code(session.id, "print('poison')")

    stored = await _stored(service, step.id)
    assert stored.error is not None
    assert (stored.status, stored.error.code) == (StepStatus.FAILED, "internal_error")
    with anyio.fail_after(10):
        assert (await service.run_code(session.id, "x = 1")).status is StepStatus.COMPLETED


async def test_orphan_whose_record_cannot_be_written_is_settled_later(
    service: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await service.create_session()
    failed = _fail_once(monkeypatch, service, StoreError("The disk is full."))

    step = await _orphan(service, session)

    with anyio.fail_after(10):
        await failed.wait()
    stored = await _stored(service, step.id)
    assert stored.error is not None
    assert stored.error.code == "service_died"


async def test_running_step_is_found_behind_a_queued_one_that_was_cancelled(
    service: SessionService,
) -> None:
    session = await service.create_session()
    running = await _started(service, session.id)
    queued = await service.submit_code(session.id, "1")
    await service.cancel_run_step(queued.id)

    with anyio.fail_after(10):
        interrupted = await service.interrupt_session(session.id)

    assert interrupted is not None
    assert (interrupted.id, interrupted.status) == (running, StepStatus.CANCELLED)


async def test_upload_over_the_limit_leaves_nothing_in_the_folder(
    settings: Settings, backend: FakeBackend
) -> None:
    settings = settings.model_copy(update={"bytes_per_principal": 100})
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        await service.upload_file(session.id, "kept.txt", b"x" * 60)

        with pytest.raises(LimitError):
            await service.upload_file(session.id, "more.txt", b"y" * 60)
        await service.upload_file(session.id, "kept.txt", b"z" * 90)

        assert [(file.path, file.size) for file in await service.list_files(session.id)] == [
            ("kept.txt", 90)
        ]


async def test_who_keeps_too_much_runs_no_code_until_something_is_deleted(
    settings: Settings, backend: FakeBackend
) -> None:
    settings = settings.model_copy(update={"bytes_per_principal": 1000})
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        await service.upload_file(session.id, "full", b"x" * 1000)

        with pytest.raises(LimitError):
            await service.run_code(session.id, "1")
        await service.delete_file(session.id, "full")

        assert (await service.run_code(session.id, "1")).status is StepStatus.COMPLETED


async def test_huge_sparse_files_are_told_but_not_hashed(service: SessionService) -> None:
    session = await service.create_session()

    with anyio.fail_after(10):
        step = await service.run_code(session.id, "open('huge', 'wb').truncate(1 << 40)\nNone")
        file = await service.stat_file(session.id, "huge")

    assert step.files == (ChangedFile(path="huge", size=1 << 40, sha256=None, change="created"),)
    assert (file.size, file.sha256) == (1 << 40, None)


async def test_files_beyond_a_cut_listing_are_neither_created_nor_deleted(
    service: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LISTED_FILES", 3)
    session = await service.create_session()
    await service.run_code(session.id, "for name in 'cdef': open(name, 'w').close()")

    added = await service.run_code(session.id, "open('a', 'w').close(); open('b', 'w').close()")
    removed = await service.run_code(session.id, "import os; os.remove('a'); os.remove('b')")

    assert [(file.path, file.change) for file in added.files] == [
        ("a", "created"),
        ("b", "created"),
    ]
    assert [(file.path, file.change) for file in removed.files] == [
        ("a", "deleted"),
        ("b", "deleted"),
    ]


class _SlowStart(FakeBackend):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.starting, self.go_on = anyio.Event(), anyio.Event()

    async def start_kernel(self, request: KernelRequest) -> KernelRef:
        self.starting.set()
        await self.go_on.wait()
        return await super().start_kernel(request)


async def test_step_says_what_its_kernel_waits_for_while_it_waits(
    settings: Settings, tmp_path: Path
) -> None:
    backend = _SlowStart(tmp_path / "folders")
    backend.preparing = "The environment is being built."
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        step = await service.submit_code(session.id, "print('done')")

        with anyio.fail_after(10):
            while step.notices != ("The environment is being built.",):
                await anyio.sleep(0.02)
                step = await service.get_run_step(step.id)
        backend.preparing = None
        backend.go_on.set()
        with anyio.fail_after(10):
            finished = await service.wait_run_step(step.id)

    assert finished.status is StepStatus.COMPLETED
    assert finished.notices == ()


async def test_step_does_not_wait_for_an_environment_that_it_needs_no_more(
    settings: Settings, tmp_path: Path
) -> None:
    backend = _SlowStart(tmp_path / "folders")
    backend.preparing = "The environment is being built."
    with anyio.fail_after(10):
        async with open_service(settings, backend=backend) as service:
            steps = []
            for _ in range(2):
                session = await service.create_session()
                backend.starting = anyio.Event()
                steps.append(await service.submit_code(session.id, "1"))
                await backend.starting.wait()

            cancelled = await service.cancel_run_step(steps[0].id)

    assert backend.started == 0
    assert cancelled.error is not None
    assert cancelled.error.message == "The step was cancelled. No kernel was started."
    async with open_service(settings, backend=FakeBackend(tmp_path / "folders")) as service:
        closed = await service.get_run_step(steps[1].id)
    assert closed.error is not None
    assert closed.error.message == "The service was stopped; run the code again."


async def test_kernel_that_starts_while_its_session_is_closed_is_stopped(
    settings: Settings, tmp_path: Path
) -> None:
    backend = _SlowStart(tmp_path / "folders")
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        await service.warm_session(session.id)
        await backend.starting.wait()

        await service.close_session(session.id)
        backend.go_on.set()

        with anyio.fail_after(10):
            while not backend.started or (tmp_path / "folders" / session.id).exists():
                await anyio.sleep(0.02)
        assert backend.alive == 0


async def test_kernel_whose_start_is_recorded_while_its_session_is_closed_is_stopped(
    settings: Settings, tmp_path: Path
) -> None:
    backend = _SlowStart(tmp_path / "folders")
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        await service.warm_session(session.id)
        await backend.starting.wait()

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(service.close_session, session.id)
                while session.id in _engine(service).live:
                    await anyio.sleep(0.01)
                backend.go_on.set()

        assert (backend.started, backend.alive) == (1, 0)


class _Away(FakeBackend):
    async def stop_kernel(self, ref: KernelRef) -> None:
        raise ServerUnavailableError("The server is away.")


async def test_session_on_a_server_that_is_away_can_be_closed(
    settings: Settings, tmp_path: Path
) -> None:
    async with open_service(settings, backend=_Away(tmp_path / "folders")) as service:
        session = await service.create_session()
        step = await service.run_code(session.id, "1")

        with anyio.fail_after(10):
            await service.close_session(session.id)

        with pytest.raises(NotFoundError):
            await service.get_run_step(step.id)
        assert await service.list_sessions() == []


async def test_file_that_disappears_while_it_is_hashed_hides_no_other_change(
    service: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await service.create_session()
    workspace = await _engine(service).backend.open_workspace(
        WorkspaceRequest(session_id=session.id, server=session.server)
    )
    assert workspace is not None
    sha256 = type(workspace).sha256

    async def lose(self: Workspace, path: str) -> str | None:
        if path == "gone":
            raise NotFoundError("file", path)
        return await sha256(cast("Any", self), path)

    monkeypatch.setattr(type(workspace), "sha256", lose)
    step = await service.run_code(
        session.id, "for name in ('gone', 'here'): open(name, 'w').close()"
    )

    assert [file.path for file in step.files] == ["here"]


async def test_processes_that_slept_with_this_one_get_time_to_renew_their_leases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    settled: list[int] = []
    again = anyio.Event()

    def clock() -> float:
        nonlocal looks
        looks += 1
        return 0.0 if looks == 1 else 0.025  # of a lease of 0.03 s, renewed every 0.01 s

    async def settle(engine: Engine) -> None:
        settled.append(looks)
        if len(settled) == 2:
            again.set()

    monkeypatch.setattr(upkeep, "settle_orphans", settle)
    monkeypatch.setattr(upkeep, "time", SimpleNamespace(time=clock))
    engine = cast("Engine", SimpleNamespace(settings=SimpleNamespace(lease_time=0.03)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upkeep.watch_leases, engine)
        with anyio.fail_after(5):
            await again.wait()
        tasks.cancel_scope.cancel()

    assert settled == [0, 8]  # two looks at the clock for the sleep, and for each of three pauses


class _Hanging(FakeBackend):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.connecting = anyio.Event()

    @asynccontextmanager
    async def connect(self, ref: KernelRef) -> AsyncIterator[FakeKernel]:
        self.connecting.set()
        await anyio.sleep_forever()
        raise AssertionError
        yield


async def test_process_that_settles_for_a_long_time_is_not_taken_for_dead(
    settings: Settings, backend: FakeBackend, tmp_path: Path
) -> None:
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        await service.run_code(session.id, "1")

    hanging = _Hanging(tmp_path)
    async with open_service(settings, backend=hanging) as service:
        lease = select(leases.c.expires_at).where(leases.c.id == service.lease)

        async def expiry() -> float:
            return await service.database.read(lambda conn: conn.execute(lease).scalar_one())

        await _orphan(service, session)
        with anyio.fail_after(10):
            await hanging.connecting.wait()
            first = await expiry()
            while await expiry() < first + settings.lease_time:
                await anyio.sleep(0.05)


class _Crashing(FakeBackend):
    @asynccontextmanager
    async def connect(self, ref: KernelRef) -> AsyncIterator[FakeKernel]:
        raise OSError(24, "Too many open files")
        yield


async def test_orphan_that_cannot_be_interrupted_spares_the_starting_service(
    settings: Settings, backend: FakeBackend, tmp_path: Path
) -> None:
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        await service.run_code(session.id, "1")
        orphan = await _orphan(service, session)

    async with open_service(settings, backend=_Crashing(tmp_path)) as service:
        stored = await _stored(service, orphan.id)
        await service.ready()

    assert stored.status is StepStatus.FAILED
    assert replace(stored, outputs=()) == stored


async def test_halves_of_characters_go_into_no_message_name_or_code(
    service: SessionService,
) -> None:
    session = await service.create_session(name="a\ud800")

    step = await service.run_code(session.id, "raise ValueError('b\\ud800')")

    assert session.name == "a\ufffd"
    assert step.error is not None
    assert step.error.message == "ValueError: b\ufffd"
    with pytest.raises(InvalidArgumentError):
        await service.run_code(session.id, "'a\ud800'")


def test_listing_that_code_made_up_is_not_believed() -> None:
    believed = FileStat(path="a/b", size=1, modified_at=0)
    listing = [
        believed,
        FileStat(path="../outside", size=1, modified_at=0),
        FileStat(path="half\ud800", size=1, modified_at=0),
        FileStat(path="negative", size=-1, modified_at=0),
        FileStat(path="huge", size=10**30, modified_at=0),
    ]

    assert changes.check_listing(listing) == {"a/b": believed}


class _NoFileApi(FakeBackend):
    """A backend whose files can only be reached through the kernel."""

    async def open_workspace(self, request: WorkspaceRequest) -> Workspace | None:
        return None

    @asynccontextmanager
    async def connect(self, ref: KernelRef) -> AsyncIterator[FakeKernel]:
        async with super().connect(ref) as kernel:
            cast("Any", kernel).workspace = LocalWorkspace(self._folder(ref.channel_id))
            yield kernel


async def test_error_of_who_reads_through_a_kernel_comes_out_as_it_is(
    settings: Settings, tmp_path: Path
) -> None:
    async with open_service(settings, backend=_NoFileApi(tmp_path / "folders")) as service:
        session = await service.create_session()
        await service.run_code(session.id, "open('a', 'w').write('x' * 5_000_000)")

        with pytest.raises(LimitError):
            async with service.open_file(session.id, "a") as chunks:
                async for _ in chunks:
                    raise LimitError("I have enough.")

        assert (await service.run_code(session.id, "1")).status is StepStatus.COMPLETED
