"""A listing of variables: runs inside kernels, as source, and reads there what it says.

Any Python from 3.8 can run it, with nothing of ours. It calls no code of the user's own classes.
"""

from __future__ import annotations

import sys
import types
from typing import Any, Iterator  # noqa: UP035 - 3.8

COUNT = 500
"""Variables that are listed at most."""

LENGTH = 100
"""Characters of a name, a type or a detail."""

SHAPED = ("numpy", "pandas", "polars", "pyarrow", "scipy", "torch", "xarray")
"""Packages whose objects are asked for their shape and size."""

SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, range)


def list_variables(namespace: dict[Any, Any], hidden: dict[Any, Any]) -> list[list[str]]:
    """Return `[name, type, detail]` of each variable that is not hidden, sorted by name."""
    rows: list[list[str]] = []
    for name, value in sorted(dict(namespace).items(), key=lambda item: str(item[0])):
        if not isinstance(name, str) or name.startswith("_"):
            continue
        if isinstance(value, types.ModuleType) or hidden.get(name, rows) is value:
            continue
        rows.append([text[:LENGTH] for text in (name, type(value).__name__, _describe(value))])
        if len(rows) == COUNT:
            break
    return rows


def _describe(value: Any) -> str:
    kind = type(value)
    if kind in (bool, float, complex) or (kind is int and value.bit_length() < 200):
        return repr(value)
    if str(kind.__module__).partition(".")[0] in SHAPED:
        try:
            return ", ".join(_measure(value))
        except Exception:  # noqa: BLE001 - a library's own, or half made
            return ""
    if kind in SIZED:
        size = sys.getsizeof(value) if kind in (str, bytes, bytearray) else None
        length = "length %d" % len(value)  # noqa: UP031 - 3.8
        return length if size is None else "%s, %d bytes" % (length, size)  # noqa: UP031
    return ""


def _measure(value: Any) -> Iterator[str]:
    shape = getattr(value, "shape", None)
    if shape is not None:
        yield "shape (%s)" % ", ".join(str(int(length)) for length in shape)  # noqa: UP031
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        yield str(dtype)
    size = getattr(value, "nbytes", None)
    if size is None and hasattr(value, "memory_usage"):
        used = value.memory_usage()
        size = used.sum() if hasattr(used, "sum") else used
    if size is not None:
        yield "%d bytes" % size  # noqa: UP031
