"""Moments as models and people read them."""

from datetime import UTC, datetime
from typing import overload


@overload
def to_time(seconds: float) -> str: ...


@overload
def to_time(seconds: float | None) -> str | None: ...


def to_time(seconds: float | None) -> str | None:
    """Return Unix seconds as ISO 8601 in UTC, to the millisecond."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
