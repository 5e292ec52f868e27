"""Removing a session's folder, whatever code has left in it.

Folders can be nested deeper than a program can recurse or open files, they can be closed to their
own owner, and anything can be a link. So this goes from folder to folder by descriptors, follows
no link, and brings up what is deep before it goes on.
"""

import contextlib
import os
import secrets
import shutil
from pathlib import Path

DEEPEST = 64
"""Folders that are open at once."""

_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)

_HAS_DESCRIPTORS = {os.open, os.unlink, os.rmdir, os.rename} <= os.supports_dir_fd


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it; what cannot be removed stays. Blocks."""
    if not _HAS_DESCRIPTORS:
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        above = os.open(folder.parent, _FLAGS)
        try:
            _remove(folder.name, above)
        finally:
            os.close(above)


def _remove(name: str, above: int) -> None:
    top = _open(name, above)
    if top is None:
        return
    # Of each open folder: the descriptor, its own name, and the names in it that are yet to go.
    stack = [(top, name, os.listdir(top))]
    try:
        while stack:
            fd, own, names = stack[-1]
            if not names:
                stack.pop()
                os.close(fd)
                with contextlib.suppress(OSError):
                    os.rmdir(own, dir_fd=stack[-1][0] if stack else above)
                continue
            found = names.pop()
            with contextlib.suppress(OSError):
                os.unlink(found, dir_fd=fd)
                continue
            below = _open(found, fd)
            if below is None:
                continue  # gone, or nobody may remove it
            if len(stack) < DEEPEST:
                stack.append((below, found, os.listdir(below)))
                continue
            os.close(below)
            with contextlib.suppress(OSError):
                brought_up = secrets.token_hex(16)
                os.rename(found, brought_up, src_dir_fd=fd, dst_dir_fd=top)
                stack[0][2].append(brought_up)
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def _open(name: str, above: int) -> int | None:
    """Open a folder and make it one that its owner may change; None if it is none."""
    try:
        fd = os.open(name, _FLAGS, dir_fd=above)
    except PermissionError:
        with contextlib.suppress(OSError):
            _unlock(name, above)
        with contextlib.suppress(OSError):
            return os.open(name, _FLAGS, dir_fd=above)
        return None
    except OSError:
        return None
    with contextlib.suppress(OSError):
        os.fchmod(fd, 0o700)
    return fd


def _unlock(name: str, above: int) -> None:
    """Let its owner into a folder; not into what a link in its place leads to."""
    path = getattr(os, "O_PATH", None)
    if path is None:
        os.chmod(name, 0o700, dir_fd=above, follow_symlinks=False)
        return
    fd = os.open(name, path | _FLAGS, dir_fd=above)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)
