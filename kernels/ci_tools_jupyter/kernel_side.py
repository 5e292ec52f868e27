"""Code that runs inside a remote Python kernel, as a module that its user does not see.

It finds, lists and moves files where the server has no way to, or only a slow one. It runs on any
Python from 3.8 and uses only the standard library and what ipykernel has. Nothing here is trusted
by our side: user code can change it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from datetime import datetime, timezone
from typing import Any

MEDIA_TYPE = "application/vnd.ci-tools.files+json"

COMM_TARGET = "ci_tools.files"

PART = ".ci-tools-part"

LISTED = 10000
"""Files that are listed after an execution; of more, nothing is said."""

HASHED = 64 << 20
"""Bytes of changed files that are hashed after an execution."""

BLOCK = 1 << 20

root = ""
hidden = False
parts: dict[str, Any] = {}
known: dict[str, Any] = {}


class Answer:
    """A value that reaches the other side as JSON."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {MEDIA_TYPE: self.value}

    def __repr__(self) -> str:
        return "..."


def enter(folder: str) -> Answer:
    """Make the session's folder, go there and accept file messages."""
    global root, hidden
    from IPython import get_ipython

    root = os.path.abspath(folder)
    hidden = True
    os.makedirs(root, exist_ok=True)
    os.chdir(root)
    _note_changes()
    get_ipython().kernel.comm_manager.register_target(COMM_TARGET, _on_open)
    return hello()


def stay() -> Answer:
    """Take the folder that the kernel was started in, whose server hides hidden files."""
    global root
    root = os.getcwd()
    _note_changes()
    return hello()


def hello() -> Answer:
    """Say where the session's folder is."""
    return Answer([root])


def remove() -> Answer:
    """Delete the session's folder and all in it."""
    os.chdir(os.path.dirname(root))
    shutil.rmtree(root, ignore_errors=True)
    return hello()


def files() -> Answer:
    """List the session's files for the reply of an execution, changed ones with their SHA-256."""
    found, changed = _note_changes()
    if len(found) > LISTED:
        return Answer(None)
    digests = {}
    budget = HASHED
    for path, size, modified in changed:
        budget -= size
        if budget < 0:
            break
        try:
            digests[path] = [size, modified, _hash(_place(path))]
        except OSError:
            continue
    return Answer({"root": root, "files": found, "digests": digests})


def _note_changes() -> tuple[list[Any], list[Any]]:
    """Return all files, and those that are not as they were at the last call."""
    found = _list(LISTED + 1)
    changed = [row for row in found if known.get(row[0]) != row]
    known.clear()
    known.update((row[0], row) for row in found)
    return found, changed


def _list(limit: int) -> list[Any]:
    found: list[Any] = []
    pending = [("", root)]
    while pending and len(found) < limit:
        prefix, folder = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            try:
                if not hidden and entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append((prefix + entry.name + "/", entry.path))
                elif not entry.name.endswith(PART):
                    facts = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(facts.st_mode):
                        found.append(_row(prefix + entry.name, facts))
            except OSError:
                continue
    found.sort()
    return found[:limit]


def _row(path: str, facts: os.stat_result) -> list[Any]:
    # Rounded to microseconds as Jupyter's contents API does, so that both agree.
    modified = datetime.fromtimestamp(facts.st_mtime, timezone.utc).timestamp()  # noqa: UP017 - 3.8
    return [path, facts.st_size, modified]


def _place(path: str, make: bool = False) -> str:
    """Return where `path` is; symbolic links are not followed."""
    place = root
    names = path.split("/")
    for name in names[:-1]:
        if name in ("", ".", ".."):
            raise FileNotFoundError(path)
        place = os.path.join(place, name)
        if os.path.islink(place):
            raise FileExistsError(path) if make else FileNotFoundError(path)
        if make and not os.path.isdir(place):
            os.mkdir(place)
    if names[-1] in ("", ".", ".."):
        raise FileNotFoundError(path)
    return os.path.join(place, names[-1])


def _regular(path: str) -> tuple[str, os.stat_result]:
    place = _place(path)
    facts = os.lstat(place)
    if not stat.S_ISREG(facts.st_mode):
        raise FileNotFoundError(path)
    return place, facts


def _hash(place: str) -> str:
    digest = hashlib.sha256()
    with open(place, "rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def _on_open(comm: Any, message: Any) -> None:
    comm.on_msg(lambda received: _on_message(comm, received))


def _on_message(comm: Any, message: Any) -> None:
    request = message["content"]["data"]
    try:
        answer, buffers = _OPERATIONS[request["do"]](request, message.get("buffers") or [])
        comm.send({"answer": answer}, buffers=buffers)
    except FileNotFoundError:
        comm.send({"error": "missing"})
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        comm.send({"error": "place taken"})
    except Exception as exc:  # noqa: BLE001 - the other side must get an answer
        comm.send({"error": type(exc).__name__})


def _do_list(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    return _list(request["limit"]), []


def _do_stat(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    return _row(request["path"], _regular(request["path"])[1]), []


def _do_sha256(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    return _hash(_regular(request["path"])[0]), []


def _do_read(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    place, _ = _regular(request["path"])
    with open(place, "rb") as file:
        file.seek(request["offset"])
        block = file.read(request["length"])
    return len(block), [block]


def _do_begin(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    place = _place(request["path"], make=True)
    if os.path.islink(place) or os.path.isdir(place):
        raise FileExistsError(place)
    part = place + "." + secrets.token_hex(4) + PART
    parts[part] = (place, open(part, "xb"), hashlib.sha256())
    return part, []


def _do_append(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    _, file, digest = parts[request["part"]]
    for buffer in buffers:
        file.write(buffer)
        digest.update(buffer)
    return file.tell(), []


def _do_commit(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    place, file, digest = parts.pop(request["part"])
    file.close()
    if digest.hexdigest() != request["sha256"]:
        os.unlink(request["part"])
        raise ValueError("sha256")
    os.replace(request["part"], place)
    return True, []


def _do_abort(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    _, file, _ = parts.pop(request["part"])
    file.close()
    os.unlink(request["part"])
    return True, []


def _do_delete(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    os.unlink(_regular(request["path"])[0])
    return True, []


_OPERATIONS = {
    "list": _do_list,
    "stat": _do_stat,
    "sha256": _do_sha256,
    "read": _do_read,
    "begin": _do_begin,
    "append": _do_append,
    "commit": _do_commit,
    "abort": _do_abort,
    "delete": _do_delete,
}
