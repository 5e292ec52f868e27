"""The filtering proxies of one server: one for each list of allowed hosts that sessions have."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ci_tools_kernels.inside.relay import SOCKET

START_TIMEOUT = 20.0
"""Seconds until a proxy must listen."""

STOP_TIMEOUT = 3.0
"""Seconds that it has to end by itself."""

PROGRAM = "ci_tools_kernels.filter_proxy"

_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LANG", "RES_OPTIONS", "LOCALDOMAIN", "VIRTUAL_ENV")
"""What a proxy inherits; secrets of the server's are none of its business."""


class ProxyError(RuntimeError):
    """There is no filtering proxy to be had; the message says what is missing."""


class _Proxy:
    """A proxy's process, and the folder with its socket."""

    def __init__(self, folder: Path, hosts: Sequence[str]) -> None:
        self.folder = folder
        # Sandboxed users look into this folder; its parent is closed to others of this machine.
        folder.mkdir(mode=0o755, exist_ok=True)
        folder.chmod(0o755)
        path = folder / SOCKET
        path.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={
                **{name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
                "HOME": str(folder.parent),  # proxy.py makes a folder there; some users have none
            },
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(
            json.dumps({"socket": str(path), "hosts": hosts}).encode() + b"\n"
        )
        self._process.stdin.flush()
        self._wait(path)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _wait(self, path: Path) -> None:
        end = time.monotonic() + START_TIMEOUT
        while self.alive and time.monotonic() < end:
            with socket.socket(socket.AF_UNIX) as trial:
                try:
                    trial.connect(str(path))
                except OSError:
                    time.sleep(0.02)
                else:
                    return
        self.close()
        raise ProxyError("The filtering proxy for the list of allowed hosts did not start.")

    def close(self) -> None:
        """End it; its folder goes with the run folder."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Proxies:
    """The proxies that run, by their lists."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._proxies: dict[tuple[str, ...], _Proxy] = {}

    def find(self, hosts: tuple[str, ...]) -> str | None:
        """Return the folder of the proxy for these hosts, if it runs; never blocks."""
        found = self._proxies.get(hosts)
        return str(found.folder) if found is not None and found.alive else None

    def find_process(self, hosts: tuple[str, ...]) -> int:
        """Return the process id of the proxy for these hosts; 0 if there is none."""
        found = self._proxies.get(hosts)
        return found.pid if found is not None and found.alive else 0

    def open(self, hosts: tuple[str, ...]) -> str:
        """Return the folder of the proxy for these hosts, started if need be.

        Raises:
            ProxyError: It does not start, or is not installed.
        """
        with self._lock:
            found = self.find(hosts)
            if found is None:
                if importlib.util.find_spec("proxy") is None:
                    raise ProxyError(
                        "A list of allowed hosts needs the package proxy.py: pip install proxy.py."
                    )
                # In the same folder as one that has ended: running sessions look there.
                before = self._proxies.get(hosts)
                folder = before.folder if before else self._run_dir / f"p{len(self._proxies)}"
                if before is not None:
                    before.close()
                self._proxies[hosts] = _Proxy(folder, hosts)
                found = str(folder)
            return found

    def close(self) -> None:
        """End them all."""
        with self._lock:
            for proxy in self._proxies.values():
                proxy.close()
            self._proxies.clear()
