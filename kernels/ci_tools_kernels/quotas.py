"""Project quotas: a session's disk limit, held by the file system that its folder is on.

How this works: a folder is made a project of its own, which whatever is made in it belongs to, and
the project has a limit of bytes and one of files. The file system refuses what goes beyond, and
nothing has to be ended. It needs XFS, or ext4 with the features `quota` and `project`, mounted
with `prjquota`, and a service that is root. The number of a project is kept by its folder, nowhere
else: it is found again after a restart, and given back once nothing has it any more.

The calls are those of quotactl_fd(2) and ioctl_xfs_fsgetxattr(2); the numbers and structures are
those of <linux/quota.h>, <linux/dqblk_xfs.h> and <linux/fs.h>.
"""

import contextlib
import ctypes
import errno
import os
import random
import shutil
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator

from ci_tools_kernels.inside.syscalls import syscall
from ci_tools_kernels.usage import TooDeepError, Usage, walk_folder

if sys.platform != "win32":
    from fcntl import ioctl

FIRST_PROJECT = 0x40000000
MOST_PROJECTS = 0x3FFFFFFF
"""Projects of ours have numbers in this range; those of operators, in /etc/projects, are small."""

TRIES = 20
"""Numbers that are tried before giving up; the first is free unless somebody counts up to it."""

_QUOTACTL_FD = 443
_PROJECT = 2
_GET_STATE = (ord("X") << 8) + 5  # Q_XGETQSTAT
_GET, _SET, _GET_NEXT = 0x800007, 0x800008, 0x800009
_ENFORCED = 1 << 5  # FS_QUOTA_PDQ_ENFD
_LIMITS = 1 | 4  # QIF_BLIMITS | QIF_ILIMITS
_BLOCK = 1024
"""Bytes that limits are counted in."""

_QUOTA = struct.Struct("=QQQQQQQQII")
"""`struct if_nextdqblk`: limits of blocks (hard, soft), bytes used, limits of files (hard, soft),
files, two times, which of them are valid, and the project; `if_dqblk` is the same without that."""

_STATE = 128
"""Bytes that `struct fs_quota_stat` fits into; its flags are 16 bits at 2."""

_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
_ATTRIBUTES = struct.Struct("=IIIII8x")
"""`struct fsxattr`: flags, extent size, extents, project, another size."""

_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

_MISSING = (
    "no project quotas are in force on the file system of {folder} ({kind}): they need XFS, or ext4"
    " with the features `quota` and `project`, mounted with `prjquota`"
)


class QuotaError(OSError):
    """The folder could not be given a limit, although its file system has project quotas."""


def find_obstacle(folder: str) -> str | None:
    """Try a limit out below `folder`; return why there can be none, or None if it holds."""
    try:
        fd = os.open(folder, _FOLDER)
    except OSError as exc:
        return f"{folder} cannot be looked at: {exc.strerror}"
    try:
        reason = _find_missing(fd, folder)
        if reason is None and os.geteuid() != 0:
            reason = "only root may set project quotas, and this service is another user"
        return reason or _try_out(folder)
    finally:
        os.close(fd)


def count_limits(folder: str) -> int:
    """Count the limits of ours on the file system that a folder is on."""
    fd = os.open(folder, _FOLDER)
    try:
        return sum(1 for _ in _list_quotas(fd))
    finally:
        os.close(fd)


def _find_missing(fd: int, folder: str) -> str | None:
    try:
        enforced = _is_enforced(fd)
    except OSError as exc:
        if exc.errno == errno.ENOSYS and _kind_of(folder) in ("ext4", "xfs"):
            return (
                f"project quotas are not supported for the file system of {folder}"
                f" ({_kind_of(folder)}) by this Linux"
            )
        enforced = False
    return None if enforced else _MISSING.format(folder=folder, kind=_kind_of(folder))


