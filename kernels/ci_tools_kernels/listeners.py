"""The unix sockets that clients of a kernel connect to, bound by the server.

They outlive a restart, so clients stay connected or connect again at once, and the kernel itself
needs no directory that it shares with the server.
"""

import contextlib
import os
import shutil
import socket
from pathlib import Path

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
"""The order is a kernel's: a channel's port is its place, counted from one."""

LONGEST_PATH = 107
"""Bytes that fit into the address of a unix socket."""


class Listeners:
    """The listening sockets of one kernel, in a directory of their own."""

    def __init__(self, folder: Path) -> None:
        self.prefix = str(folder / "s")
        """What jupyter_client calls the `ip`: channel n is at `prefix-n`."""

        if len(os.fsencode(self.prefix)) + len("-1.bound") > LONGEST_PATH:
            raise OSError(f"{folder} is too long a path for unix sockets; set a shorter run_dir.")
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True)
        self._sockets: list[socket.socket] = []
        try:
            for port in range(1, len(CHANNELS) + 1):
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._sockets.append(listener)
                listener.setblocking(False)
                listener.bind(f"{self.prefix}-{port}.bound")
                listener.listen(128)
            self.publish()
        except OSError:
            self.close()
            raise

    def publish(self) -> None:
        """Put the sockets where clients look; a kernel manager removes them on every restart."""
        for port in range(1, len(CHANNELS) + 1):
            with contextlib.suppress(FileExistsError):
                os.link(f"{self.prefix}-{port}.bound", f"{self.prefix}-{port}")

    @property
    def fds(self) -> list[int]:
        """The file descriptors, in the order of `CHANNELS`."""
        return [listener.fileno() for listener in self._sockets]

    def close(self) -> None:
        """Stop listening and remove the directory."""
        for listener in self._sockets:
            with contextlib.suppress(OSError):
                listener.close()
        self._sockets.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
