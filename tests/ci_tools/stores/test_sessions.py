import math
from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest
from sqlalchemy import Connection, text

from ci_tools.errors import LimitError, NotFoundError
from ci_tools.models import File, FullText, KernelRef, RunStep, Session, StepStatus, new_id
from ci_tools.stores import sessions
from ci_tools.stores.nouns import Ticket
from ci_tools.stores.records import RecordStore

NewSession = Callable[..., Session]
NewStep = Callable[[Session], RunStep]

KERNEL = KernelRef(
    server="embedded", kernel_id="k1", channel_id="c1", kernelspec="python3", language="python"
)


async def test_a_new_session_gets_the_times_of_the_database(
    store: RecordStore, new_session: NewSession
) -> None:
    session = new_session(name="Étude \x00 \ud800")

    stored = await store.add_session(session, limit=1)

    assert stored.created_at > 1_700_000_000
    assert abs(stored.last_used_at - stored.created_at) < 1
    assert replace(stored, created_at=0, last_used_at=0) == session
    assert await store.get_session(session.id, principal="ada") == stored


@pytest.mark.parametrize("id", ["sess_unknown", "", "sess_\x00", "sess_\ud800"])
async def test_an_unknown_session_is_not_found(store: RecordStore, id: str) -> None:
    with pytest.raises(NotFoundError):
        await store.get_session(id, principal="ada")
    with pytest.raises(NotFoundError):
        await store.delete_session(id, principal="ada")


async def test_a_foreign_session_is_not_found(store: RecordStore, session: Session) -> None:
    with pytest.raises(NotFoundError):
        await store.get_session(session.id, principal="bob")
    with pytest.raises(NotFoundError):
        await store.delete_session(session.id, principal="bob")

    assert await store.list_sessions(principal="bob") == []
    assert await store.list_sessions(principal="ada") == [session]


async def test_sessions_are_limited_for_each_principal(
    store: RecordStore, new_session: NewSession
) -> None:
    await store.add_session(new_session(), limit=2)
    await store.add_session(new_session(), limit=2)

    with pytest.raises(LimitError):
        await store.add_session(new_session(), limit=2)

    await store.add_session(new_session("bob"), limit=2)


async def test_the_limit_of_sessions_holds_for_calls_at_once(
    store: RecordStore, new_session: NewSession
) -> None:
    refused = 0

    async def add() -> None:
        nonlocal refused
        try:
            await store.add_session(new_session(), limit=3)
        except LimitError:
            refused += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(add)

    assert refused == 5
    assert len(await store.list_sessions(principal="ada")) == 3


async def test_sessions_are_listed_last_used_first(
    store: RecordStore, new_session: NewSession
) -> None:
    first = await store.add_session(new_session(), limit=3)
    second = await store.add_session(new_session(), limit=3)

    await store.touch_session(first.id, workspace_bytes=7)

    listed = await store.list_sessions(principal="ada")
    assert [found.id for found in listed] == [first.id, second.id]
    assert listed[0].workspace_bytes == 7
    assert listed[0].last_used_at >= second.last_used_at


async def test_touching_a_session_that_is_gone_does_nothing(store: RecordStore) -> None:
    await store.touch_session("sess_gone")

    assert await store.list_sessions(principal="ada") == []


async def test_a_kernel_is_set_only_upon_the_epoch_before(
    store: RecordStore, session: Session
) -> None:
    await store.drop_kernel(session.id, epoch=0, lost="nothing to lose")
    other = replace(KERNEL, kernel_id="k2")

    first = await store.set_kernel(session.id, epoch=1, kernel=KERNEL, isolation="bubblewrap")
    second = await store.set_kernel(session.id, epoch=1, kernel=other)

    assert first.kernel == KERNEL
    assert (first.epoch, first.lost, first.isolation) == (1, None, "bubblewrap")
    assert second == first
    with pytest.raises(NotFoundError):
        await store.set_kernel("sess_gone", epoch=1, kernel=KERNEL)


async def test_a_kernel_is_dropped_once_and_says_why(store: RecordStore, session: Session) -> None:
    await store.set_kernel(session.id, epoch=1, kernel=KERNEL)

    assert not await store.drop_kernel(session.id, epoch=2, lost="too new")
    assert await store.drop_kernel(session.id, epoch=1, lost="it was idle")
    assert not await store.drop_kernel(session.id, epoch=1, lost="again")

    found = await store.get_session(session.id, principal="ada")
    assert (found.epoch, found.kernel, found.lost) == (1, None, "it was idle")