def _try_out(folder: str) -> str | None:
    """See that a folder's project is inherited, counted and given back."""
    quotas = Quotas()
    try:
        trial = tempfile.mkdtemp(prefix=".ci-tools-trial-", dir=folder)
    except OSError as exc:
        return f"{folder} cannot be written to: {exc.strerror}"
    try:
        os.mkdir(os.path.join(trial, "before"))
        quotas.limit(trial, size=1 << 20, files=10)
        os.mkdir(os.path.join(trial, "after"))
        used = quotas.find_used(trial)
        if used is not None and used.files == 2:
            return None
        return f"the file system of {folder} does not count what belongs to a project"
    except OSError as exc:
        return f"no project quota can be set on the file system of {folder}: {exc.strerror}"
    finally:
        shutil.rmtree(trial)
        quotas.close()


def _kind_of(folder: str) -> str:
    """Return the name of the file system that a folder is on, as /proc/self/mountinfo has it."""
    number = os.stat(folder).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    kind = "unknown"
    with contextlib.suppress(OSError), open("/proc/self/mountinfo") as file:
        for line in file:
            own, _, other = line.partition(" - ")
            if own.split()[2] == device:
                kind = other.split()[0]
    return kind


class Quotas:
    """The projects that one server has made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._without: set[int] = set()
        """Devices of file systems that have no project quotas."""

        self._devices: dict[int, int] = {}
        """A descriptor on each file system that has: folders go, and their limits are to follow."""

        self._projects: dict[str, tuple[int, int]] = {}
        """Of each folder: such a descriptor, and the project."""

    def may_limit(self, folder: str) -> bool:
        """Tell whether `limit` is worth trying; cheap, for it is asked at every start."""
        if os.geteuid() != 0:
            return False
        device = os.stat(folder).st_dev
        if device in self._devices:
            return True
        if device in self._without:
            return False
        fd = os.open(folder, _FOLDER)
        try:
            enforced = _is_enforced(fd)
        except OSError:
            enforced = False
        finally:
            os.close(fd)
        if not enforced:
            self._without.add(device)
        return enforced

    def limit(self, folder: str, *, size: int, files: int) -> None:
        """Let the folder hold at most `size` bytes and `files` files; what is in it counts.

        Blocks while a folder with files in it is gone through, the first time.

        Raises:
            QuotaError: There are no project quotas, or no right to set them.
        """
        try:
            fd = os.open(folder, _FOLDER)
            try:
                with self._lock:
                    self._give_back_removed()
                    project = _find_project(fd) or _take_project(fd, folder)
                    _set_limits(fd, project, size=size, files=files + 1)  # itself is one
                    self._projects[folder] = (self._keep_device(folder), project)
            finally:
                os.close(fd)
        except OSError as exc:
            raise QuotaError(exc.errno, exc.strerror or str(exc), folder) from exc

    def find_used(self, folder: str) -> Usage | None:
        """Return what is in a folder, as the file system counts it; None without a limit."""
        try:
            fd = os.open(folder, _FOLDER)
        except OSError:
            return None
        try:
            project = _find_project(fd)
            if project is None:
                return None
            quota = _get(fd, project)
            return Usage(size=quota[2], files=max(quota[5] - 1, 0))
        except OSError:
            return None
        finally:
            os.close(fd)

    @property
    def in_use(self) -> bool:
        """Whether there is anything to give back."""
        return bool(self._devices)

    def give_back_removed(self) -> None:
        """Forget the limits of all folders that are gone, those of killed servers among them.

        File systems may count what was removed for a while; it is forgotten the next time then.
        """
        with self._lock:
            self._give_back_removed()
            for fd in self._devices.values():
                with contextlib.suppress(OSError):
                    _clear_unused(fd)

    def close(self) -> None:
        """Forget the limits of folders that are gone; those that are there keep theirs."""
        self.give_back_removed()
        with self._lock:
            for fd in self._devices.values():
                os.close(fd)
            self._devices.clear()
            self._projects.clear()

    def _keep_device(self, folder: str) -> int:
        device = os.stat(folder).st_dev
        if device not in self._devices:
            kept = self._devices[device] = os.open(_find_top(folder), _FOLDER)
            with contextlib.suppress(OSError):
                _clear_unused(kept)
        return self._devices[device]

    def _give_back_removed(self) -> None:
        for folder, (fd, project) in list(self._projects.items()):
            if os.path.lexists(folder):
                continue
            with contextlib.suppress(OSError):
                if _get(fd, project)[5]:
                    continue  # something in it is still open, or its sandbox is not all gone
                _set_limits(fd, project, size=0, files=0)
            del self._projects[folder]


def _find_top(folder: str) -> str:
    """Return the highest folder on the same file system: who keeps that open is in nobody's way."""
    device = os.stat(folder).st_dev
    while (above := os.path.dirname(folder)) != folder and os.stat(above).st_dev == device:
        folder = above
    return folder


