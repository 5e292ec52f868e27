"""A session's folder on this machine.

How this works: user code owns the folder and may put anything into it at any time: symbolic links
(also in the place of a folder that was checked a moment ago), fifos, sockets, devices, hard links.
So a path is walked part by part, each folder opened relative to the one before it and without
following links, and what is opened at the end must be a regular file. No symbolic link below the
root is ever followed. Systems without such calls (Windows) compare real paths instead.
"""

import errno
import hashlib
import os
import secrets
import stat
import sys
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from anyio import to_thread

from ci_tools.errors import BackendError, InvalidPathError, LimitError, NotFoundError
from ci_tools.kernel import FileStat
from ci_tools.paths import DEPTH_LIMIT, TEMPORARY, WINDOWS, check_path, is_listed

if sys.platform == "linux":
    import fcntl

__all__ = ["BLOCK", "LocalWorkspace", "check_path"]

BLOCK = 1 << 20
"""Bytes that are read or written at once."""

_SLICE = 64 << 20
"""Bytes that are copied or hashed in one stay in a thread; a cancelled task waits for one."""

_INLINE_BYTES = 64 << 10
"""Bytes up to which reading here is cheaper than the hop to a thread (about 60 µs)."""

_INLINE_ENTRIES = 256
"""Folder entries that are listed here; more of them are listed in a thread."""

_THREAD_ENTRIES = 20_000
"""Folder entries that are listed in one stay in a thread; a cancelled task waits for one."""

_FICLONE = 0x40049409
"""Linux's ioctl that lets a file share the blocks of another until one of them is written."""

_DIRECTORY_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
)

_FILE_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a fifo must not stop the service
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

