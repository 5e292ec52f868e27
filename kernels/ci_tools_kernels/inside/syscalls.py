"""The Linux system calls that the standard library has no function for, through ctypes."""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

if sys.platform != "win32":  # there, this module is imported only to say that it is not Linux
    from fcntl import ioctl

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REC = 0x4000
MS_SLAVE = 1 << 19
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_IDMAP = 0x00100000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LAST_CAPABILITY = 63
"""Capabilities are tried up to this number; the kernel refuses those that it does not know."""

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_MOVE_MOUNT_F_EMPTY_PATH = 0x4

# The newer calls have one number on every architecture; the two old ones do not.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}

_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None


def _check(result: int, call: str, *paths: object) -> int:
    if result < 0:
        number = ctypes.get_errno()
        detail = " ".join(str(path) for path in paths)
        raise OSError(number, f"{call} {detail}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: object) -> int:
    """Make a raw system call; a negative result raises `OSError`."""
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), f"syscall {number}")


def unshare(flags: int) -> None:
    """Leave the shared namespaces of these `CLONE_NEW…` flags."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare", hex(flags))


def setns(fd: int, kind: int) -> None:
    """Join the namespace behind `fd`, of this `CLONE_NEW…` kind."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns", hex(kind))


def prctl(option: int, argument: int = 0) -> None:
    """Change an attribute of this process."""
    _check(
        _libc.prctl(
            ctypes.c_int(option),
            *(ctypes.c_ulong(value) for value in (argument, 0, 0, 0)),
        ),
        "prctl",
        option,
    )


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system, or change a mount's propagation."""
    _check(
        _libc.mount(
            source.encode(),
            target.encode(),
            kind.encode(),
            ctypes.c_ulong(flags),
            options.encode(),
        ),
        "mount",
        kind or source,
        target,
    )


def unmount(target: str) -> None:
    """Detach the mounts at and below `target`."""
    _check(_libc.umount2(target.encode(), ctypes.c_int(MNT_DETACH)), "umount", target)


def pivot_root() -> None:
    """Make the current directory the root and detach what was there before."""
    syscall(_PIVOT_ROOT[platform.machine()], b".", b".")
    unmount(".")
    os.chdir("/")


def bind(
    source: str,
    target: str,
    attributes: int,
    *,
    recursive: bool = True,
    idmap_fd: int | None = None,
) -> None:
    """Show `source` at `target` too, with more restrictive attributes.

    `idmap_fd` is a user namespace that says which owner on disk is which user on this mount.
    """
    tree = clone_mount(source, attributes, recursive=recursive, idmap_fd=idmap_fd)
    try:
        place_mount(tree, target)
    finally:
        os.close(tree)


def clone_mount(
    source: str, attributes: int, *, recursive: bool = True, idmap_fd: int | None = None
) -> int:
    """Return a descriptor of a mount of `source` that is nowhere to be seen yet."""
    recurse = _AT_RECURSIVE if recursive else 0
    try:
        tree = syscall(
            _OPEN_TREE,
            ctypes.c_int(_AT_FDCWD),
            source.encode(),
            ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | recurse),
        )
    except OSError as exc:
        raise OSError(exc.errno, f"mount of {source}: {exc.strerror}") from exc
    try:
        if idmap_fd is not None:
            attributes |= MOUNT_ATTR_IDMAP
        _set_attributes(tree, attributes, recurse, idmap_fd or 0)
    except OSError as exc:
        os.close(tree)
        raise OSError(exc.errno, f"attributes of {source}: {exc.strerror}") from exc
    return tree


def place_mount(tree: int, target: str) -> None:
    """Put a mount from `clone_mount` at `target`."""
    try:
        syscall(
            _MOVE_MOUNT,
            ctypes.c_int(tree),
            b"",
            ctypes.c_int(_AT_FDCWD),
            target.encode(),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        )
    except OSError as exc:
        raise OSError(exc.errno, f"mount at {target}: {exc.strerror}") from exc


def restrict_mount(target: str, attributes: int) -> None:
    """Add attributes to the mount at `target`, not to those below it."""
    fd = os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        _set_attributes(fd, attributes, 0, 0)
    finally:
        os.close(fd)


def _set_attributes(fd: int, attributes: int, recurse: int, idmap_fd: int) -> None:
    block = struct.pack("=QQQQ", attributes, 0, 0, idmap_fd)
    syscall(
        _MOUNT_SETATTR,
        ctypes.c_int(fd),
        b"",
        ctypes.c_uint(_AT_EMPTY_PATH | recurse),
        block,
        ctypes.c_size_t(len(block)),
    )


def drop_capabilities() -> None:
    """Give up every capability, for this process and whatever it starts."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as exc:
            # No such capability, or none left to drop others with: bubblewrap has dropped all.
            if exc.errno in (errno.EINVAL, errno.EPERM):
                break
            raise
    header = struct.pack("=Ii", 0x20080522, 0)
    syscall(_CAPSET[platform.machine()], header, bytes(24))


def bring_up_loopback() -> None:
    """Switch on the `lo` interface of this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        ioctl(probe, 0x8914, request)  # SIOCSIFFLAGS


def map_user(inside: int, outside: int, group: int) -> None:
    """Give this fresh user namespace one user and group: `inside`, which is `outside` around it."""
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{inside} {outside} 1")
    _write("/proc/self/gid_map", f"{inside} {group} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def close_fds(keep: Sequence[int]) -> None:
    """Close every file descriptor above 2 that is not in `keep`."""
    last = 2
    for fd in sorted(keep):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, 1 << 20)
