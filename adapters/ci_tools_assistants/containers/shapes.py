"""Wire objects of containers: the API's own shape, with the core's whole noun in one more key."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from ci_tools import File, Session, Settings
from ci_tools.wire import file_to_item, session_to_item
from ci_tools_assistants.objects import Object

T = TypeVar("T")

GIGABYTE = 1 << 30

SIZES = (1, 4, 16, 64)
"""Gigabytes of memory that the API has names for: `1g` and so on."""

FOLDER = "/mnt/data/"
"""How the paths of a container's files begin."""


def to_container(session: Session, settings: Settings) -> Object:
    """Return a session as the API's container; `session` is the whole of it."""
    policy: Object | None = None
    if session.network == "none":
        policy = {"type": "disabled"}
    elif session.network == "allowlist":
        hosts = list(settings.kernel_network_hosts)
        policy = {"type": "allowlist", "allowed_domains": hosts}
    return {
        "id": session.id,
        "object": "container",
        "created_at": int(session.created_at),
        "status": "running",
        "last_active_at": int(session.last_used_at),
        "name": session.name or "",
        "expires_after": {
            "anchor": "last_active_at",
            "minutes": math.ceil(settings.session_retention / 60),
        },
        **_memory_limit(session, settings),
        **({} if policy is None else {"network_policy": policy}),
        "session": session_to_item(session),
    }


def _memory_limit(session: Session, settings: Settings) -> Object:
    """Return the largest of the API's sizes that the session has; nothing without a sandbox."""
    if session.isolation in ("none", "remote", "auto"):
        return {}
    fitting = [size for size in SIZES if size * GIGABYTE <= settings.kernel_memory]
    return {"memory_limit": f"{fitting[-1]}g"} if fitting else {}


def to_container_file(file: File, id: str | None = None) -> Object:
    """Return a session's file as the API's container file; `file` is the whole of it."""
    return {
        "id": file.id or id,
        "object": "container.file",
        "created_at": int(file.modified_at),
        "bytes": file.size,
        "container_id": file.session_id,
        "path": FOLDER + file.path,
        # What has a hash was put there under its id; the rest was made by code.
        "source": "user" if file.id and file.sha256 else "assistant",
        "file": file_to_item(file),
    }


def to_list(data: Sequence[Object], *, has_more: bool = False) -> Object:
    """Return a page; the ids of its ends are empty if it is."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": has_more,
    }


def cut_page(
    items: Sequence[T], *, is_cursor: Callable[[T], bool] | None, limit: int
) -> tuple[Sequence[T], bool] | None:
    """Return the items after the cursor, and whether there are more; None if it is not there."""
    start = 0
    if is_cursor is not None:
        found = next((number for number, item in enumerate(items) if is_cursor(item)), None)
        if found is None:
            return None
        start = found + 1
    return items[start : start + limit], len(items) > start + limit
