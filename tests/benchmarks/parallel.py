"""How many executions per second 16 sessions reach together."""

import statistics
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from time import perf_counter

import anyio

from ci_tools import StepStatus
from tests.benchmarks.measure import Row, to_row
from tests.benchmarks.ours import embedded_service, scratch_folder
from tests.benchmarks.raw import open_async_raw_kernel

SESSIONS = 16
EACH = 30
"""Executions of each session in one round."""


async def run_round(
    actions: Sequence[Callable[[], Awaitable[None]]],
) -> tuple[float, list[list[float]]]:
    """Call each action `EACH` times, all side by side; return calls per second and their times."""
    times: list[list[float]] = [[] for _ in actions]

    async def repeat(action: Callable[[], Awaitable[None]], own: list[float]) -> None:
        for _ in range(EACH):
            started = perf_counter()
            await action()
            own.append(perf_counter() - started)

    started = perf_counter()
    async with anyio.create_task_group() as group:
        for action, own in zip(actions, times, strict=True):
            group.start_soon(repeat, action, own)
    return len(actions) * EACH / (perf_counter() - started), times


def slowest_p99(rounds: Sequence[list[list[float]]]) -> float:
    """Return the 99th percentile of the session whose own is the largest, in seconds."""
    sessions = ([time for times in one for time in times] for one in zip(*rounds, strict=True))
    return max(float(statistics.quantiles(session, n=100)[98]) for session in sessions)


async def measure_parallel(name: str, *, rounds: int) -> list[Row]:
    """Measure sessions of one service against as many raw async clients in one process."""
    with scratch_folder() as folder:
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(embedded_service(folder))
            sessions = [await service.create_session() for _ in range(SESSIONS)]
            kernels = [
                await stack.enter_async_context(open_async_raw_kernel()) for _ in range(SESSIONS)
            ]

            async def run_step(session_id: str) -> None:
                step = await service.run_code(session_id, "1+1")
                assert step.status is StepStatus.COMPLETED, step.error

            sides: list[list[Callable[[], Awaitable[None]]]] = [
                [partial(run_step, session.id) for session in sessions],
                [partial(kernel.execute, "1+1") for kernel in kernels],
            ]
            for side in sides:
                await run_round(side)
            results = [[await run_round(side) for side in sides] for _ in range(rounds)]
    ours, raw = ([one[side] for one in results] for side in (0, 1))
    return [
        to_row(
            name,
            statistics.median(rate for rate, _ in ours),
            "1/s",
            statistics.median(rate for rate, _ in raw),
        ),
        to_row(
            "parallel_16_p99",
            slowest_p99([times for _, times in ours]) * 1e3,
            "ms",
            slowest_p99([times for _, times in raw]) * 1e3,
        ),
    ]


ROWS: dict[str, Callable[..., Awaitable[list[Row]]]] = {"parallel_16": measure_parallel}
