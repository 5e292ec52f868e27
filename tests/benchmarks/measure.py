"""Rows of the benchmark, and how two things are measured against each other."""

import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

Run: TypeAlias = Callable[[], Awaitable[float]]
"""One measured run; returns seconds, or whatever the row counts."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result; `baseline` and `ratio` are None where the figure is absolute."""

    name: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None

    def to_json(self) -> str:
        """Return the row as one line of JSON."""
        return json.dumps(asdict(self))


def to_row(name: str, value: float, unit: str, baseline: float | None = None) -> Row:
    """Make a row, with the ratio of value to baseline, rounded to what the measurement bears."""
    return Row(
        name=name,
        value=round(value, 3),
        unit=unit,
        baseline=None if baseline is None else round(baseline, 3),
        ratio=None if baseline is None else round(value / baseline, 3),
    )


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started


async def interleave(runs: Sequence[Run], *, rounds: int, block: int = 1) -> list[float]:
    """Return the median of each of `runs`, measured in turns of `block` runs.

    In turns, because whatever slows the machine for a while then slows all of them alike. One
    block of each comes first and does not count.
    """
    for run in runs:
        for _ in range(block):
            await run()
    samples: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, sample in zip(runs, samples, strict=True):
            for _ in range(block):
                sample.append(await run())
    return [statistics.median(sample) for sample in samples]
