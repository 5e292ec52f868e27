"""Control groups, version 1 or 2: the limits that hold for all processes of a session together.

Nothing here is needed: where no group may be made, `find_controls` says why, and the limits that
each process carries remain.
"""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ci_tools_kernels.policy import Limits

logger = logging.getLogger(__name__)

CONTROLLERS = ("memory", "pids", "cpu")
"""What sessions are limited in."""

CPU_PERIOD = 100_000
"""Microseconds."""

OWN_GROUP = "ci-tools"
"""The group below a delegated one that the service's own processes go into."""

MOVE_TRIES = 10
"""Rounds of moving processes, each of which may have started others meanwhile."""

REMOVE_TRIES = 50
"""A group can be removed once its last process is buried, 10 ms apart."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Where groups can be made: for each controller, the folder that they go into."""

    version: int
    parents: Mapping[str, Path]
    reasons: Mapping[str, str]
    """Why the other controllers cannot be used."""


def find_controls(
    *, proc: Path = Path("/proc/self"), root: Path = Path("/sys/fs/cgroup")
) -> Controls:
    """Find out which controllers this process may use."""
    own = _find_own(proc)
    if (root / "cgroup.controllers").exists():
        return _find_version_2(root, root / own.get("", ""))
    parents, reasons = {}, {}
    for name in CONTROLLERS:
        parent = root / name / own.get(name, "")
        reason = _try_group(parent) if (root / name).is_dir() else f"{root / name} is not mounted"
        if reason:
            reasons[name] = reason
        else:
            parents[name] = parent
    return Controls(version=1, parents=parents, reasons=reasons)


def claim_group(*, proc: Path = Path("/proc/self"), root: Path = Path("/sys/fs/cgroup")) -> None:
    """Make this process's own group of version 2 pass controllers on, if it was given to us.

    A group with processes in it cannot, except for the machine's root: they are moved into one
    below it. It was given to us where systemd says so (`Delegate=yes`), and where it is all that
    this process sees, as in a container.
    """
    if not (root / "cgroup.controllers").exists():
        return
    own = root / _find_own(proc).get("", "")
    there = _read(own / "cgroup.controllers").split()
    enabled = _read(own / "cgroup.subtree_control").split()
    missing = [name for name in CONTROLLERS if name in there and name not in enabled]
    if not missing or not (own == root or _is_delegated(own)):
        return
    try:
        if (own / "cgroup.type").exists():  # the machine's root has none
            _move_processes(own, own / OWN_GROUP)
        with (own / "cgroup.subtree_control").open("w") as file:
            file.write(" ".join(f"+{name}" for name in missing))
    except OSError as exc:
        logger.info("The control group %s cannot be divided: %s", own, exc.strerror)


def _is_delegated(group: Path) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _move_processes(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for _ in range(MOVE_TRIES):
        pids = _read(source / "cgroup.procs").split()
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (target / "cgroup.procs").write_text(pid)


def _find_own(proc: Path) -> dict[str, str]:
    """Return the groups that a process is in, by the controller; version 2 has no name."""
    own = {}
    for line in _read(proc / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path.lstrip("/")
    return own


def _find_version_2(root: Path, own: Path) -> Controls:
    reasons: dict[str, str] = {}
    # A group with processes in it cannot pass controllers on: the one above may be ours as well.
    for parent in dict.fromkeys((own, own if own == root else own.parent, root)):
        enabled = _read(parent / "cgroup.subtree_control").split()
        usable = [name for name in CONTROLLERS if name in enabled]
        reason = _try_group(parent)
        if usable and not reason:
            return Controls(
                version=2,
                parents=dict.fromkeys(usable, parent),
                reasons=dict.fromkeys(CONTROLLERS, f"{parent} does not pass it on")
                if len(usable) < len(CONTROLLERS)
                else {},
            )
        reasons = dict.fromkeys(
            CONTROLLERS,
            f"{own} is not delegated to this service"
            f" ({reason or 'it passes no controllers on'}); start it with"
            " `systemd-run --user --scope -p Delegate=yes`, or with `Delegate=yes` in its unit",
        )
    return Controls(version=2, parents={}, reasons=reasons)


def _try_group(parent: Path) -> str | None:
    trial = parent / f"ci-tools-trial-{os.getpid()}"
    try:
        trial.mkdir()
        trial.rmdir()
    except OSError as exc:
        return f"{parent}: {exc.strerror}"
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def remove_leftovers(controls: Controls) -> None:
    """Remove the groups of servers that ended without doing so; one with a process in it stays."""
    for parent in set(controls.parents.values()):
        for folder in parent.glob("ci-tools-*-*"):
            owner = folder.name.split("-")[2]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


class Group:
    """The control groups of one session."""

    def __init__(self, controls: Controls, name: str, limits: Limits) -> None:
        self._folders = sorted(
            {parent / f"ci-tools-{name}" for parent in controls.parents.values()}
        )
        try:
            for folder in self._folders:
                folder.mkdir()
            for controller, parent in controls.parents.items():
                folder = parent / f"ci-tools-{name}"
                for file, value in _values(controls.version, controller, limits):
                    with contextlib.suppress(FileNotFoundError):  # swap accounting may be off
                        (folder / file).write_text(value)
        except OSError:
            self.remove()
            raise

    @property
    def entries(self) -> list[str]:
        """The files that a process of a single thread writes `0` to, to join.

        Moving a thread is much faster than moving a process, for which version 1 waits until no
        process of the machine is being forked or ends; version 2 only moves processes.
        """
        return [
            str(folder / ("tasks" if (folder / "tasks").exists() else "cgroup.procs"))
            for folder in self._folders
        ]

    def was_out_of_memory(self) -> bool:
        """Tell whether the kernel ended something here because the memory limit was reached."""
        for folder in self._folders:
            for file in ("memory.events", "memory.oom_control"):
                for line in _read(folder / file).splitlines():
                    name, _, count = line.partition(" ")
                    if name == "oom_kill" and count.strip() != "0":
                        return True
        return False

    def remove(self) -> None:
        """Remove the groups; whatever was in them is gone or about to be."""
        for folder in self._folders:
            for _ in range(REMOVE_TRIES):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)
                else:
                    break
            else:
                logger.warning("The control group %s could not be removed.", folder)


def _values(version: int, controller: str, limits: Limits) -> list[tuple[str, str]]:
    quota = str(int(limits.cpus * CPU_PERIOD))
    match version, controller:
        case 1, "memory":
            return [
                ("memory.limit_in_bytes", str(limits.memory)),
                ("memory.memsw.limit_in_bytes", str(limits.memory)),
            ]
        case 2, "memory":
            return [
                ("memory.max", str(limits.memory)),
                ("memory.swap.max", "0"),
            ]
        case _, "pids":
            return [("pids.max", str(limits.processes))]
        case 1, "cpu":
            return [("cpu.cfs_period_us", str(CPU_PERIOD)), ("cpu.cfs_quota_us", quota)]
        case _:
            return [("cpu.max", f"{quota} {CPU_PERIOD}")]
