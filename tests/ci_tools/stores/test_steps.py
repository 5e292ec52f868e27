import traceback
from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest

from ci_tools.errors import InvalidArgumentError, LimitError, NotFoundError, StoreError
from ci_tools.models import (
    ChangedFile,
    DisplayOutput,
    ErrorOutput,
    FullText,
    KernelRef,
    RunStep,
    Session,
    StepError,
    StepStatus,
    StreamOutput,
)
from ci_tools.stores.blobs import BlobStore
from ci_tools.stores.records import OUTPUTS_IN_ROW, RecordStore

NewSession = Callable[..., Session]
NewStep = Callable[[Session], RunStep]


def completed(step: RunStep) -> RunStep:
    return replace(step, status=StepStatus.COMPLETED)


async def test_the_first_step_starts_at_once_and_the_next_waits(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    kernel = KernelRef(server="s", kernel_id="k", channel_id="c", kernelspec="p", language="py")
    await store.set_kernel(session.id, epoch=1, kernel=kernel)

    first = await store.admit_step(new_step(session), lease="l", limit=9)
    second = await store.admit_step(new_step(session), lease="l", limit=9)

    assert first.step.status is StepStatus.IN_PROGRESS
    assert first.step.started_at == first.step.created_at > 0
    assert first.step.epoch == 1
    assert first.session.kernel == kernel
    assert first.session.last_used_at >= session.last_used_at
    assert second.step.status is StepStatus.QUEUED
    assert second.step.started_at is None
    assert await store.get_step(second.step.id, principal="ada") == second.step


async def test_steps_are_claimed_in_order_of_arrival(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    first, second, third = [
        (await store.admit_step(new_step(session), lease="l", limit=9)).step for _ in range(3)
    ]

    assert (await store.claim_step(second.id, lease="l")).step.status is StepStatus.QUEUED
    await store.finish_step(completed(first), lease="l")
    assert (await store.claim_step(third.id, lease="l")).step.status is StepStatus.QUEUED
    claimed = await store.claim_step(second.id, lease="l")

    assert claimed.step.status is StepStatus.IN_PROGRESS
    assert claimed.step.started_at is not None
    assert (await store.claim_step(third.id, lease="l")).step.status is StepStatus.QUEUED


async def test_a_claim_of_a_step_that_ended_meanwhile_says_so(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    await store.admit_step(new_step(session), lease="l", limit=9)
    waiting = (await store.admit_step(new_step(session), lease="l", limit=9)).step
    await store.finish_step(replace(waiting, status=StepStatus.CANCELLED), lease="l")

    claimed = await store.claim_step(waiting.id, lease="l")

    assert claimed.step.status is StepStatus.CANCELLED
    with pytest.raises(NotFoundError):
        await store.claim_step("step_gone", lease="l")


async def test_a_step_of_a_foreign_session_is_not_admitted(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    with pytest.raises(NotFoundError):
        await store.admit_step(replace(new_step(session), principal="bob"), lease="l", limit=9)


async def test_unfinished_steps_are_limited_for_each_principal(
    store: RecordStore, session: Session, new_session: NewSession, new_step: NewStep
) -> None:
    other = await store.add_session(new_session(), limit=9)
    first = (await store.admit_step(new_step(session), lease="l", limit=2)).step
    await store.admit_step(new_step(other), lease="l", limit=2)

    with pytest.raises(LimitError):
        await store.admit_step(new_step(session), lease="l", limit=2)

    await store.finish_step(completed(first), lease="l")
    await store.admit_step(new_step(session), lease="l", limit=2)


async def test_everything_of_a_finished_step_is_kept(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    step = replace(new_step(session), code="print('\\0 \x00 \ud800 ü')\n")
    admitted = (await store.admit_step(step, lease="l", limit=9)).step
    done = replace(
        admitted,
        status=StepStatus.FAILED,
        epoch=2,
        outputs=(
            StreamOutput(name="stdout", text="a\x00\r\ud800\x1b[1m", omitted=12),
            StreamOutput(name="stderr", text=""),
            DisplayOutput(
                kind="result",
                data={"text/plain": "2", "application/json": {"a": [1, None, True, 1.5]}},
                metadata={"text/plain": {"x": 1}},
                execution_count=3,
            ),
            DisplayOutput(kind="display", data={"image/png": "iVBO"}, display_id="d1"),
            ErrorOutput(name="KeyError", message="'a'", traceback="\x1b[31mKeyError"),
        ),
        files=(
            ChangedFile(path="ü.csv", size=3, sha256="ab", change="created"),
            ChangedFile(path="b", size=None, sha256=None, change="deleted"),
        ),
        error=StepError(code="code_error", message="KeyError"),
        notices=("one", "two"),
        execution_count=3,
        full_text=FullText(key="k", size=10),
        truncated=True,
    )

    finished = await store.finish_step(done, lease="l", workspace_bytes=11)

    assert finished.finished_at is not None
    assert finished.duration is not None
    assert finished == replace(done, finished_at=finished.finished_at)
    assert await store.get_step(step.id, principal="ada") == finished
    assert await store.list_steps(session.id, principal="ada", limit=9) == [finished]
    assert (await store.get_session(session.id, principal="ada")).workspace_bytes == 11
    assert await store.stored_bytes(principal="ada") == 21


async def test_a_step_is_finished_once(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    step = (await store.admit_step(new_step(session), lease="l", limit=9)).step

    foreign = await store.finish_step(replace(step, status=StepStatus.FAILED), lease="other")
    first = await store.finish_step(completed(step), lease="l")
    again = await store.finish_step(replace(step, status=StepStatus.FAILED), lease="l")

    assert foreign.status is StepStatus.IN_PROGRESS
    assert first.status is StepStatus.COMPLETED
    assert again == first


async def test_a_step_can_be_finished_whatever_its_lease(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    step = (await store.admit_step(new_step(session), lease="l", limit=9)).step

    finished = await store.finish_step(replace(step, status=StepStatus.EXPIRED), lease=None)

    assert finished.status is StepStatus.EXPIRED


async def test_large_outputs_are_objects_that_go_with_their_step(
    store: RecordStore, blobs: BlobStore, session: Session, new_step: NewStep
) -> None:
    step = (await store.admit_step(new_step(session), lease="l", limit=9)).step
    text = StreamOutput(name="stdout", text="x" * OUTPUTS_IN_ROW)

    finished = await store.finish_step(replace(completed(step), outputs=(text,)), lease="l")

    assert await store.get_step(step.id, principal="ada") == finished
    assert await store.list_steps(session.id, principal="ada", limit=1) == [finished]
    assert await store.request_cancel(step.id, principal="ada") == finished
    assert await store.stored_bytes(principal="ada") > OUTPUTS_IN_ROW
    (key,) = await store.delete_session(session.id, principal="ada")
    assert await blobs.size(key) > OUTPUTS_IN_ROW


async def test_large_outputs_that_come_too_late_leave_no_object(
    store: RecordStore, blobs: BlobStore, session: Session, new_step: NewStep
) -> None:
    step = (await store.admit_step(new_step(session), lease="l", limit=9)).step
    await store.finish_step(completed(step), lease="l")
    text = StreamOutput(name="stdout", text="x" * OUTPUTS_IN_ROW)

    late = await store.finish_step(replace(completed(step), outputs=(text,)), lease="l")

    assert late.outputs == ()
    assert await store.stored_bytes(principal="ada") == 0
    assert await store.delete_session(session.id, principal="ada") == []
    with pytest.raises(NotFoundError):
        await store.finish_step(replace(completed(step), outputs=(text,)), lease="l")


async def test_steps_are_listed_newest_first_in_pages(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    steps = []
    for number in range(5):
        step = (await store.admit_step(new_step(session), lease="l", limit=9)).step
        out = StreamOutput(name="stdout", text=str(number))
        steps.append(await store.finish_step(replace(completed(step), outputs=(out,)), lease="l"))

    newest = await store.list_steps(session.id, principal="ada", limit=2)
    older = await store.list_steps(session.id, principal="ada", limit=9, before=newest[-1].id)
    light = await store.list_steps(session.id, principal="ada", limit=9, with_outputs=False)

    assert newest + older == steps[::-1]
    assert light == [replace(step, outputs=()) for step in steps[::-1]]
    for before, principal in (("step_gone", "ada"), ("step_\x00", "ada"), (None, "bob")):
        with pytest.raises(NotFoundError):
            await store.list_steps(session.id, principal=principal, limit=9, before=before)


@pytest.mark.parametrize("id", ["step_unknown", "", "step_\x00", "step_\ud800"])
async def test_an_unknown_step_is_not_found(store: RecordStore, id: str) -> None:
    with pytest.raises(NotFoundError):
        await store.get_step(id, principal="ada")
    with pytest.raises(NotFoundError):
        await store.request_cancel(id, principal="ada")


async def test_a_foreign_step_is_not_found(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    step = (await store.admit_step(new_step(session), lease="l", limit=9)).step

    with pytest.raises(NotFoundError):
        await store.get_step(step.id, principal="bob")
    with pytest.raises(NotFoundError):
        await store.request_cancel(step.id, principal="bob")

    assert await store.requested_cancels(lease="l") == []


async def test_unfinished_steps_are_found_behind_finished_ones(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    steps = [new_step(session) for _ in range(3)]
    for step in steps:
        await store.admit_step(step, lease="lease_1", limit=9)
    await store.finish_step(replace(steps[2], status=StepStatus.CANCELLED), lease="lease_1")

    found = await store.list_unfinished_steps(session.id, principal=session.principal)

    assert [step.id for step in found] == [steps[0].id, steps[1].id]
    assert await store.list_unfinished_steps(session.id, principal="bob") == []


async def test_whoever_runs_a_step_learns_that_it_is_to_be_cancelled(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    mine = (await store.admit_step(new_step(session), lease="mine", limit=9)).step
    theirs = (await store.admit_step(new_step(session), lease="theirs", limit=9)).step

    assert await store.request_cancel(mine.id, principal="ada") == mine
    await store.request_cancel(theirs.id, principal="ada")

    assert await store.requested_cancels(lease="mine") == [mine.id]
    await store.finish_step(replace(mine, status=StepStatus.CANCELLED), lease="mine")
    assert await store.requested_cancels(lease="mine") == []


async def test_only_steps_whose_lease_ran_out_are_orphans(
    store: RecordStore, session: Session, new_session: NewSession, new_step: NewStep
) -> None:
    await store.take_lease("alive", seconds=60)
    await store.take_lease("dead", seconds=60)
    await store.take_lease("dead", seconds=-1)
    await store.take_lease("closed", seconds=60)
    await store.release_lease("closed")
    steps = {}
    for lease in ("alive", "dead", "closed", "never"):
        other = await store.add_session(new_session(), limit=9)
        steps[lease] = (await store.admit_step(new_step(other), lease=lease, limit=9)).step
    finished = await store.admit_step(new_step(session), lease="dead", limit=9)
    await store.finish_step(completed(finished.step), lease="dead")

    orphans = await store.list_orphaned_steps()

    assert orphans == [steps["dead"], steps["closed"], steps["never"]]
    assert len(await store.list_orphaned_steps(limit=1)) == 1
    assert not await store.adopt_step(steps["alive"].id, lease="alive")
    assert not await store.adopt_step("step_gone", lease="alive")


async def test_an_orphan_is_adopted_by_one_of_many(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    step = (await store.admit_step(new_step(session), lease="dead", limit=9)).step
    adopted: list[str] = []

    async def adopt(lease: str) -> None:
        await store.take_lease(lease, seconds=60)
        if await store.adopt_step(step.id, lease=lease):
            adopted.append(lease)

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(adopt, f"lease {number}")

    assert len(adopted) == 1
    assert await store.list_orphaned_steps() == []
    failed = replace(step, status=StepStatus.FAILED)
    assert (await store.finish_step(failed, lease="dead")).status is StepStatus.IN_PROGRESS
    assert (await store.finish_step(failed, lease=adopted[0])).status is StepStatus.FAILED


async def test_steps_admitted_at_once_run_one_at_a_time(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    admitted: list[RunStep] = []

    async def admit() -> None:
        admitted.append((await store.admit_step(new_step(session), lease="l", limit=9)).step)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(admit)

    running = [step for step in admitted if step.status is StepStatus.IN_PROGRESS]
    assert len(running) == 1
    newest_first = await store.list_steps(session.id, principal="ada", limit=9)
    assert newest_first[-1] == running[0]


async def test_a_store_that_refuses_a_record_says_so_without_quoting_it(
    store: RecordStore, session: Session
) -> None:
    again = replace(session, name="their secret")

    with pytest.raises(StoreError) as raised:
        await store.add_session(again, limit=9)

    logged = "".join(traceback.format_exception(raised.value))
    assert "their secret" not in logged
    assert session.id not in logged


async def test_the_id_of_a_step_is_taken_once(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    step = replace(new_step(session), code="their secret")
    await store.admit_step(step, lease="l", limit=9)

    with pytest.raises(InvalidArgumentError) as raised:
        await store.admit_step(step, lease="l", limit=9)

    logged = "".join(traceback.format_exception(raised.value))
    assert "their secret" not in logged
    assert step.id not in logged

    assert len(await store.list_steps(session.id, principal="ada", limit=9)) == 1
