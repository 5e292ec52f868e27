"""The service's address and token, and ids and paths as parts of a URL."""

import re
from urllib.parse import quote, urlsplit

from ci_tools.errors import ConfigurationError, NotFoundError
from ci_tools.paths import check_path

_ID = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)

_VISIBLE = re.compile(r"[!-~]*", re.ASCII)
"""What addresses and tokens are made of."""


def to_base(url: str) -> str:
    """Return the address that paths are below, for a service's with or without `/v1` at its end.

    Raises:
        ConfigurationError: It is no address; a request to it would look like a lost one.
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of an IPv6 address
        fits = False
    if not fits or not _VISIBLE.fullmatch(url):
        raise ConfigurationError(
            "This is no address of a session service: one is like 'https://ci.example.org' or "
            "'http://127.0.0.1:8765'."
        )
    base = url.rstrip("/")
    return base if base.endswith("/v1") else base + "/v1"


def check_token(token: str) -> str:
    """Return the token if it can be sent.

    Raises:
        ConfigurationError: It has characters that no token has.
    """
    if not _VISIBLE.fullmatch(token):
        raise ConfigurationError(
            "This is no token: it has blanks or letters that `ci-tools token create` never makes."
        )
    return token


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
