"""The watcher: it notices sessions that are past a limit which nothing else enforces."""

import logging
import os
import threading
import time
from collections.abc import Callable

from ci_tools_kernels.policy import MEGABYTE, Limits
from ci_tools_kernels.template import Sandbox
from ci_tools_kernels.usage import (
    list_processes,
    measure_deleted,
    measure_folder,
    measure_memory,
)

logger = logging.getLogger(__name__)

INTERVAL = 0.25
"""Seconds between looks at the free space, which is cheap."""

LONGEST_TRUST = 3.0
"""Seconds after which a session's folder is added up again, whatever the free space says."""


class Watch:
    """What is watched about one session."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        folder: str | None,
        limits: Limits,
        memory: bool,
        report: Callable[[str], None],
    ) -> None:
        self._sandbox = sandbox
        self._folder = folder
        self._limits = limits
        self._memory = memory
        self._report = report
        self._free = 0
        self._checked_at = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return self._sandbox.exited.done()

    def check(self, now: float) -> None:
        """Report a limit that is exceeded."""
        due = now - self._checked_at >= LONGEST_TRUST
        if self._folder is not None:
            try:
                found = os.statvfs(self._folder)
            except OSError:
                return
            free = found.f_bavail * found.f_frsize
            due = due or self._free - free > max(self._limits.disk // 16, MEGABYTE)
            if due:
                self._free = free
        if not due and not self._memory:
            return
        if due:
            self._checked_at = now
        message = self.find_excess(disk=due)
        if message:
            self._report(message)

    def find_excess(self, *, disk: bool = True) -> str | None:
        """Return what is wrong, if anything is."""
        first = self._sandbox.find_pid()
        if first is None:
            return None
        pids = list_processes(first)
        most = self._limits.memory
        if disk and self._folder is not None:
            usage = measure_folder(self._folder, most_files=self._limits.files)
            size = usage.size + measure_deleted(pids, os.stat(self._folder).st_dev)
            if size > self._limits.disk:
                return f"/mnt/data holds more than {self._limits.disk // MEGABYTE} MB."
            if usage.files > self._limits.files:
                return f"/mnt/data holds more than {self._limits.files} files."
            if usage.too_deep:
                return "/mnt/data has folders nested too deep."
        if self._memory and measure_memory(pids, most=most) > most:
            return f"The processes use more than {most // MEGABYTE} MB of memory."
        return None


class Watcher:
    """One thread that looks after all sessions of a server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: list[Watch] = []
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, watch: Watch) -> None:
        """Look after one more session until it ends."""
        with self._lock:
            self._watches.append(watch)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="ci-tools-watch", daemon=True
                )
                self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """Stop looking."""
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                self._watches = [watch for watch in self._watches if not watch.over]
                watches = list(self._watches)
            if not watches:
                self._wake.wait()
                self._wake.clear()
                continue
            # First, so that a session's start does not share the interpreter with a look at it.
            time.sleep(INTERVAL)
            for watch in watches:
                try:
                    watch.check(time.monotonic())
                except OSError:
                    logger.exception("A session could not be watched.")