async def test_a_kernel_that_was_used_meanwhile_is_not_dropped_as_idle(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    await store.set_kernel(session.id, epoch=1, kernel=KERNEL)

    assert not await store.drop_kernel(session.id, epoch=1, lost="idle", idle=60)
    admission = await store.admit_step(new_step(session), lease="lease_1", limit=9)
    assert not await store.drop_kernel(session.id, epoch=1, lost="idle", idle=-1)
    await store.finish_step(replace(admission.step, status=StepStatus.COMPLETED), lease="lease_1")
    assert await store.drop_kernel(session.id, epoch=1, lost="idle", idle=-1)


async def test_only_unused_sessions_have_idle_kernels(
    store: RecordStore, new_session: NewSession, new_step: NewStep
) -> None:
    idle, busy, without = [await store.add_session(new_session(), limit=3) for _ in range(3)]
    for session in (idle, busy):
        await store.set_kernel(session.id, epoch=1, kernel=KERNEL)
    await store.admit_step(new_step(busy), lease="l", limit=1)

    assert await store.list_idle_kernels(idle=60) == []
    found = await store.list_idle_kernels(idle=-60)

    assert [session.id for session in found] == [idle.id]
    assert without.kernel is None


async def test_sessions_expire_by_their_last_use_or_their_age(
    store: RecordStore, new_session: NewSession, new_step: NewStep
) -> None:
    quiet, busy = [await store.add_session(new_session(), limit=2) for _ in range(2)]
    await store.admit_step(new_step(busy), lease="l", limit=1)

    for retention, lifetime, expected in (
        (60.0, None, []),
        (60.0, 60.0, []),
        (-60.0, None, [quiet.id]),
        (math.inf, -60.0, [quiet.id]),
    ):
        found = await store.list_expired_sessions(retention=retention, lifetime=lifetime)
        assert [session.id for session in found] == expected


async def test_deleting_a_session_deletes_all_of_it_and_names_the_garbage(
    store: RecordStore, session: Session, new_step: NewStep
) -> None:
    file = File(
        id=new_id("file-"),
        principal="ada",
        session_id=session.id,
        path="a.csv",
        size=1,
        sha256=None,
        media_type="text/csv",
        modified_at=0,
    )
    await store.put_file(file, key="file-key", limit=1000)
    ticket = Ticket(
        principal="ada", session_id=session.id, path="a", action="download", expires_at=0
    )
    await store.add_ticket(ticket, digest="d", seconds=60)
    step = (await store.admit_step(new_step(session), lease="l", limit=1)).step
    full_text = FullText(key="text-key", size=5)
    done = replace(step, status=StepStatus.COMPLETED, full_text=full_text)
    await store.finish_step(done, lease="l")

    keys = await store.delete_session(session.id, principal="ada")

    assert sorted(keys) == ["file-key", "text-key"]
    assert await store.take_ticket(digest="d", action="download") is None
    assert await store.stored_bytes(principal="ada") == 0
    for lookup in (
        store.get_session(session.id, principal="ada"),
        store.get_step(step.id, principal="ada"),
        store.get_file(file.id or "", principal="ada"),
        store.finish_step(done, lease="l"),
        store.claim_step(step.id, lease="l"),
        store.admit_step(new_step(session), lease="l", limit=1),
    ):
        with pytest.raises(NotFoundError):
            await lookup


async def test_a_session_with_many_steps_is_deleted_a_few_at_a_time(
    store: RecordStore, session: Session, new_step: NewStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_TURN", 0)
    for number in range(75):
        step = (await store.admit_step(new_step(session), lease="l", limit=100)).step
        full_text = FullText(key=f"text-{number}", size=1)
        done = replace(step, status=StepStatus.COMPLETED, full_text=full_text)
        await store.finish_step(done, lease="l")
    waiting = (await store.admit_step(new_step(session), lease="l", limit=100)).step
    left: list[int] = []
    trim = sessions.trim_session

    def watch(conn: Connection, id: str, *, principal: str) -> list[str] | None:
        left.append(conn.execute(text("SELECT count(*) FROM steps")).scalar_one())
        return trim(conn, id, principal=principal)

    monkeypatch.setattr(sessions, "trim_session", watch)

    keys = await store.delete_session(session.id, principal="ada")

    assert left == [76, 66, 56, 46]
    assert sorted(keys) == sorted(f"text-{number}" for number in range(75))
    for lookup in (
        store.get_session(session.id, principal="ada"),
        store.get_step(waiting.id, principal="ada"),
    ):
        with pytest.raises(NotFoundError):
            await lookup


async def test_a_session_is_found_by_name_or_made_once(
    store: RecordStore, new_session: Callable[..., Session]
) -> None:
    found: list[str] = []

    async def find(name: str = "work") -> None:
        session = await store.find_or_add_session(new_session(name=name), limit=3)
        found.append(session.id)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(find)
    await store.add_session(new_session(name="work"), limit=3)
    await find()
    await find("Ünnamed\x00")

    assert len(set(found)) == 2
    assert len(await store.list_sessions(principal="ada")) == 3
    foreign = await store.find_or_add_session(new_session("bob", "work"), limit=1)
    assert foreign.id not in found
