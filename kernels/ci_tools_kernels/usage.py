"""What a session uses, measured from outside: for limits that no mechanism of the system holds."""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass

BUFFER = 208 << 10
"""Bytes that a full socket holds, unless the machine's settings were changed."""

DEEPEST = 200
"""Folders inside folders; more is taken for an attempt to hide."""


@dataclass(frozen=True)
class Usage:
    """Disk space in bytes, and files."""

    size: int
    files: int
    too_deep: bool = False


class TooDeepError(Exception):
    """There are more folders inside folders than anybody needs."""


def measure_folder(folder: str, *, most_files: int) -> Usage:
    """Add up a folder, following no link and counting no file twice; stops past `most_files`."""
    size = files = 0
    seen: set[tuple[int, int]] = set()
    try:
        for _, _, found in walk_folder(folder):
            files += 1
            if (found.st_dev, found.st_ino) not in seen:
                size += found.st_blocks * 512
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                    seen.add((found.st_dev, found.st_ino))
            if files > most_files:
                break
    except TooDeepError:
        return Usage(size, files, too_deep=True)
    return Usage(size, files)


def walk_folder(folder: str) -> Iterator[tuple[int, str, os.stat_result]]:
    """Iterate for all that is below a folder: the folder it is in, open; its name; what it is.

    Links are not followed, and a folder comes before what is in it, which is looked up after that.

    Raises:
        TooDeepError: After all that comes before.
    """
    try:
        stack = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)]
    except OSError:
        return
    iterators = [iter(_list(stack[0]))]
    try:
        while stack:
            name = next(iterators[-1], None)
            if name is None:
                os.close(stack.pop())
                iterators.pop()
                continue
            try:
                found = os.stat(name, dir_fd=stack[-1], follow_symlinks=False)
            except OSError:
                continue  # gone meanwhile
            yield stack[-1], name, found
            if stat.S_ISDIR(found.st_mode):
                if len(stack) >= DEEPEST:
                    raise TooDeepError
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                try:
                    stack.append(os.open(name, flags, dir_fd=stack[-1]))
                except OSError:
                    continue
                iterators.append(iter(_list(stack[-1])))
    finally:
        for fd in stack:
            os.close(fd)


def _list(fd: int) -> list[str]:
    try:
        return os.listdir(fd)
    except OSError:
        return []


def measure_deleted(pids: list[int], device: int) -> int:
    """Return the bytes on `device` that these processes hold in files without a name."""
    size = 0
    seen: set[int] = set()
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                found = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if found.st_nlink == 0 and found.st_dev == device and found.st_ino not in seen:
                seen.add(found.st_ino)
                size += found.st_blocks * 512
    return size


def measure_memory(pids: list[int], *, most: int = sys.maxsize) -> int:
    """Return the memory of these processes in bytes, each shared page counted by its share.

    What sockets hold is in no process: as soon as there are so many that it could be too much,
    each counts as if it were full. The counting stops at `most`.
    """
    size = sum(_proportional_size(pid) for pid in pids)
    if size + BUFFER * sum(map(_count_descriptors, pids)) > most:
        size += BUFFER * _count_sockets(pids, (most - size) // BUFFER + 1)
    return size


def _count_descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _count_sockets(pids: list[int], enough: int) -> int:
    seen: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                if len(seen) >= enough:
                    return len(seen)
                with contextlib.suppress(OSError):
                    found = os.stat(f"/proc/{pid}/fd/{name}")
                    if stat.S_ISSOCK(found.st_mode):
                        seen.add(found.st_ino)
    return len(seen)


def _proportional_size(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def list_processes(first: int) -> list[int]:
    """Return the process and all its descendants."""
    return list(_descend(first))


def _descend(pid: int) -> Iterator[int]:
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        yield pid
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    waiting += [int(word) for word in file.read().split()]
        except OSError:
            continue
