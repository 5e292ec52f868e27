"""Which files a thread's code sees in /mnt/data, and under which names; pure.

How this works: a file given to the code interpreter by the thread (or by a message of it) is there
in every run of the thread; one given by an assistant only in runs of that assistant. Before code
runs, what is staged is compared with what should be: what is missing is put there, what must not
be seen is taken away. A name that is taken gets a number, and keeps it.

Code may have changed its copy of an assistant's file. Such a copy is put away under a file id of
its own and comes back with the assistant. A changed copy of a thread's file is the code's own work
and stays when the file is detached.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ci_tools.errors import InvalidPathError
from ci_tools.models import ChangedFile
from ci_tools.paths import check_path
from ci_tools_assistants.objects import Object

THREAD = "thread"
"""The owner of files that are seen in every run of a thread; else it is an assistant's id."""

_NAME_LIMIT = 200
"""Bytes of a file's name in /mnt/data; there is room for a number behind."""

_REFUSED = re.compile(r"[\x00-\x1f\x7f/\\]")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file that code should see."""

    id: str
    filename: str
    owner: str
    sha256: str | None = None
    encoding: str | None = None
    """What the bytes are if the name says that they are text."""


@dataclass(kw_only=True)
class Staged:
    """A file that was put into /mnt/data."""

    path: str
    owner: str
    sha256: str | None
    away: bool = False
    """Whether it is not there now, but keeps its place for when it comes back."""

    pending: bool = False
    """Whether it is being put there or taken away; cut off, that is done again."""

    gone: bool = False
    """Whether code has deleted it; it is not put back into the same session."""

    changed_id: str | None = None
    """What stands for it while it is away: the copy that code has changed."""


@dataclass(kw_only=True)
class Made:
    """A file that code made or changed, as it was published last."""

    id: str
    sha256: str | None


@dataclass(kw_only=True)
class Bench:
    """What is kept about a thread's interpreter, in the private part of the thread."""

    session_id: str | None = None
    staged: dict[str, Staged] = field(default_factory=dict)
    """By file id."""

    made: dict[str, Made] = field(default_factory=dict)
    """By path."""

    told: list[str] = field(default_factory=list)
    """Ids of files that a model was told of."""

    @classmethod
    def from_object(cls, stored: Object | None) -> "Bench":
        """Read what `to_object` wrote."""
        stored = stored or {}
        return cls(
            session_id=stored.get("session_id"),
            staged={id: Staged(**item) for id, item in stored.get("staged", {}).items()},
            made={path: Made(**item) for path, item in stored.get("made", {}).items()},
            told=list(stored.get("told", ())),
        )

    def to_object(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    def present(self) -> dict[str, Staged]:
        """Return what is staged and not away, by file id."""
        return {id: item for id, item in self.staged.items() if not item.away}

    def note_changes(self, files: Iterable[ChangedFile]) -> None:
        """Take note of what code deleted, and of what it put where it had deleted something."""
        changes = {file.path: file.change for file in files}
        for item in self.present().values():
            if item.path in changes:
                item.gone = changes[item.path] == "deleted"
        for path, change in changes.items():
            if change == "deleted":
                self.made.pop(path, None)

    def find_ids(self) -> dict[str, str]:
        """Return the file ids by path of all that is in /mnt/data and can be downloaded."""
        ids = {
            item.path: id
            for id, item in self.present().items()
            if not item.gone and not item.pending
        }
        return ids | {path: made.id for path, made in self.made.items()}


def list_unwanted(bench: Bench, wanted: Iterable[Wanted]) -> list[str]:
    """Return the ids of files that are, or may be, staged and must not be seen."""
    ids = {file.id for file in wanted}
    return [id for id in bench.present() if id not in ids]


def plan_staging(
    bench: Bench, wanted: Iterable[Wanted], *, taken: Iterable[str] = ()
) -> list[tuple[Wanted, str]]:
    """Return the files to stage, each with its path; `taken` are further paths in the folder."""
    present = {id: item for id, item in bench.present().items() if not item.pending}
    made = {item.id for item in bench.made.values()}
    used = {_key(path) for path in (*(item.path for item in present.values()), *bench.made, *taken)}
    put: list[tuple[Wanted, str]] = []
    for file in wanted:
        if file.id in present or file.id in made:  # given back what code has made
            continue
        before = bench.staged.get(file.id)
        if before is not None and before.pending:
            path = before.path  # what is there may be half of it
        elif before is not None:
            path = free_name(before.path, used)
        else:
            path = free_name(to_name(file.filename, instead=file.id), used)
        used.add(_key(path))
        put.append((file, path))
    return put


def to_name(filename: str, *, instead: str) -> str:
    """Return a name for /mnt/data: the file's own, as far as it can be one."""
    name = unicodedata.normalize("NFC", filename).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    name = _shorten(_REFUSED.sub("_", name).strip())
    try:
        return check_path(name)
    except InvalidPathError:
        return instead


def free_name(name: str, used: Collection[str]) -> str:
    """Return `name`, with a number before its extension if that name is used (`a_2.csv`)."""
    if _key(name) not in used:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem:
        stem, dot, extension = name, "", ""
    number = 2
    while _key(f"{stem}_{number}{dot}{extension}") in used:
        number += 1
    return f"{stem}_{number}{dot}{extension}"


def _key(path: str) -> str:
    # Some file systems take two spellings for the same file.
    return path.casefold()


def _shorten(name: str) -> str:
    if len(name.encode()) <= _NAME_LIMIT:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > 20:
        stem, dot, extension = name, "", ""
    room = _NAME_LIMIT - len((dot + extension).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + extension
