"""How many kernels are kept ready, and for whom."""

import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from ci_tools_kernels import Policy, demand, write_kernelspec
from ci_tools_kernels.demand import Demand, find_room
from ci_tools_kernels.host import find_host
from ci_tools_kernels.pool import to_size
from ci_tools_kernels.starts import PromptKernelManager
from tests.kernels_sandbox.rig import Session, open_session

FILLED = 20.0
"""Seconds in which a pool fills."""

GIGABYTE = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_demand_is_what_was_wanted_at_once() -> None:
    clock = Clock()
    wanted = Demand(clock)
    for moment in (0, 10, 10.5, 11, 30, 31.9, 33.8):
        clock.now = moment
        wanted.note()

    assert wanted.peak() == 3


def test_demand_is_forgotten() -> None:
    clock = Clock()
    wanted = Demand(clock)
    wanted.note()
    wanted.note()
    clock.now = demand.LATELY + 1
    wanted.note()

    assert wanted.peak() == 1


def test_room_is_what_the_machine_and_the_container_leave(tmp_path: Path) -> None:
    meminfo = f"MemTotal: {8 << 20} kB\nMemFree: 1 kB\nMemAvailable: {4 << 20} kB\n"
    (tmp_path / "meminfo").write_text(meminfo)

    assert find_room(proc=tmp_path, groups=tmp_path) == 2 * GIGABYTE // demand.MEMORY_OF_ONE
    (tmp_path / "memory.max").write_text(f"{2 * GIGABYTE}\n")
    (tmp_path / "memory.current").write_text(f"{GIGABYTE}\n")
    assert find_room(proc=tmp_path, groups=tmp_path) == GIGABYTE // 2 // demand.MEMORY_OF_ONE
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "meminfo").write_text(meminfo.replace(str(4 << 20), "1000"))
    assert find_room(proc=tmp_path, groups=tmp_path) == 0


@pytest.fixture
def pooled(tmp_path: Path) -> Path:
    """A folder with the kernelspec `pooled`, which nobody else uses."""
    # The host makes it a kind of its own.
    policy = Policy(preload=(), pool=1, pool_most=3, hosts=(f"{tmp_path.name}.example",))
    write_kernelspec(tmp_path / "specs", name="pooled", python=sys.executable, policy=policy)
    return tmp_path / "specs"


def count(session: Session) -> int:
    return find_host().pool.count_of(session.provisioner.pool_key())


async def wait_for_count(session: Session, number: int) -> None:
    with anyio.fail_after(FILLED):
        while count(session) != number:
            await anyio.sleep(0.05)


async def test_pool_grows_with_what_is_wanted_at_once_and_shrinks_again(
    pooled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_session(pooled, tmp_path / "one", name="pooled") as session:
        await wait_for_count(session, 1)
        pool, key = find_host().pool, session.provisioner.pool_key()
        for _ in range(4):  # as if they were started at once
            pool.note(key)
        async with open_session(pooled, tmp_path / "two", name="pooled"):
            await wait_for_count(session, 3)

        monkeypatch.setattr(demand, "LATELY", 0.0)
        pool.trim(key, to_size(session.provisioner.policy))
        assert count(session) == 1


async def test_no_kernel_is_kept_ready_with_the_variables_of_one_session(
    pooled: Path, tmp_path: Path
) -> None:
    choice = {"environment": {"TOKEN": "of one session"}}
    async with open_session(pooled, tmp_path / "one", name="pooled", choice=choice) as session:
        async with open_session(pooled, tmp_path / "two", name="pooled") as usual:
            await wait_for_count(usual, 1)  # which is filled later than the other would be

        assert count(session) == 0


async def test_kernel_that_is_taken_while_it_starts_is_in_the_sessions_folder(
    pooled: Path, tmp_path: Path
) -> None:
    async with open_session(pooled, tmp_path / "one", name="pooled") as session:
        for name in ("a", "b", "c", "d", "e"):
            with anyio.fail_after(FILLED):
                while count(session) == 0:
                    await anyio.lowlevel.checkpoint()
            async with open_session(
                pooled, tmp_path / name, name="pooled", manager_class=PromptKernelManager
            ) as early:
                await early.run("open('file', 'w').write('kept')")

            assert (tmp_path / name / "file").read_text() == "kept"
