"""The process with the data stack imported, from which kernels are forked.

It is the first process of a pid namespace: when it ends, every sandbox ends. It stays
single-threaded, holds no secret and answers one socket:

    server:   {"op": "spawn", "id": "...", "data": ..., ...} + 5 listening sockets, init's socket;
                  what is secret comes over that socket, to the forked process
              {"op": "attach", "id": "...", "data": "...", "uid": ...} + the mount namespace
    template: {"op": "ready"}, or {"op": "broken", "error": "..."} and its end
              {"op": "spawned", "id": "..."} + a pidfd
              {"op": "failed", "id": "...", "error": "..."}
              {"op": "attached", "id": "..."}
              {"op": "not_attached", "id": "...", "error": "..."}
              {"op": "exited", "id": "...", "status": 0}
"""

import contextlib
import gc
import importlib
import os
import random
import select
import signal
import socket
import sys
import traceback
from typing import Any

from ci_tools_kernels.inside import confinement, filesystem, init, wire
from ci_tools_kernels.inside.syscalls import (
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    PR_SET_PDEATHSIG,
    close_fds,
    map_user,
    mount,
    place_mount,
    prctl,
    setns,
    unshare,
)

IDMAP_REQUEST = "idmap"


def launch(spec: dict[str, Any], link: socket.socket) -> int:
    """Make the namespaces, start the template in them, and wait for its end.

    This small process stays: it is the parent that the template's namespace hangs on, and, for
    root, it makes the user namespaces that map a session's files to the session's user.
    """
    # No death signal of the parent's here: it would follow the thread that started this process.
    # The server's end is the end of the socket.
    try:
        if os.geteuid() != 0:
            user, group = os.geteuid(), os.getegid()
            unshare(CLONE_NEWUSER)
            map_user(confinement.USER, user, group)
        unshare(CLONE_NEWPID)
    except OSError as exc:
        wire.send(link, {"op": "broken", "error": str(exc)})
        return 1
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            _Template(spec, link, theirs).serve()
        except Exception as exc:  # noqa: BLE001 -- the outermost handler of this process
            traceback.print_exc()
            wire.send(link, {"op": "broken", "error": f"{type(exc).__name__}: {exc}"})
        finally:
            os._exit(0)
    theirs.close()
    link.close()
    while (received := wire.receive(ours)) is not None:
        _answer_idmap(ours, received[0])
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _answer_idmap(ours: socket.socket, message: dict[str, Any]) -> None:
    """Send a user namespace in which owner `disk` on disk is user `uid`."""
    ready_read, ready_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        unshare(CLONE_NEWUSER)
        os.write(ready_write, b"1")
        signal.pause()
    try:
        os.read(ready_read, 1)
        for kind in ("uid", "gid"):
            with open(f"/proc/{pid}/{kind}_map", "w") as file:
                file.write(f"{message[f'disk_{kind}']} {message['uid']} 1")
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        try:
            wire.send(ours, {"op": IDMAP_REQUEST}, [fd])
        finally:
            os.close(fd)
    except OSError as exc:
        wire.send(ours, {"op": IDMAP_REQUEST, "error": str(exc)})
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready_read)
        os.close(ready_write)


