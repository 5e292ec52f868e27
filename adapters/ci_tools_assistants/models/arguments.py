"""The arguments of a call: text that should be one JSON object."""

import json
from typing import Any, Final

DEEPEST: Final = 100
"""Objects and arrays in one another; what goes deeper cannot be sent to every provider again."""

MOST: Final = 20_000
"""Objects and arrays in all; so many that to keep them costs everybody time are no arguments."""


def load_object(text: str) -> dict[str, Any] | None:
    """Return the object that arguments are; None if they are cut off, too much or no object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _is_bounded(value) else None


def _is_bounded(value: object) -> bool:
    level, left = [value], MOST
    for _ in range(DEEPEST):
        level = [inner for item in level for inner in _inside(item)]
        left -= len(level)
        if not level or left < 0:
            return left >= 0
    return False


def _inside(value: object) -> list[object]:
    match value:
        case dict():
            items = list(value.values())
        case list():
            items = value
        case _:
            return []
    return [item for item in items if isinstance(item, dict | list)]
