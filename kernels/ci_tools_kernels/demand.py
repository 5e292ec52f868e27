"""How many kernels to keep ready: as many as were lately wanted at once, while there is room."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

MEMORY_OF_ONE = 64 << 20
"""Bytes that a ready kernel is reckoned to take; it shares most of what it sees."""

RESERVE = 4
"""One part in so many of the machine's memory is left to others."""

AT_ONCE = 2.0
"""Seconds: kernels taken within them are taken at once, as none is made in that time."""

LATELY = 300.0
"""Seconds that a burst is remembered for."""

_MOST_REMEMBERED = 1000


class Demand:
    """When kernels of one kind were wanted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque(maxlen=_MOST_REMEMBERED)

    def note(self) -> None:
        """Remember that one is wanted now."""
        self._times.append(self._clock())

    def peak(self) -> int:
        """Return how many were wanted at once, at most, lately."""
        while self._times and self._times[0] < self._clock() - LATELY:
            self._times.popleft()
        together: deque[float] = deque()
        most = 0
        for moment in self._times:
            together.append(moment)
            while together[0] < moment - AT_ONCE:
                together.popleft()
            most = max(most, len(together))
        return most


def find_room(*, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many more ready kernels the machine, or the container, has memory for."""
    total, available = _read_machine(proc / "meminfo")
    free = available - total // RESERVE
    limit, used = (_read_number(groups / f"memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None:
        free = min(free, limit - limit // RESERVE - used)
    return max(0, free // MEMORY_OF_ONE)


def _read_machine(path: Path) -> tuple[int, int]:
    found = {"MemTotal": 0, "MemAvailable": 0}
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return found["MemTotal"], found["MemAvailable"]


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
