"""Run a command as an ordinary user: `python as_nobody.py path… -- command…`, started as root.

The paths are made reachable for that user in a mount namespace of its own: a Python that root
installed in its home directory is not, otherwise.
"""

import os
import sys
import tempfile
from pathlib import Path

from ci_tools_kernels.inside.syscalls import (
    CLONE_NEWNS,
    MS_REC,
    MS_SLAVE,
    bind,
    mount,
    unmount,
    unshare,
)

NOBODY = 65534


def main() -> None:
    """Uncover the paths, become nobody, and run the command."""
    at = sys.argv.index("--")
    unshare(CLONE_NEWNS)
    mount("none", "/", "", MS_SLAVE | MS_REC)
    hidden: dict[str, set[str]] = {}
    for path in map(os.path.realpath, sys.argv[1:at]):
        for parent in reversed(Path(path).parents):
            if not parent.stat().st_mode & 0o001:
                hidden.setdefault(str(parent), set()).add(path)
                break
    for ancestor, paths in hidden.items():
        held = {}
        for path in paths:
            held[path] = tempfile.mkdtemp()
            bind(path, held[path], 0)
        mount("tmpfs", ancestor, "tmpfs", 0, "mode=0755")
        for path, folder in held.items():
            os.makedirs(path, exist_ok=True)
            bind(folder, path, 0)
            unmount(folder)
            os.rmdir(folder)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])


if __name__ == "__main__":
    main()