_PART_FLAGS = (
    os.O_RDWR
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """An open folder; system calls take `at(name)` with `dir_fd=fd`."""

    path: str
    fd: int | None

    def at(self, name: str) -> str:
        return name if self.fd is not None else os.path.join(self.path, name)

    def open(self, name: str, flags: int) -> int:
        return os.open(self.at(name), flags, 0o666, dir_fd=self.fd)

    def enter(self, name: str) -> "_Folder":
        """Open a folder in this one, which stays open."""
        path = os.path.join(self.path, name)
        if self.fd is None:
            return _Folder(path=_real_folder(path), fd=None)
        return _Folder(path=path, fd=os.open(name, _DIRECTORY_FLAGS, dir_fd=self.fd))

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


def _real_folder(path: str) -> str:
    """Return the path of a folder if no link or junction leads to another one."""
    if os.path.normcase(os.path.realpath(path)) != os.path.normcase(path):
        raise NotADirectoryError(errno.ENOTDIR, "a link", path)
    if not os.path.isdir(path):
        raise FileNotFoundError(errno.ENOENT, "no folder", path)
    return path


@contextmanager
def _os_errors(path: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what the system says about `path` into errors of ours."""
    try:
        yield
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as exc:
        if writing:
            raise InvalidPathError(path, "a file, folder or link is in its place") from exc
        raise NotFoundError("file", path) from exc
    except FileNotFoundError as exc:
        raise NotFoundError("file", path) from exc
    except PermissionError as exc:
        raise InvalidPathError(path, "its permissions do not allow it") from exc
    except OSError as exc:
        if exc.errno == errno.ELOOP and writing:
            raise InvalidPathError(path, "a symbolic link is in its place") from exc
        if exc.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket or a device without a driver
            raise NotFoundError("file", path) from exc
        if writing and exc.errno in _FULL:
            raise LimitError(
                f"The file {path!r} does not fit: the session's folder is full, or the disk is."
                " Delete files that are not needed."
            ) from exc
        raise BackendError(f"The file {path!r} cannot be used: {exc.strerror}.") from exc


_Walk: TypeAlias = Generator[FileStat | None, None, None]


def _walk(folder: _Folder, prefix: str, depth: int) -> _Walk:
    """Yield the files below in the order of their paths, and None for each entry read."""
    entries: list[tuple[str, os.DirEntry[str]]] = []
    try:
        with os.scandir(folder.path if folder.fd is None else folder.fd) as scan:
            for entry in scan:
                yield None
                if is_listed(entry.name):
                    is_folder = entry.is_dir(follow_symlinks=False)
                    # The slash makes a folder sort as its files do: "a.b" before "a/b".
                    entries.append((entry.name + "/" * is_folder, entry))
    except OSError:
        return  # removed or made unreadable meanwhile
    for name, entry in sorted(entries, key=itemgetter(0)):
        if name.endswith("/"):
            yield from _walk_inner(folder, name, prefix, depth)
            continue
        with suppress(OSError):
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                yield FileStat(path=prefix + name, size=found.st_size, modified_at=found.st_mtime)


def _walk_inner(folder: _Folder, name: str, prefix: str, depth: int) -> _Walk:
    if depth + 1 >= DEPTH_LIMIT:
        return
    try:
        inner = folder.enter(name[:-1])
    except OSError:
        return  # removed, made unreadable or a link by now
    try:
        yield from _walk(inner, prefix + name, depth + 1)
    finally:
        inner.close()


def _take(walk: _Walk, found: list[FileStat], limit: int, steps: int) -> bool:
    """Add files from `walk` to `found`; tell whether there is more after so many steps."""
    if len(found) >= limit:
        return False
    for file in islice(walk, steps):
        steps -= 1
        if file is not None:
            found.append(file)
            if len(found) >= limit:
                return False
    return steps == 0


def _spellings(path: str) -> Sequence[str]:
    """Name what may be on disk for a composed `path`: some programs write decomposed names."""
    if path.isascii():
        return (path,)
    decomposed = unicodedata.normalize("NFD", path)
    return (path,) if decomposed == path else (path, decomposed)


def _hash_slice(digest: "hashlib._Hash", fd: int, length: int) -> None:
    while length > 0:
        block = os.read(fd, min(BLOCK, length))
        if not block:
            return
        digest.update(block)
        length -= len(block)


async def _read_blocks(path: str, fd: int, offset: int, end: int) -> AsyncGenerator[bytes, None]:
    if offset and offset < end:
        os.lseek(fd, offset, os.SEEK_SET)
    while offset < end:
        length = min(BLOCK, end - offset)
        with _os_errors(path):
            if length <= _INLINE_BYTES:
                block = os.read(fd, length)
            else:
                block = await to_thread.run_sync(os.read, fd, length)
        if not block:
            return
        yield block
        offset += len(block)


async def _write_chunks(path: str, fd: int, chunks: AsyncIterator[bytes]) -> None:
    pending = bytearray()
    async for chunk in chunks:
        if len(chunk) >= BLOCK and not pending:  # no copy of a large chunk
            with _os_errors(path, writing=True):
                await to_thread.run_sync(_write_all, fd, chunk)
            continue
        pending += chunk
        if len(pending) >= BLOCK:
            with _os_errors(path, writing=True):
                await to_thread.run_sync(_write_all, fd, pending)
            pending = bytearray()
    with _os_errors(path, writing=True):
        if len(pending) <= _INLINE_BYTES:
            _write_all(fd, pending)
        else:
            await to_thread.run_sync(_write_all, fd, pending)


def _write_all(fd: int, content: bytes | bytearray) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


async def _copy_file(path: str, fd: int, source: Path) -> None:
    with _os_errors(path, writing=True), source.open("rb", buffering=0) as file:
        if _clone(file.fileno(), fd):
            return
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, _SLICE):
            await to_thread.run_sync(_copy_slice, file.fileno(), fd, min(_SLICE, size - start))


def _clone(source: int, target: int) -> bool:
    """Let `target` share the blocks of `source`, where the file system can (btrfs, XFS, …)."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _copy_slice(source: int, target: int, length: int) -> None:
    while length > 0:
        count = _copy_in_kernel(source, target, length)
        if count is None:
            block = os.read(source, min(BLOCK, length))
            _write_all(target, block)
            count = len(block)
        if count == 0:
            return
        length -= count


def _copy_in_kernel(source: int, target: int, length: int) -> int | None:
    """Copy without passing the bytes through this process; None where the system cannot."""
    if sys.platform != "linux":
        return None
    try:
        return os.copy_file_range(source, target, length)
    except OSError as exc:
        if exc.errno in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return None
        raise


class LocalWorkspace:
    """A session's folder on this machine; implements `ci_tools.kernel.Workspace`."""

    root: str

    def __init__(self, folder: Path, *, seen_as: str | None = None) -> None:
        """Use a folder, which code sees under the path `seen_as` if that is another one."""
        self._folder = os.path.realpath(folder) if WINDOWS else str(folder)
        self.root = seen_as or self._folder

    async def list_files(self, *, limit: int) -> Sequence[FileStat]:
        """List the regular files, recursively, sorted by path; at most `limit`.

        Names that `check_path` would refuse are left out.
        """
        found: list[FileStat] = []
        walk = self._walk_root()
        # Small folders are listed here, not in a thread: it is done after every run step, and for
        # an empty folder the hop would cost several times the listing.
        try:
            more = _take(walk, found, limit, _INLINE_ENTRIES)
            while more:
                more = await to_thread.run_sync(_take, walk, found, limit, _THREAD_ENTRIES)
        finally:
            walk.close()
        return found

    async def stat(self, path: str) -> FileStat:
        """Describe one regular file.

        Raises:
            NotFoundError: There is no regular file of that name.
        """
        path, fd, size, modified_at = self._open(path)
        os.close(fd)
        return FileStat(path=path, size=size, modified_at=modified_at)

    async def sha256(self, path: str) -> str:
        """Return the file's SHA-256 in hex, of as many bytes as it has when this begins."""
        path, fd, size, _ = self._open(path)
        digest = hashlib.sha256()
        try:
            if size <= _INLINE_BYTES:
                digest.update(os.read(fd, size))
            else:
                for start in range(0, size, _SLICE):
                    length = min(_SLICE, size - start)
                    await to_thread.run_sync(_hash_slice, digest, fd, length)
        finally:
            os.close(fd)
        return digest.hexdigest()

    @asynccontextmanager
    async def open_file(
        self, path: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a file's bytes in blocks of 1 MiB, or `length` of them from `offset`.

        The end is where it was when the file was opened, if code goes on writing to it.
        """
        path, fd, size, _ = self._open(path)
        end = size if length is None else min(size, offset + length)
        try:
            async with aclosing(_read_blocks(path, fd, offset, end)) as blocks:
                yield blocks
        finally:
            os.close(fd)

    async def write(
        self, path: str, chunks: AsyncIterator[bytes], *, source: Path | None = None
    ) -> None:
        """Write a file whole, creating its folders; it appears under its name only when complete.

        `source`, if given, is a local file with the same bytes: it is cloned where the file system
        can, else copied in the kernel, and `chunks` is not read.
        """
        path = check_path(path)
        *folders, name = path.split("/")
        with self._open_folder(path, folders, create=True) as folder:
            part = TEMPORARY + secrets.token_hex(8)
            with _os_errors(path, writing=True):
                fd = folder.open(part, _PART_FLAGS)
            try:
                try:
                    if source is None:
                        await _write_chunks(path, fd, chunks)
                    else:
                        await _copy_file(path, fd, source)
                finally:
                    os.close(fd)
                with _os_errors(path, writing=True):
                    os.replace(
                        folder.at(part),
                        folder.at(name),
                        src_dir_fd=folder.fd,
                        dst_dir_fd=folder.fd,
                    )
            except BaseException:
                with suppress(OSError):
                    os.unlink(folder.at(part), dir_fd=folder.fd)
                raise

    async def delete(self, path: str) -> None:
        """Delete one regular file.

        Raises:
            NotFoundError: There is no regular file of that name.
        """
        path = check_path(path)
        for spelling in _spellings(path):
            *folders, name = spelling.split("/")
            with suppress(NotFoundError), self._open_folder(path, folders) as folder:
                with _os_errors(path):
                    found = os.stat(folder.at(name), dir_fd=folder.fd, follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode):
                        os.unlink(folder.at(name), dir_fd=folder.fd)
                        return
        raise NotFoundError("file", path)

    def _open(self, path: str) -> tuple[str, int, int, float]:
        """Open a regular file: its checked path, descriptor, size and time of change."""
        path = check_path(path)
        for spelling in _spellings(path):
            *folders, name = spelling.split("/")
            with suppress(NotFoundError), self._open_folder(path, folders) as folder:
                with _os_errors(path):
                    found = os.stat(folder.at(name), dir_fd=folder.fd, follow_symlinks=False)
                    if not stat.S_ISREG(found.st_mode):
                        continue
                    fd = folder.open(name, _FILE_FLAGS)
                found = os.fstat(fd)
                if stat.S_ISREG(found.st_mode):
                    return path, fd, found.st_size, found.st_mtime
                os.close(fd)
        raise NotFoundError("file", path)

    @contextmanager
    def _open_folder(
        self, path: str, parts: Sequence[str], *, create: bool = False
    ) -> Iterator[_Folder]:
        """Open the folder of `path`, part by part; `create` makes what is missing."""
        folder = self._open_root(path, create=create)
        try:
            for part in parts:
                with _os_errors(path, writing=create):
                    if create:
                        with suppress(FileExistsError):
                            os.mkdir(folder.at(part), dir_fd=folder.fd)
                    inner = folder.enter(part)
                folder.close()
                folder = inner
            yield folder
        finally:
            folder.close()

    def _open_root(self, path: str, *, create: bool) -> _Folder:
        with _os_errors(path, writing=create):
            if create:
                os.makedirs(self._folder, exist_ok=True)
            if WINDOWS:
                return _Folder(path=_real_folder(self._folder), fd=None)
            return _Folder(path=self._folder, fd=os.open(self._folder, _DIRECTORY_FLAGS))

    def _walk_root(self) -> _Walk:
        try:
            root = self._open_root(self._folder, create=False)
        except (NotFoundError, InvalidPathError):
            return  # removed, or made a link or unreadable, by code
        try:
            yield from _walk(root, "", 0)
        finally:
            root.close()
