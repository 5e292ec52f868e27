"""What a Jupyter Server process holds for its sandboxed kernels: templates, run folder, users.

Provisioners are made by jupyter_client one per kernel, with nothing to pass them a shared object,
so the one `Host` of a process lives in this module; it ends with the process.
"""

import atexit
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path

from ci_tools_kernels.bubblewrap import Bubblewrap, find_bubblewrap
from ci_tools_kernels.cgroups import claim_group, find_controls, remove_leftovers
from ci_tools_kernels.policy import Policy
from ci_tools_kernels.pool import Pool
from ci_tools_kernels.probe import IsolationError, probe
from ci_tools_kernels.proxies import Proxies
from ci_tools_kernels.quotas import Quotas
from ci_tools_kernels.specs import FIRST_USER, kernel_environment, kernel_spec
from ci_tools_kernels.template import Template
from ci_tools_kernels.watch import Watcher

MOST_USERS = 0x10000
"""Sandboxes at the same time."""

_LOCATE = (
    "import json, os, sys; print(json.dumps([sys.prefix, sys.base_prefix,"
    " os.path.realpath(sys.base_prefix), os.path.dirname(os.path.realpath(sys.executable))]))"
)


RUN_PREFIX = "ci-tools-run-"


def _remove_leftovers(base: Path) -> None:
    """Remove the run folders of this user's servers that ended without doing so."""
    for folder in base.glob(f"{RUN_PREFIX}*"):
        try:
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or another user's


class Host:
    """The templates and folders of one server process."""

    def __init__(self) -> None:
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        _remove_leftovers(Path(base))
        self.run_dir = Path(tempfile.mkdtemp(prefix=RUN_PREFIX, dir=base))
        self._run_lock = (self.run_dir / "lock").open("w")
        fcntl.flock(self._run_lock, fcntl.LOCK_EX)
        self._lock = threading.Lock()
        self._launchers: dict[tuple[str, tuple[str, ...], str], Template | Bubblewrap] = {}
        self._users: set[int] = set()
        claim_group()
        self.controls = find_controls()
        remove_leftovers(self.controls)
        self.watcher = Watcher()
        self.quotas = Quotas()
        self.proxies = Proxies(self.run_dir)
        self.pool = Pool(self, self.run_dir, self.proxies)
        atexit.register(self.close)

    def launcher(
        self, python: str, policy: Policy, *, folder: Path | None = None
    ) -> Template | Bubblewrap:
        """Return what starts kernels of this interpreter; a template is started if need be.

        `folder` is where the sessions' folders are.

        Raises:
            IsolationError: This machine does not allow it; the message says what is missing.
        """
        with self._lock:
            found = self.find_launcher(python, policy)
            if found is None:
                found = self._make_launcher(python, policy, folder)
                self._launchers[python, policy.preload, policy.isolation] = found
            return found

    def find_launcher(self, python: str, policy: Policy) -> Template | Bubblewrap | None:
        """Return the launcher if it is there already; never blocks."""
        found = self._launchers.get((python, policy.preload, policy.isolation))
        return found if found is not None and found.alive else None

    def _make_launcher(
        self, python: str, policy: Policy, folder: Path | None
    ) -> Template | Bubblewrap:
        report = probe(policy, folder=folder)
        if report.isolation is None:
            raise IsolationError(report.problem)
        environments = locate_environment(python)
        if report.isolation == "bubblewrap":
            program = find_bubblewrap()
            assert program is not None
            return Bubblewrap(program=program, python=python, environments=environments)
        user = FIRST_USER - 1 if os.geteuid() == 0 else None
        return Template(
            python=python,
            root=Path(tempfile.mkdtemp(prefix="root-", dir=self.run_dir)),
            environments=environments,
            environment=kernel_environment(python, Policy(), {}),
            font_cache=_cache_folder() / "matplotlib",
            preload=policy.preload,
            rehearsal=kernel_spec(
                python, replace(policy, environment={}), data=None, user=user, key="rehearsal"
            ),
        )

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
        self.pool.close()
        with self._lock:
            launchers = list(self._launchers.values())
            self._launchers.clear()
        # Not under the lock: ending sandboxes give their user ids back.
        for launcher in launchers:
            launcher.close()
        self.proxies.close()
        self.quotas.close()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self._run_lock.close()


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
