"""Code that runs inside a remote Python kernel, as a module that its user does not see.

It finds, lists and moves files where the server has no way to, or only a slow one. It runs on any
Python from 3.8 and uses only the standard library and what ipykernel has. Nothing here is trusted
by our side: user code can change it.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import queue
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from typing import Any

MEDIA_TYPE = "application/vnd.ci-tools.files+json"

COMM_TARGET = "ci_tools.files"

PART = ".ci-tools-part"

LISTED = 10000
"""Files that are listed after an execution; of more, nothing is said."""

HASHED = 64 << 20
"""Bytes of changed files that are hashed after an execution."""

DISCARDED = 64 << 20
"""Bytes past its output limit that a command may go on to write before it is ended."""

PIPE_GRACE = 5.0
"""Seconds to read what is left in the pipes of a command that has ended."""

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
    root = os.path.abspath(folder)
    hidden = True
    os.makedirs(root, exist_ok=True)
    os.chdir(root)
    _note_changes()
    _accept_messages()
    return hello()


def stay() -> Answer:
    """Take the folder that the kernel was started in, whose server hides hidden files.

    File messages are accepted too: large files come faster this way than through the server.
    """
    global root
    root = os.getcwd()
    _note_changes()
    _accept_messages()
    return hello()


def _accept_messages() -> None:
    from IPython import get_ipython

    get_ipython().kernel.comm_manager.register_target(COMM_TARGET, _on_open)


def hello() -> Answer:
    """Say where the session's folder is."""
    return Answer([root])


def remove() -> Answer:
    """Delete the session's folder and all in it."""
    os.chdir(os.path.dirname(root))
    shutil.rmtree(root, ignore_errors=True)
    return hello()


def run(command: str, folder: str, timeout: float, limit: int) -> Answer:
    """Run a shell command in a folder of the session; print what it writes, say how it ended."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=os.path.join(root, folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    pieces: Any = queue.Queue(64)
    decoders = {}
    for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
        decoders[name] = codecs.getincrementaldecoder("utf-8")("replace")
        threading.Thread(target=_read_pipe, args=(name, pipe, pieces), daemon=True).start()
    dropped = 0
    timed_out = False
    end_at = time.monotonic() + timeout
    give_up_at = None
    reading = 2
    try:
        while reading and (give_up_at is None or time.monotonic() < give_up_at):
            if give_up_at is None and (process.poll() is not None or time.monotonic() >= end_at):
                timed_out = process.poll() is None
                _kill(process)
                give_up_at = time.monotonic() + PIPE_GRACE
            try:
                name, block = pieces.get(timeout=0.02)
            except queue.Empty:
                continue
            reading -= not block
            kept = block[:limit]
            limit -= len(kept)
            dropped += len(block) - len(kept)
            if dropped > DISCARDED:
                _kill(process)
            text = decoders[name].decode(kept, not block)
            if text:
                stream = getattr(sys, name)
                stream.write(text)
                stream.flush()
    finally:
        if process.returncode is None:
            _kill(process)
        process.wait()
    return Answer([process.returncode, timed_out, dropped > 0])


def _read_pipe(name: str, pipe: Any, pieces: Any) -> None:
    with pipe:
        while True:
            block = pipe.read1(BLOCK)
            pieces.put((name, block))
            if not block:
                return


def _kill(process: Any) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass


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
    if not hidden and any(name.startswith(".") for name in request["path"].split("/")):
        raise PermissionError(request["path"])
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
