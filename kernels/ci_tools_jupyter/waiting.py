"""Kernels without a sandbox that start from processes which have made their imports already.

Where kernels cannot be forked from a template, as without a sandbox and so on macOS, this is what
is left to make starts fast: processes that have imported ipykernel and the preloaded modules and
wait, in no session's folder. A start tells one its folder, its variables and its arguments, and it
goes on as the kernel that `python -m ipykernel_launcher` would have been.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Int, List

WAITING = Path(__file__).with_name("waiting_process.py")
"""What a process runs until it is a kernel; started by file path, it needs ipykernel only."""

LAUNCHER = ("-m", "ipykernel_launcher")
"""The words of a command that can be taken over."""

REFILL_DELAY = 0.5
"""Seconds after a start until another process is made to wait: the session that was started is
first."""

_OWN = ("JPY_SESSION_NAME", "JPY_PARENT_PID")
"""Variables that differ between kernels and mean nothing before a kernel has its session."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What processes must have in common with a kernel to become it."""

    python: tuple[str, ...]
    """The interpreter and its options."""

    environment: tuple[tuple[str, str], ...]
    preload: tuple[str, ...]

    @classmethod
    def of(
        cls, command: Sequence[str], environment: Mapping[str, str], preload: Sequence[str]
    ) -> "Kind | None":
        """Return the kind that a kernel is of; None if it is not one of ipykernel's."""
        for place in range(1, len(command) - 1):
            if tuple(command[place : place + 2]) == LAUNCHER:
                variables = {name: environment[name] for name in environment if name not in _OWN}
                return cls(
                    python=tuple(command[:place]),
                    environment=tuple(sorted(variables.items())),
                    preload=tuple(preload),
                )
        return None


class WaitingProcesses:
    """The processes of one server that wait to become kernels."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Kind, list[subprocess.Popen[bytes]]] = {}

    def fill(self, kind: Kind, size: int) -> None:
        """Start processes until so many wait; those of other kinds, which nobody asks for, go."""
        with self._lock:
            for other in [other for other in self._waiting if other != kind]:
                for process in self._waiting.pop(other):
                    _end(process)
            kept = [process for process in self._waiting.get(kind, ()) if process.poll() is None]
            self._waiting[kind] = kept
            while len(kept) < size:
                kept.append(
                    subprocess.Popen(
                        [*kind.python, str(WAITING), *kind.preload],
                        stdin=subprocess.PIPE,
                        env=dict(kind.environment),
                        start_new_session=True,
                    )
                )

    def take(self, kind: Kind, start: Mapping[str, Any]) -> subprocess.Popen[bytes] | None:
        """Make the one that has waited longest the kernel that `start` describes."""
        told = json.dumps(start).encode() + b"\n"
        with self._lock:
            waiting = self._waiting.get(kind, [])
            while waiting:
                process = waiting.pop(0)
                assert process.stdin is not None
                with suppress(OSError), process.stdin as pipe:  # it has ended: the next one
                    pipe.write(told)
                    pipe.flush()
                    return process
                process.wait()
        return None

    def list_pids(self) -> set[int]:
        """Name the processes, which are collected here when they end."""
        with self._lock:
            return {process.pid for some in self._waiting.values() for process in some}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


WAITING_PROCESSES = WaitingProcesses()
"""Those of this process, which is the server's."""


class WaitingProvisioner(LocalProvisioner):
    """Starts kernels as the stock provisioner does, from a waiting process if there is one."""

    size = Int(0, help="How many processes wait.")
    preload: Any = List(help="The modules that they import.")

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel's process."""
        environment = dict(kwargs["env"])
        kind = Kind.of(cmd, environment, self.preload)
        if kind is None or not self.size or sys.platform == "win32":
            return await super().launch_kernel(cmd, **kwargs)
        loop = asyncio.get_running_loop()
        fill = partial(WAITING_PROCESSES.fill, kind, self.size)
        loop.call_later(REFILL_DELAY, loop.run_in_executor, None, fill)
        cwd = kwargs.get("cwd") or os.getcwd()
        process = None
        if not any(kwargs.get(name) for name in kwargs if name not in ("env", "cwd", "kernel_id")):
            environment["JPY_PARENT_PID"] = str(os.getpid())
            arguments = cmd[len(kind.python) + len(LAUNCHER) :]
            start = {"cwd": str(cwd), "env": environment, "arguments": arguments}
            process = WAITING_PROCESSES.take(kind, start)
        if process is None:
            return await super().launch_kernel(cmd, **kwargs)
        self.process = process
        self.pid = self.pgid = process.pid  # each leads a session of its own
        self.cwd = cwd
        return self.connection_info
