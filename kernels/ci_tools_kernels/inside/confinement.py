"""Giving up privileges: what a session's first process does to itself before it runs anything."""

import os
import resource
import signal
import socket
from typing import Any

from ci_tools_kernels.inside import landlock, seccomp
from ci_tools_kernels.inside.filesystem import WRITABLE, enter_root
from ci_tools_kernels.inside.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    bring_up_loopback,
    drop_capabilities,
    map_user,
    prctl,
    unshare,
)

USER = 1000
"""The user id that sandboxed code sees itself as."""


def enter(spec: dict[str, Any], root: str, idmap_fd: int | None) -> None:
    """Move this process, the first of its pid namespace, into the sandbox that `spec` describes."""
    for path in spec["cgroups"]:
        with open(path, "w") as file:
            file.write("0")
    os.setsid()
    reset_signals()
    os.umask(0o022)
    flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
    if not spec["network"]:
        flags |= CLONE_NEWNET
    unshare(flags)
    socket.sethostname("sandbox")
    if not spec["network"]:
        bring_up_loopback()
    limits = spec["limits"]
    enter_root(
        root,
        data=spec["data"],
        idmap_fd=idmap_fd,
        network=spec["network"],
        scratch_bytes=limits["scratch"],
        scratch_files=limits["files"],
        data_bytes=limits["disk"],
        proxy=spec["proxy"],
    )
    _change_user(spec["uid"])
    set_limits(limits)
    drop_privileges(limits)


def reset_signals() -> None:
    """Undo what the parent did to signals: handlers, ignored ones and the mask."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number in (signal.SIGKILL, signal.SIGSTOP):
            continue
        try:
            signal.signal(number, signal.SIG_DFL)
        except OSError:
            continue  # one of the two that the C library keeps for itself
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)  # as Python starts
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _change_user(uid: int | None) -> None:
    if uid is not None:
        # The service is root: code runs as a user that owns nothing on this machine.
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        prctl(PR_SET_DUMPABLE, 1)  # else /proc/self stays root's and the next lines fail
    outside, group = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    map_user(USER, outside, group)


def set_limits(limits: dict[str, Any]) -> None:
    """Set the limits that a process carries itself; they hold for whatever it starts."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, limits["file_size"])
    _limit(resource.RLIMIT_NOFILE, limits["open_files"])
    _limit(resource.RLIMIT_NPROC, limits["processes"])
    _limit(resource.RLIMIT_MEMLOCK, 1 << 20)
    _limit(resource.RLIMIT_MSGQUEUE, 1 << 16)
    if limits["process_memory"]:
        _limit(resource.RLIMIT_DATA, limits["process_memory"])
    # A service that was started with a lower priority yet cannot raise it, and need not.
    nice = max(limits["nice"], os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")  # under memory pressure the host's own processes survive
    except PermissionError:
        pass


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def drop_privileges(limits: dict[str, Any]) -> None:
    """Give up capabilities, new privileges, denied system calls and writing outside."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict(writable=[path for path in WRITABLE if os.path.exists(path)])
    drop_capabilities()
    seccomp.install(seccomp.assemble(hidden_memory=limits["memory_counted"]))
