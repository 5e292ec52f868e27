"""Code that runs inside a remote Python kernel, as a module that its user does not see.

It finds, lists and moves files where the server has no way to, or only a slow one. It runs on any
Python from 3.8 and uses only the standard library and what ipykernel has. Nothing here is trusted
by our side: user code can change it.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
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

# Where the system cannot open relative to an open folder (Windows), paths are compared instead.
WALKS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")

FOLDER_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
)

FILE_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

PART_FLAGS = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

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
    if os.path.islink(root):
        raise NotADirectoryError(root)
    os.makedirs(root, exist_ok=True)
    os.chdir(root)
    _note_changes()
    _accept_messages()
    return hello()


def stay(with_hidden: bool = False) -> Answer:
    """Take the folder that the kernel was started in; most servers do not serve hidden files.

    File messages are accepted too: the server's own way follows links, and is slower.
    """
    global root, hidden
    root = os.getcwd()
    hidden = with_hidden
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
    """Delete the session's folder and all in it; links are deleted, and not followed."""
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
            digests[path] = [size, modified, _hash(path)]
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


@contextlib.contextmanager
def _place(path: str, make: bool = False) -> Any:
    """Yield the name of `path` and the open folder that it is in; no link is followed.

    Code may put a link in the place of a folder at any time, so each folder is opened from the one
    before it. Without a way to do so, the name is a whole path and the folder is None.
    """
    names = path.split("/")
    if any(name in ("", ".", "..") for name in names):
        raise FileNotFoundError(path)
    if not WALKS:
        yield _find_place(names, make), None
        return
    folder = os.open(root, FOLDER_FLAGS)
    try:
        for name in names[:-1]:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
            try:
                inner = os.open(name, FOLDER_FLAGS, dir_fd=folder)
            except OSError as exc:
                if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                raise (FileExistsError if make else FileNotFoundError)(path) from exc
            os.close(folder)
            folder = inner
        yield names[-1], folder
    finally:
        os.close(folder)


def _find_place(names: list[str], make: bool) -> str:
    place = os.path.realpath(root)
    for name in names[:-1]:
        place = os.path.join(place, name)
        if make and not os.path.lexists(place):
            os.mkdir(place)
        if os.path.normcase(os.path.realpath(place)) != os.path.normcase(place):
            raise (FileExistsError if make else FileNotFoundError)(place)
    return os.path.join(place, names[-1])


def _open(path: str) -> Any:
    """Open a regular file to read it."""
    with _place(path) as (name, folder):
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise FileNotFoundError(path)
        try:
            file = open(os.open(name, FILE_FLAGS, dir_fd=folder), "rb")
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise FileNotFoundError(path) from exc
            raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(path)
    return file


def _hash(path: str) -> str:
    digest = hashlib.sha256()
    with _open(path) as file:
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
    with _open(request["path"]) as file:
        return _row(request["path"], os.fstat(file.fileno())), []


def _do_sha256(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    return _hash(request["path"]), []


def _do_read(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    with _open(request["path"]) as file:
        file.seek(request["offset"])
        block = file.read(request["length"])
    return len(block), [block]


class Part:
    """A file that is not complete yet; it is written beside its place and then takes that."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.at = contextlib.ExitStack()
        self.name, self.folder = self.at.enter_context(_place(path, make=True))
        self.part = os.path.join(
            os.path.dirname(self.name), "upload-" + secrets.token_hex(8) + PART
        )
        try:
            self._check()
            self.file = open(os.open(self.part, PART_FLAGS, 0o666, dir_fd=self.folder), "wb")
        except BaseException:
            self.at.close()
            raise

    def _check(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            facts = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                raise FileExistsError(self.path)

    def commit(self) -> None:
        """Take the place, also of a link."""
        with self.at:
            self.file.close()
            try:
                os.replace(self.part, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            except OSError:
                os.unlink(self.part, dir_fd=self.folder)
                raise

    def abort(self) -> None:
        """Leave nothing."""
        with self.at:
            self.file.close()
            os.unlink(self.part, dir_fd=self.folder)


def _do_begin(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    if not hidden and any(name.startswith(".") for name in request["path"].split("/")):
        raise PermissionError(request["path"])
    part = secrets.token_hex(8)
    parts[part] = Part(request["path"])
    return part, []


def _do_append(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    part = parts[request["part"]]
    for buffer in buffers:
        part.file.write(buffer)
        part.digest.update(buffer)
    return part.file.tell(), []


def _do_commit(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    part = parts.pop(request["part"])
    if part.digest.hexdigest() != request["sha256"]:
        part.abort()
        raise ValueError("sha256")
    part.commit()
    return True, []


def _do_abort(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    parts.pop(request["part"]).abort()
    return True, []


def _do_delete(request: dict[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
    with _place(request["path"]) as (name, folder):
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise FileNotFoundError(request["path"])
        os.unlink(name, dir_fd=folder)
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
