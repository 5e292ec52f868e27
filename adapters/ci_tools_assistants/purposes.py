"""The purposes of files, and what each means here.

Every purpose of the specifications is taken, and any file may be used for anything: a purpose is a
label to list by. Only these three mean more: `batch` files expire after 30 days unless told
otherwise, `assistants_output` is what code made, and `evals` is shown as `user_data`, because the
specification's file object has no such purpose.
"""

from ci_tools_assistants.errors import ApiError

OUTPUT = "assistants_output"
"""What the code interpreter made; nobody uploads it."""

USER_DATA = "user_data"

UPLOADABLE = ("assistants", "batch", "fine-tune", "vision", USER_DATA, "evals")
"""In the order of the specification."""

_SHOWN = {"evals": USER_DATA}

_DAY = 24 * 3600

BATCH_LIFE = 30 * _DAY
"""Seconds that files for batches are kept if their owner names no time."""

LIFE_MIN, LIFE_MAX = 3600, 30 * _DAY
"""Seconds that `expires_after` may name."""


def check_purpose(purpose: object) -> str:
    """Return a purpose that files can be uploaded for.

    Raises:
        ApiError: It is missing or none of those.
    """
    if purpose is None:
        raise ApiError(400, "'purpose' is a required property", param="purpose")
    if purpose not in UPLOADABLE:
        raise ApiError(
            400,
            f"{str(purpose)[:100]!r} is not one of {list(UPLOADABLE)} - 'purpose'",
            param="purpose",
        )
    return str(purpose)


def shown_purpose(purpose: str) -> str:
    """Return the purpose that a file's object has."""
    return _SHOWN.get(purpose, purpose)


def find_life(purpose: str, anchor: object, seconds: object) -> int | None:
    """Return how many seconds a file is kept; None if it does not expire.

    Raises:
        ApiError: `expires_after` has another anchor, or a time that is too short or too long.
    """
    if anchor is None and seconds is None:
        return BATCH_LIFE if purpose == "batch" else None
    if anchor != "created_at":
        raise ApiError(
            400,
            "Invalid 'expires_after.anchor': it must be 'created_at'.",
            param="expires_after.anchor",
            code="invalid_value",
        )
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit():
        seconds = int(seconds[:18])
    if not isinstance(seconds, int) or not LIFE_MIN <= seconds <= LIFE_MAX:
        raise ApiError(
            400,
            f"Invalid 'expires_after.seconds': it must be between {LIFE_MIN} and {LIFE_MAX}.",
            param="expires_after.seconds",
            code="invalid_value",
        )
    return seconds
