"""The first process of a sandbox: it starts the kernel and, beside it, commands.

It reaps what code leaves behind and ends when the kernel does, which ends everything else in the
sandbox. It talks to the server over one socket; the messages are

    server: {"op": "run", "id": 1, "argv": [...], "cwd": "...", "env": {...}} + three streams
            {"op": "signal", "id": 1, "number": 9}
    init:   {"op": "entered"}, or {"op": "failed", "error": "..."} and its end
            {"op": "kernel_failed", "error": "..."} and its end
            {"op": "started", "id": 1} or {"op": "refused", "id": 1, "error": "..."}
            {"op": "exited", "id": 1, "status": 0}      the status is negative for a signal
"""

import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from ci_tools_kernels.inside import wire
from ci_tools_kernels.inside.filesystem import find_packages
from ci_tools_kernels.inside.syscalls import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, close_fds, prctl


def run(
    link: socket.socket,
    start_kernel: Callable[[socket.socket], None],
    kernel_fds: list[int],
    *,
    proxied: bool,
) -> int:
    """Start the kernel in a child, serve commands, and return the kernel's exit status.

    The child gets the socket to say why it could not start; it must close it before it runs code.
    """
    if proxied:
        sys.modules["ci_tools_kernels.inside.relay"].start()  # few sandboxes need it
    wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    kernel = os.fork()
    if kernel == 0:
        os.close(wakeup_read)
        os.close(wakeup_write)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setpgid(0, 0)
        _run_kernel(link, start_kernel)
    for fd in kernel_fds:
        os.close(fd)
    # Code in the sandbox has the same user id: it must not reach into this process.
    prctl(PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup_write)
    return _serve(link, wakeup_read, kernel)


def _run_kernel(link: socket.socket, start_kernel: Callable[[socket.socket], None]) -> NoReturn:
    status = 1
    try:
        start_kernel(link)
        status = 0
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 1
    except Exception:  # noqa: BLE001 -- the outermost handler of this process
        if link.fileno() >= 0:
            wire.send(link, {"op": "kernel_failed", "error": traceback.format_exc()[-4000:]})
    finally:
        os._exit(status)


def _serve(link: socket.socket, wakeup: int, kernel: int) -> int:
    commands: dict[int, int] = {}  # process id -> the server's id
    poll = select.poll()
    poll.register(wakeup, select.POLLIN)
    poll.register(link, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == wakeup:
                os.read(wakeup, 4096)
                continue
            received = wire.receive(link)
            if received is None:
                return -signal.SIGKILL  # the server is gone, and so must everything here
            _handle(link, received[0], received[1], commands)
        status = _reap(link, commands, kernel)
        if status is not None:
            return status


def _reap(link: socket.socket, commands: dict[int, int], kernel: int) -> int | None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        if pid == kernel:
            return code
        if pid in commands:
            wire.send(link, {"op": "exited", "id": commands.pop(pid), "status": code})


def _handle(
    link: socket.socket, message: dict[str, Any], fds: list[int], commands: dict[int, int]
) -> None:
    try:
        if message["op"] == "run":
            try:
                commands[_start_command(link, message, fds)] = message["id"]
                wire.send(link, {"op": "started", "id": message["id"]})
            except OSError as exc:
                wire.send(link, {"op": "refused", "id": message["id"], "error": str(exc)})
        elif message["op"] == "signal":
            for pid, id in commands.items():
                if id == message["id"]:
                    os.killpg(pid, message["number"])
    except ProcessLookupError:
        pass
    finally:
        for fd in fds:
            os.close(fd)


def _start_command(link: socket.socket, message: dict[str, Any], fds: list[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        for target, fd in enumerate(fds[:3]):
            os.dup2(fd, target)
        close_fds(())
        os.chdir(message["cwd"])
        env = {"PYTHONPATH": find_packages(), **message["env"]}
        os.execvpe(message["argv"][0], message["argv"], env)  # noqa: S606 -- no shell
    except OSError as exc:
        os.write(2, f"{message['argv'][0]}: {exc.strerror}\n".encode())
    finally:
        os._exit(127)
