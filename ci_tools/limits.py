"""The cap on calls per minute, counted in memory for each principal."""

import time
from collections.abc import Callable

from ci_tools.errors import LimitError


class RateLimiter:
    """A token bucket for each principal: `per_minute` calls, refilled evenly."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def check(self, principal: str) -> None:
        """Count one call.

        Raises:
            LimitError: The principal has used up its minute; `retry_after` says when to try again.
        """
        now = self._clock()
        level, since = self._buckets.get(principal, (float(self._per_minute), now))
        level = min(self._per_minute, level + (now - since) * self._per_minute / 60)
        if level < 1:
            wait = (1 - level) * 60 / self._per_minute
            raise LimitError(
                f"More than {self._per_minute} requests in a minute; try again in {wait:.1f} s.",
                retry_after=wait,
            )
        self._buckets[principal] = (level - 1, now)
