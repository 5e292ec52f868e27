"""The purposes of files, and what each means here.

Every purpose of the specifications is taken, and a file of any may be used for anything: a purpose
is a label to list by. Three mean more: `batch` files expire after 30 days unless told otherwise,
`assistants_output` is what code made, which nobody uploads, and `evals` is shown as `user_data`,
because the specification's file object has no such purpose.
"""

from typing import Literal, TypeAlias

from pydantic import Field

from ci_tools_assistants.http.requests import Body

OUTPUT = "assistants_output"
"""What the code interpreter made."""

USER_DATA = "user_data"

Uploadable: TypeAlias = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
"""What files can be uploaded for, in the order of the specification."""

_SHOWN = {"evals": USER_DATA}

_DAY = 24 * 3600

BATCH_LIFE = 30 * _DAY
"""Seconds that files for batches are kept if their owner names no time."""


class ExpiresAfter(Body):
    """When a file expires, in seconds after a moment."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=30 * _DAY)


def shown_purpose(purpose: str) -> str:
    """Return the purpose that a file's object has."""
    return _SHOWN.get(purpose, purpose)


def find_life(purpose: str, expires_after: ExpiresAfter | None) -> int | None:
    """Return how many seconds a file is kept; None if it does not expire."""
    if expires_after is not None:
        return expires_after.seconds
    return BATCH_LIFE if purpose == "batch" else None
