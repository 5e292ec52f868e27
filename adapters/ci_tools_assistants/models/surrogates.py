"""Halves of surrogate pairs, which JSON can hold and UTF-8 cannot.

A client may send one, a model may send the two halves of a character in two chunks. No HTTP
client can pass them on as they are.
"""

import re
from typing import Final

_HALVES: Final = re.compile("[\ud800-\udfff]")


def join_halves(text: str) -> str:
    """Return the text with pairs put together and single halves replaced by U+FFFD."""
    if _HALVES.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def ends_with_half(text: str) -> bool:
    """Return whether the text ends with the first half of a pair."""
    return "\ud800" <= text[-1:] <= "\udbff"
