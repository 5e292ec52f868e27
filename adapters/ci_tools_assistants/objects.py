"""The wire objects, which are also the records.

An `Object` is a complete object of version 2 of the API, exactly as its specification has it: with
every key, times as whole Unix seconds, null where there is nothing. Only `versions.py` knows what
version 1 makes of it.
"""

import time
from enum import StrEnum
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]


class Kind(StrEnum):
    """What can be stored; the value is the noun that error messages use."""

    ASSISTANT = "assistant"
    THREAD = "thread"
    MESSAGE = "message"
    RUN = "run"
    STEP = "run step"
    FILE = "file"
    UPLOAD = "upload"
    PART = "part"


ACTIVE = frozenset({"queued", "in_progress", "requires_action", "cancelling"})
"""The states of a run in which its thread is locked."""


def now() -> int:
    """Return the time as the API writes it."""
    return int(time.time())
