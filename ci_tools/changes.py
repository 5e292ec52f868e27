"""What a step changed in its session's folder: two listings, compared."""

from collections.abc import Mapping, Sequence
from typing import Literal

from ci_tools.errors import InvalidPathError, NotFoundError
from ci_tools.kernel import FileStat, Workspace
from ci_tools.models import ChangedFile
from ci_tools.paths import check_path

LISTED_FILES = 10_000
"""Files of a session that are looked at for changes after a step."""

HASHED_BYTES = 2 << 30
"""Bytes of files that are hashed for one step or call: code can make terabytes out of nothing."""

SIZE_MAX = 2**63 - 1
"""Bytes, the most that a database can store; the sizes of sparse files add up to more."""


async def compare_listings(
    workspace: Workspace, before: Mapping[str, FileStat], now: Mapping[str, FileStat]
) -> tuple[ChangedFile, ...]:
    """Return what differs between two listings; behind the end of one that is cut, nothing does."""
    end = min((max(files) for files in (before, now) if len(files) >= LISTED_FILES), default=None)
    changes = []
    unhashed = HASHED_BYTES
    for path, stat in now.items():
        if before.get(path) == stat or (end is not None and path > end):
            continue
        sha256 = None
        if stat.size <= unhashed:
            unhashed -= stat.size
            try:
                sha256 = await workspace.sha256(path)
            except NotFoundError:
                continue  # removed since, by a thread or a child of the code
        change: Literal["created", "changed"] = "changed" if path in before else "created"
        changes.append(ChangedFile(path=path, size=stat.size, sha256=sha256, change=change))
    deleted = sorted(path for path in before if path not in now and (end is None or path <= end))
    return (
        *changes,
        *(ChangedFile(path=path, size=None, sha256=None, change="deleted") for path in deleted),
    )


async def list_folder(workspace: Workspace) -> dict[str, FileStat]:
    """Return the files of a folder by their paths; at most `LISTED_FILES`."""
    return _by_path(await workspace.list_files(limit=LISTED_FILES))


def _by_path(listing: Sequence[FileStat]) -> dict[str, FileStat]:
    return {stat.path: stat for stat in listing}


def check_listing(listing: Sequence[FileStat]) -> dict[str, FileStat]:
    """Keep what can be true of a listing that a kernel made: its code could make up any."""
    return _by_path([stat for stat in listing[:LISTED_FILES] if _is_possible(stat)])


def _is_possible(stat: FileStat) -> bool:
    try:
        return 0 <= stat.size <= SIZE_MAX and check_path(stat.path) == stat.path
    except InvalidPathError:
        return False
