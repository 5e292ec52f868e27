"""The server's side of a template process: ask it for sandboxes, learn of their ends.

A thread reads the template's socket, so that any event loop, or none, can wait for an answer.
"""

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ci_tools_kernels.inside import wire

logger = logging.getLogger(__name__)

ENTRY_POINT = Path(__file__).with_name("inside") / "main.py"

START_TIMEOUT = 60.0
"""Seconds until a template must be ready: a first import without bytecode is slow."""

END_TIMEOUT = 5.0
"""Seconds that a template and its sandboxes have to end."""

SPAWN_TIMEOUT = 20.0
"""Seconds until a sandbox must exist."""


class TemplateError(RuntimeError):
    """The template could not do what it was asked."""


class Command:
    """A command that runs in a sandbox beside its kernel."""

    def __init__(self) -> None:
        self.exited: Future[int] = Future()
        """Its exit status, negative for a signal; fails if it could not be started."""


class Sandbox:
    """One running sandbox: its first process, and the socket to it."""

    def __init__(self, id: str, link: socket.socket) -> None:
        self.id = id
        self._link = link
        self._lock = threading.Lock()
        self._commands: dict[int, Command] = {}
        self._last_command = 0
        self.pidfd = -1
        self.namespace_fd = -1
        """Its mount namespace, where it was made ahead of its session."""

        self.exited: Future[int] = Future()
        """Its exit status, once everything in it is gone."""

        self.exited.set_running_or_notify_cancel()  # who gives up waiting must not cancel it

    def start_command(
        self, argv: Sequence[str], *, cwd: str, env: dict[str, str], streams: Sequence[int]
    ) -> tuple[int, Command]:
        """Start a command with these three descriptors as its standard streams.

        Raises:
            TemplateError: The sandbox is gone.
        """
        command = Command()
        with self._lock:
            self._last_command += 1
            id = self._last_command
            self._commands[id] = command
            message = {"op": "run", "id": id, "argv": list(argv), "cwd": cwd, "env": env}
            try:
                wire.send(self._link, message, streams)
            except OSError as exc:
                del self._commands[id]
                raise TemplateError(f"The sandbox is gone: {exc}.") from exc
        return id, command

    def signal_command(self, id: int, number: int) -> None:
        """Send a signal to a command and what it started; nothing happens if it is gone."""
        with self._lock, contextlib.suppress(OSError):
            wire.send(self._link, {"op": "signal", "id": id, "number": number})

    def kill(self) -> None:
        """End everything in the sandbox; nothing happens if it is gone."""
        with self._lock:
            if self.pidfd >= 0 and not self.exited.done():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def find_pid(self) -> int | None:
        """Return the process id of its first process, as the server sees it."""
        with contextlib.suppress(OSError, ValueError):
            for line in Path(f"/proc/self/fdinfo/{self.pidfd}").read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "Pid" and int(value) > 0:
                    return int(value)
        return None

    def close(self) -> None:
        """Give up the descriptors; the sandbox ends if it is still there."""
        self.kill()
        with self._lock:
            for fd in (self.pidfd, self.namespace_fd):
                if fd >= 0:
                    os.close(fd)
            self.pidfd = self.namespace_fd = -1
            with contextlib.suppress(OSError):
                self._link.shutdown(socket.SHUT_RDWR)

    def fileno(self) -> int:
        """Return the descriptor of the socket, for the thread that reads it."""
        return self._link.fileno()

    def receive(self) -> dict[str, Any] | None:
        """Read one message of the first process; None when it is gone."""
        try:
            received = wire.receive(self._link)
        except (OSError, ValueError):
            received = None
        if received is None:
            self._link.close()
            self._fail_commands()
            return None
        message, fds = received
        if message.get("op") == "entered" and fds:
            self.namespace_fd = fds.pop()
        for fd in fds:
            os.close(fd)
        if message.get("op") in ("exited", "refused"):
            with self._lock:
                command = self._commands.pop(message.get("id", 0), None)
            if command is not None and message["op"] == "exited":
                command.exited.set_result(int(message["status"]))
            elif command is not None:
                command.exited.set_exception(TemplateError(str(message["error"])))
        if message.get("op") == "kernel_failed":
            logger.error("A kernel could not start: %s", message.get("error"))
        return message

    def _fail_commands(self) -> None:
        with self._lock:
            commands = list(self._commands.values())
            self._commands.clear()
        for command in commands:
            command.exited.set_exception(TemplateError("The sandbox ended."))


