"""What a Jupyter Server process holds for its sandboxed kernels: templates, run folder, users.

Provisioners are made by jupyter_client one per kernel, with nothing to pass them a shared object,
so the one `Host` of a process lives in this module; it ends with the process.
"""

import atexit
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from ci_tools_kernels.cgroups import find_controls
from ci_tools_kernels.policy import Policy
from ci_tools_kernels.template import Template
from ci_tools_kernels.watch import Watcher

FIRST_USER = 0x70000000
"""Where the service is root, sandboxes run as users from here on: no system assigns these."""

MOST_USERS = 0x10000
"""Sandboxes at the same time."""

_LOCATE = (
    "import json, os, sys; print(json.dumps([sys.prefix, sys.base_prefix,"
    " os.path.realpath(sys.base_prefix), os.path.dirname(os.path.realpath(sys.executable))]))"
)


class Host:
    """The templates and folders of one server process."""

    def __init__(self) -> None:
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        self.run_dir = Path(tempfile.mkdtemp(prefix="ci-tools-", dir=base))
        self._lock = threading.Lock()
        self._templates: dict[tuple[str, tuple[str, ...]], Template] = {}
        self._users: set[int] = set()
        self.controls = find_controls()
        self.watcher = Watcher()
        atexit.register(self.close)

    def template(self, python: str, policy: Policy) -> Template:
        """Return the template for this interpreter and what is preloaded, started if need be."""
        key = (python, policy.preload)
        with self._lock:
            found = self._templates.get(key)
            if found is not None and found.alive:
                return found
            index = len(list(self.run_dir.glob("root-*")))
            template = Template(
                python=python,
                root=self.run_dir / f"root-{index}",
                environments=locate_environment(python),
                environment=kernel_environment(python, {}),
                font_cache=_cache_folder() / "matplotlib",
                preload=policy.preload,
                rehearsal=kernel_spec(
                    python, policy, data=None, user=self.rehearsal_user(), key="rehearsal"
                ),
            )
            self._templates[key] = template
            return template

    def rehearsal_user(self) -> int | None:
        """Return the user that templates try kernels out as; None where the service is not root."""
        return FIRST_USER - 1 if os.geteuid() == 0 else None

    def take_user(self) -> int | None:
        """Return a user id for one sandbox, or None where the service is not root."""
        if os.geteuid() != 0:
            return None
        with self._lock:
            user = next(
                user
                for user in range(FIRST_USER, FIRST_USER + MOST_USERS)
                if user not in self._users
            )
            self._users.add(user)
            return user

    def return_user(self, user: int | None) -> None:
        """Let another sandbox have this user id; the last one's processes are all gone."""
        with self._lock:
            self._users.discard(user or 0)

    def close(self) -> None:
        """End every template, and with it every sandbox, and remove the run folder."""
        self.watcher.close()
        with self._lock:
            for template in self._templates.values():
                template.close()
            self._templates.clear()
            shutil.rmtree(self.run_dir, ignore_errors=True)


@cache
def find_host() -> Host:
    """Return the one host of this process."""
    return Host()


@cache
def locate_environment(python: str) -> tuple[str, ...]:
    """Return the directories that an interpreter and its packages live in."""
    found = subprocess.run(
        [python, "-I", "-c", _LOCATE], check=True, capture_output=True, timeout=30
    )
    return tuple(dict.fromkeys(json.loads(found.stdout)))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "ci-tools"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def kernel_spec(
    python: str,
    policy: Policy,
    *,
    data: str | None,
    user: int | None,
    key: str,
    signature_scheme: str = "hmac-sha256",
    extra_environment: Mapping[str, str] | None = None,
    cgroups: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what a template is told about one kernel."""
    return {
        "id": uuid4().hex,
        "cgroups": list(cgroups),
        "network": policy.network,
        "data": data,
        "uid": user,
        "limits": {**asdict(policy.limits), "nice": 5, "process_memory": policy.limits.memory},
        "env": kernel_environment(python, {**(extra_environment or {}), **policy.environment}),
        "cwd": "/mnt/data",
        "connection": {"key": key, "signature_scheme": signature_scheme},
    }


def kernel_environment(python: str, extra: dict[str, str]) -> dict[str, str]:
    """Return all the variables that sandboxed code sees."""
    return {
        "HOME": "/tmp",  # noqa: S108 -- private to the sandbox
        "LANG": "C.UTF-8",
        "MPLCONFIGDIR": "/tmp/.config/matplotlib",  # noqa: S108 -- private to the sandbox
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{os.path.dirname(python)}:/usr/local/bin:/usr/bin:/bin",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SHELL": "/bin/sh",
        "TERM": "xterm-256color",
        "TZ": os.environ.get("TZ", "UTC"),
        "USER": "user",
        **extra,
    }
