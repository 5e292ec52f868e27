"""Ids and paths as parts of a URL."""

import re
from urllib.parse import quote

from ci_tools.errors import NotFoundError
from ci_tools.paths import check_path

_ID = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def to_segment(kind: str, id: str) -> str:
    """Return an id as one segment.

    Raises:
        NotFoundError: Nothing has such an id.
    """
    if not _ID.fullmatch(id):
        raise NotFoundError(kind, id)
    return id


def to_segments(path: str) -> str:
    """Return a file's path as segments.

    Raises:
        InvalidPathError: It cannot be used; checked here, as URLs give `..` a meaning of its own.
    """
    return quote(check_path(path), safe="/")