class Template:
    """A process with the data stack imported, and the sandboxes forked from it."""

    def __init__(
        self,
        *,
        python: str,
        root: Path,
        environments: Sequence[str],
        environment: dict[str, str],
        font_cache: Path,
        preload: Sequence[str],
        rehearsal: dict[str, Any],
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link = ours
        self._lock = threading.Lock()
        self._starting: dict[str, tuple[Sandbox, Future[Sandbox]]] = {}
        self._running: dict[str, Sandbox] = {}
        self._attaching: dict[str, Future[None]] = {}
        self.ready: Future[None] = Future()
        """Done when the imports are; failed if the template broke instead."""

        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with theirs:
            wire.send(
                ours,
                {
                    "root": str(root),
                    "environments": list(environments),
                    "env": environment,
                    "font_cache": str(font_cache),
                    "preload": list(preload),
                    "rehearsal": {**rehearsal, "rehearse": True},
                },
            )
            self.process = subprocess.Popen(
                [python, "-I", str(ENTRY_POINT)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={"PATH": os.defpath, **environment},
                start_new_session=True,
            )
        self._thread = threading.Thread(target=self._read, name="ci-tools-template", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether sandboxes can still come from it."""
        return self.process.poll() is None and not self.ready.cancelled()

    def spawn(self, spec: dict[str, Any], listeners: Sequence[int]) -> Future[Sandbox]:
        """Start the kernel that `spec` describes in a sandbox of its own.

        The template is not told what is secret: what it has had in its memory, each kernel that it
        forks later has too.
        """
        secret = {name: spec[name] for name in wire.SECRETS}
        spec = {name: value for name, value in spec.items() if name not in wire.SECRETS}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sandbox = Sandbox(spec["id"], ours)
        started: Future[Sandbox] = Future()
        with theirs, self._lock:
            self._starting[sandbox.id] = (sandbox, started)
            try:
                wire.send(ours, secret)
                wire.send(self._link, {"op": "spawn", **spec}, [*listeners, theirs.fileno()])
            except OSError as exc:
                del self._starting[sandbox.id]
                ours.close()
                raise TemplateError(f"The template process is gone: {exc}.") from exc
        return started

    def attach(self, sandbox: Sandbox, *, data: str, user: int | None) -> Future[None]:
        """Give a sandbox that was made ahead of its session the session's folder."""
        attached: Future[None] = Future()
        message = {"op": "attach", "id": sandbox.id, "data": data, "uid": user}
        with self._lock:
            self._attaching[sandbox.id] = attached
            try:
                wire.send(self._link, message, [sandbox.namespace_fd])
            except OSError as exc:
                del self._attaching[sandbox.id]
                raise TemplateError(f"The template process is gone: {exc}.") from exc
        return attached

    def close(self) -> None:
        """End the template and every sandbox of it."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(timeout=END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # What waits for the sandboxes' ends gives back what they held.
        self._thread.join(timeout=END_TIMEOUT)

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._link, selectors.EVENT_READ)
            while self._read_once(selector):
                pass
        self._link.close()
        # The socket closes first; when the process has ended, all of its sandboxes have. What they
        # held (control groups) can be given back only then, which takes a while on a busy machine.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_TIMEOUT)
        self._fail(TemplateError("The template process ended."))

    def _read_once(self, selector: selectors.BaseSelector) -> bool:
        for key, _ in selector.select():
            if isinstance(key.fileobj, Sandbox):
                sandbox = key.fileobj
                message = sandbox.receive()
                if message is None:
                    # The descriptor is closed by now; epoll forgot it, the selector has not.
                    selector.unregister(sandbox)
                self._settle_start(sandbox, message)
                continue
            try:
                received = wire.receive(self._link)
            except OSError:
                received = None
            if received is None:
                return False
            self._handle(*received, selector)
        return True

    def _fail(self, error: TemplateError) -> None:
        with self._lock:
            starting, running = list(self._starting.values()), list(self._running.values())
            attaching = list(self._attaching.values())
            self._attaching.clear()
            self._starting.clear()
            self._running.clear()
        if not self.ready.done():
            self.ready.set_exception(error)
        for waiting in attaching:
            waiting.set_exception(error)
        for sandbox, started in starting:
            sandbox.close()
            started.set_exception(error)
        for sandbox in running:
            sandbox.close()
            sandbox.exited.set_result(-signal.SIGKILL)

    def _settle_start(self, sandbox: Sandbox, message: dict[str, Any] | None) -> None:
        if message is not None and message.get("op") not in ("entered", "failed"):
            return
        with self._lock:
            _, started = self._starting.pop(sandbox.id, (None, None))
        if started is None:
            return
        if message is not None and message["op"] == "entered":
            started.set_result(sandbox)
        else:
            reason = message["error"] if message else "it ended at once"
            started.set_exception(TemplateError(f"The sandbox could not be made: {reason}."))

    def _handle(
        self, message: dict[str, Any], fds: list[int], selector: selectors.BaseSelector
    ) -> None:
        match message["op"]:
            case "ready":
                if message.get("threads", 1) > 1:
                    logger.warning(
                        "A preloaded module has started a thread: kernels forked with it may hang."
                    )
                self.ready.set_result(None)
            case "broken":
                self.ready.set_exception(TemplateError(message["error"]))
            case "spawned":
                with self._lock:
                    sandbox, _ = self._starting[message["id"]]
                    self._running[sandbox.id] = sandbox
                sandbox.pidfd = fds[0]
                selector.register(sandbox, selectors.EVENT_READ)
            case "failed":
                with self._lock:
                    sandbox, started = self._starting.pop(message["id"])
                sandbox.close()
                started.set_exception(TemplateError(message["error"]))
            case "attached":
                self._attaching.pop(message["id"]).set_result(None)
            case "not_attached":
                attaching = self._attaching.pop(message["id"])
                attaching.set_exception(TemplateError(message["error"]))
            case "exited":
                with self._lock:
                    found = self._running.pop(message["id"], None)
                if found is not None:
                    found.exited.set_result(message["status"])