def _is_enforced(fd: int) -> bool:
    state = ctypes.create_string_buffer(_STATE)
    _quotactl(fd, _GET_STATE, 0, state)
    return bool(struct.unpack_from("=H", state, 2)[0] & _ENFORCED)


def _quotactl(fd: int, command: int, project: int, block: "ctypes.Array[ctypes.c_char]") -> None:
    numbers = (fd, (command << 8) | _PROJECT, project)
    syscall(_QUOTACTL_FD, *(ctypes.c_uint(number) for number in numbers), block)


def _get(fd: int, project: int, command: int = _GET) -> tuple[int, ...]:
    block = ctypes.create_string_buffer(_QUOTA.size)
    _quotactl(fd, command, project, block)
    return _QUOTA.unpack(block)


def _set_limits(fd: int, project: int, *, size: int, files: int) -> None:
    values = (size // _BLOCK, 0, 0, files, 0, 0, 0, 0, _LIMITS, 0)
    block = ctypes.create_string_buffer(_QUOTA.pack(*values), _QUOTA.size)
    _quotactl(fd, _SET, project, block)


def _list_quotas(fd: int) -> Iterator[tuple[int, ...]]:
    """Iterate for the projects of ours that have limits or files, on the file system of `fd`."""
    project = FIRST_PROJECT
    while project <= FIRST_PROJECT + MOST_PROJECTS:
        try:
            quota = _get(fd, project, _GET_NEXT)
        except OSError:
            return  # ENOENT: that was the last
        project = quota[9]
        if project <= FIRST_PROJECT + MOST_PROJECTS and (quota[0] or quota[3] or quota[5]):
            yield quota
        project += 1


def _clear_unused(fd: int) -> None:
    """Remove the limits of projects of ours that have no files."""
    for quota in _list_quotas(fd):
        if quota[5] == 0:
            _set_limits(fd, quota[9], size=0, files=0)


def _find_project(fd: int) -> int | None:
    """Return the project of ours that a folder is, or None.

    Raises:
        OSError: It belongs to a project of somebody else's.
    """
    flags, _, _, project, _ = _ATTRIBUTES.unpack(ioctl(fd, _GET_ATTRIBUTES, bytes(28)))
    if project == 0:
        return None
    if not (FIRST_PROJECT <= project <= FIRST_PROJECT + MOST_PROJECTS and flags & _INHERIT):
        raise OSError(errno.EBUSY, f"it belongs to the project {project} already")
    return int(project)


def _take_project(fd: int, folder: str) -> int:
    """Make a folder, and all in it, a project that nothing else is."""
    for _ in range(TRIES):
        project = FIRST_PROJECT + random.randrange(MOST_PROJECTS + 1)  # noqa: S311 -- no secret
        try:
            if _get(fd, project)[5]:
                continue
        except FileNotFoundError:
            pass  # XFS knows nothing of it yet
        _set_project(fd, project)
        # What is made from now on belongs to it; what was there before is to follow.
        with contextlib.suppress(TooDeepError):  # which the code that made it does not profit from
            for above, name, found in walk_folder(folder):
                if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
                    with contextlib.suppress(OSError):  # gone meanwhile, or a link in its place
                        _set_project_of(above, name, project)
        return project
    raise OSError(errno.EUSERS, "no free project was found")


def _set_project_of(above: int, name: str, project: int) -> None:
    fd = os.open(name, _FILE, dir_fd=above)
    try:
        _set_project(fd, project)
    finally:
        os.close(fd)


def _set_project(fd: int, project: int) -> None:
    flags, *others, _, more = _ATTRIBUTES.unpack(ioctl(fd, _GET_ATTRIBUTES, bytes(28)))
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        flags |= _INHERIT
    ioctl(fd, _SET_ATTRIBUTES, _ATTRIBUTES.pack(flags, *others, project, more))