class _Template:
    def __init__(self, spec: dict[str, Any], link: socket.socket, launcher: socket.socket) -> None:
        self._spec = spec
        self._link = link
        self._launcher = launcher
        self._children: dict[int, str] = {}
        self._idmaps: dict[tuple[int, int, int], int] = {}
        self._pid_namespace = -1

    def serve(self) -> None:
        unshare(CLONE_NEWNS)
        filesystem.keep_mounts_private()
        mount("proc", "/proc", "proc", 0)
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        filesystem.build_root(self._spec["root"], self._spec["environments"])
        if "trial" in self._spec:
            self._try_out()
            return
        self._import()
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup_write)
        wire.send(self._link, {"op": "ready", "threads": len(os.listdir("/proc/self/task"))})
        poll = select.poll()
        for fd in (wakeup_read, self._link.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == wakeup_read:
                    os.read(wakeup_read, 4096)
                    continue
                received = wire.receive(self._link)
                if received is None:
                    return
                self._handle(*received)
            self._reap()

    def _try_out(self) -> None:
        """Make one sandbox with nothing in it, and say how that went."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                os.close(self._spawn(self._spec["trial"], [theirs.fileno()]))
            received = wire.receive(ours)
        error = received[0].get("error") if received else "it ended at once"
        wire.send(self._link, {"op": "broken", "error": error} if error else {"op": "ready"})

    def _import(self) -> None:
        os.environ.clear()
        os.environ.update(self._spec["env"])
        os.environ["MPLCONFIGDIR"] = self._spec["font_cache"]
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # this process forks, and must have no threads
        # What is ours is out of reach once a sandbox has its own root.
        for name in ("kernel", "startup", "relay"):
            importlib.import_module(f"ci_tools_kernels.inside.{name}")
        filesystem.find_packages()  # which is slow the first time
        for name in self._spec["preload"]:
            self._import_module(name)
        backends = getattr(sys.modules.get("matplotlib.backends"), "backend_registry", None)
        if backends is not None:
            backends.list_all()  # it reads what every installed package says, and keeps it
        sys.modules["ci_tools_kernels.inside.startup"].remember_fonts(self._spec["font_cache"])
        os.environ["MPLCONFIGDIR"] = self._spec["env"]["MPLCONFIGDIR"]
        self._make_ready()
        sys.modules["ci_tools_kernels.inside.startup"].find_blas()
        gc.collect()
        gc.freeze()

    def _make_ready(self) -> None:
        """Make and import what every kernel would."""
        kernel = sys.modules["ci_tools_kernels.inside.kernel"]
        try:
            kernel.make_ready()
            missing = self._rehearse()
        except Exception:  # noqa: BLE001 -- other releases of ipykernel need not allow it
            traceback.print_exc()
            kernel.forget_ready()
            missing = self._rehearse()
        for name in missing:
            self._import_module(name)
        kernel.remember_modules()

    def _import_module(self, name: str) -> None:
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # what is missing here is missing in the kernel too, which says so

    def _rehearse(self) -> list[str]:
        """Start one kernel and throw it away; return the modules that it had to import."""
        pairs = [socket.socketpair() for _ in range(5)]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as stack:
            for end in (ours, theirs, *(end for pair in pairs for end in pair)):
                stack.enter_context(end)
            fds = [pair[0].fileno() for pair in pairs]
            pidfd = self._spawn(self._spec["rehearsal"], [*fds, theirs.fileno()])
            os.close(pidfd)
            theirs.close()
            names: list[str] = []
            while (received := wire.receive(ours)) is not None:
                message = received[0]
                if "error" in message:
                    raise RuntimeError(f"The first kernel failed: {message['error']}")
                names = message.get("modules", names)
        for pid in self._children:
            os.waitpid(pid, 0)
        self._children.clear()
        return [name for name in names if name not in sys.modules]

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            id = self._children.pop(pid, None)
            if id is not None:
                code = os.waitstatus_to_exitcode(status)
                wire.send(self._link, {"op": "exited", "id": id, "status": code})

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        try:
            if message["op"] == "attach":
                self._attach(message, fds[0])
                wire.send(self._link, {"op": "attached", "id": message["id"]})
            elif message["op"] == "spawn":
                pidfd = self._spawn(message, fds)
                try:
                    wire.send(self._link, {"op": "spawned", "id": message["id"]}, [pidfd])
                finally:
                    os.close(pidfd)
        except OSError as exc:
            failed = "not_attached" if message["op"] == "attach" else "failed"
            wire.send(self._link, {"op": failed, "id": message["id"], "error": str(exc)})
        finally:
            for fd in fds:
                os.close(fd)

    def _spawn(self, spec: dict[str, Any], fds: list[int]) -> int:
        wanted = spec["uid"] is not None and (spec["data"] or spec["pooled"])
        idmap_fd = self._idmap(spec["uid"], spec["data"]) if wanted else None
        unshare(CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            _become_sandbox(spec, fds, self._spec["root"], idmap_fd)
        setns(self._pid_namespace, CLONE_NEWPID)
        self._children[pid] = spec["id"]
        return os.pidfd_open(pid)

    def _attach(self, message: dict[str, Any], namespace: int) -> None:
        """Give a sandbox that was made ahead of its session the session's directory."""
        user = message["uid"]
        idmap_fd = self._idmap(user, message["data"]) if user is not None else None
        tree = filesystem.clone_data(message["data"], idmap_fd=idmap_fd)
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(namespace, CLONE_NEWNS)
            try:
                place_mount(tree, filesystem.DATA)
            finally:
                setns(own, CLONE_NEWNS)
        finally:
            os.close(tree)
            os.close(own)

    def _idmap(self, user: int, data: str | None) -> int:
        """Return the user namespace in which the owner of `data` is this user.

        Without `data`, the owner is taken to be the service's own user, as it nearly always is.
        """
        owner = os.stat(data) if data else None
        disk_uid = owner.st_uid if owner else os.geteuid()
        disk_gid = owner.st_gid if owner else os.getegid()
        key = (disk_uid, disk_gid, user)
        if key not in self._idmaps:
            request = {"disk_uid": disk_uid, "disk_gid": disk_gid, "uid": user}
            wire.send(self._launcher, {"op": IDMAP_REQUEST, **request})
            received = wire.receive(self._launcher)
            if received is None or not received[1]:
                raise OSError(f"no user namespace for /mnt/data: {received and received[0]}")
            self._idmaps[key] = received[1][0]
        return self._idmaps[key]


def _become_sandbox(spec: dict[str, Any], fds: list[int], root: str, idmap_fd: int | None) -> None:
    """Turn this forked process into a session's first one; never returns."""
    status = 1
    *listeners, control = fds
    try:
        signal.set_wakeup_fd(-1)
        gc.disable()
        link = socket.socket(fileno=control)
        try:
            close_fds(fds if idmap_fd is None else [*fds, idmap_fd])
            if listeners and "env" not in spec:  # it is there in the template's own rehearsal
                spec = {**spec, **_receive_secrets(link)}
            confinement.enter(spec, root, idmap_fd)
            if idmap_fd is not None:
                os.close(idmap_fd)
        except Exception as exc:
            wire.send(link, {"op": "failed", "error": f"{type(exc).__name__}: {exc}"})
            raise
        namespaces = [os.open("/proc/self/ns/mnt", os.O_RDONLY)] if spec.get("pooled") else []
        wire.send(link, {"op": "entered"}, namespaces)
        for fd in namespaces:
            os.close(fd)
        if not listeners:
            return  # a trial
        status = _run(spec, listeners, link)
    finally:
        if status < 0:
            # An exit status that means the same to the server as the kernel's own end by signal.
            status = 128 - status
        os._exit(status)


def _receive_secrets(link: socket.socket) -> dict[str, Any]:
    received = wire.receive(link)
    if received is None:
        raise ConnectionError("the server is gone")
    return received[0]


def enter_from_bubblewrap(spec: dict[str, Any], listeners: list[int], link: socket.socket) -> int:
    """Go on as a session's first process where bubblewrap has made the sandbox."""
    try:
        close_fds([*listeners, link.fileno()])
        for name in ("kernel", "startup", "relay"):
            importlib.import_module(f"ci_tools_kernels.inside.{name}")
        confinement.set_limits(spec["limits"])
        confinement.drop_privileges(spec["limits"])
    except Exception as exc:  # noqa: BLE001 -- the outermost handler of this process
        wire.send(link, {"op": "failed", "error": f"{type(exc).__name__}: {exc}"})
        return 1
    wire.send(link, {"op": "entered"})
    status = _run(spec, listeners, link)
    return status if status >= 0 else 128 - status


def _run(spec: dict[str, Any], listeners: list[int], link: socket.socket) -> int:
    return init.run(
        link,
        lambda link: _become_kernel(spec, listeners, link),
        listeners,
        proxied=spec["proxy"] is not None,
    )


def _become_kernel(spec: dict[str, Any], listeners: list[int], link: socket.socket) -> None:
    os.environ.clear()
    os.environ.update(spec["env"])
    os.chdir(spec["cwd"])
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
        threads = spec["env"]["OPENBLAS_NUM_THREADS"]
        if threads.isdigit() and threads != "1":
            sys.modules["ci_tools_kernels.inside.startup"].set_blas_threads(int(threads))
    kernel = sys.modules["ci_tools_kernels.inside.kernel"]
    startup = sys.modules["ci_tools_kernels.inside.startup"]
    for name in [name for name in sys.modules if name.split(".")[0] == "ci_tools_kernels"]:
        del sys.modules[name]
    kernel.prepare_streams()
    app = kernel.configure(spec["connection"], listeners)
    app.initialize([])
    network = spec["network"] or spec["proxy"] is not None
    startup.prepare(app.shell, network=network, hosts=spec["hosts"], cwd=spec["cwd"])
    if spec.get("rehearse"):
        startup.rehearse(app.shell)
        wire.send(link, {"op": "rehearsed", "modules": sorted(sys.modules)})
        return
    if spec["pooled"]:
        kernel.warm_up(app)
    gc.enable()
    link.close()
    app.start()
