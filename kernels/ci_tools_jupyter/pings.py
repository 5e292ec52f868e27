"""When to send small frames that carry acknowledgements; pure, without I/O.

How this works: a message that takes much longer from the kernel to us than the fastest one so far
was held back on the way, most likely by a sender that waits for an acknowledgement (`channels.py`
says why). When most messages are, a connection counts as stalling; on a busy machine a few always
are. While a reply is awaited on a stalling connection, a ping goes out every 2 ms at first, because
the acknowledgement travels with it, and then ever more rarely. Others are never pinged.
"""

from datetime import datetime

HELD_BACK = 0.025
"""Seconds later than the fastest message that count as held back; the stall takes 0.04."""

STALLING = 2.5
"""Score at which a connection counts as stalling: four messages in a row held back reach it."""

FORGETTING = 0.8
"""What is left of the score at the next message."""

DENSE_DELAY = 0.002
"""Seconds between the first pings."""

DENSE_PINGS = 20
"""Pings before they become rarer: by then the system acknowledges by itself."""

LONGEST_DELAY = 1.0
"""Seconds between the last pings."""


class StallDetector:
    """Watches how long messages take to arrive; the clocks need not agree."""

    def __init__(self, *, stalling: bool = False) -> None:
        self.stalling = stalling
        self._least: float | None = None
        self._score = 0.0

    def note(self, sent_at: str, arrived_at: float) -> None:
        """Note a message: when it was sent (ISO 8601) and when it arrived (Unix seconds)."""
        try:
            delay = arrived_at - datetime.fromisoformat(sent_at).timestamp()
        except (ValueError, OverflowError, OSError):
            return
        if self._least is None or delay < self._least:
            self._least = delay
        self._score = self._score * FORGETTING + (delay - self._least > HELD_BACK)
        self.stalling = self.stalling or self._score > STALLING


def to_delay(pings: int) -> float:
    """Return the seconds to wait before the next ping after so many."""
    if pings < DENSE_PINGS:
        return DENSE_DELAY
    return min(DENSE_DELAY * 2.0 ** (pings - DENSE_PINGS + 1), LONGEST_DELAY)
