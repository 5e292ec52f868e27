"""The IPython kernel of a sandbox, on sockets that the server has already bound.

The server listens before the kernel exists, so clients connect at once and nothing of the host's
file system has to be shared for it: the kernel gets the five listening sockets themselves.
"""

import contextlib
import logging
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

import zmq
from ipykernel import ipkernel
from ipykernel.compiler import XCachingCompiler
from ipykernel.heartbeat import Heartbeat
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.profiledir import ProfileDir
from traitlets.config import Config
from zmq.eventloop.zmqstream import ZMQStream

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
"""The order of the listening sockets; a channel's port is its place, counted from one."""

QUEUED_OUTPUTS = 100_000
"""Messages that wait for a busy server before further ones are dropped. The usual 1000 are too few:
unix sockets hold little, and output that code flushes piece by piece was lost on a busy machine."""


_module_files: list[str] = []
"""Where the modules are from that the template imported."""


class SandboxKernel(ipkernel.IPythonKernel):
    """An IPython kernel that takes over what its template has made for it.

    Each page of memory that a kernel writes to, if only to count a reference, is copied: what the
    template does once costs no kernel time or memory.
    """

    def __init__(self, **kwargs: Any) -> None:
        with _without_modules() if _module_files else contextlib.nullcontext():
            super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        if _module_files:
            self._kernel_modules = _module_files
            debugger = getattr(self, "debugger", None)
            if debugger is not None:
                debugger.kernel_modules = _module_files
        if isinstance(self.shell, ZMQInteractiveShell) and self.shell.kernel is None:
            self._adopt(self.shell)

    def _adopt(self, shell: ZMQInteractiveShell) -> None:
        """Make the template's shell this kernel's, as if it had been made with it."""
        shell.kernel = shell.parent = self
        shell.profile_dir = self.profile_dir
        shell.init_environment()  # type: ignore[no-untyped-call]
        if shell.config != self.config:  # there is a configuration file
            shell.config = self.config


@contextlib.contextmanager
def _without_modules() -> Iterator[None]:
    """Hide the modules from ipykernel, which asks each for its file: that would copy 8 MB."""
    names = vars(ipkernel)
    real = names["sys"]
    names["sys"] = types.SimpleNamespace(**{**vars(real), "modules": {}})
    try:
        yield
    finally:
        names["sys"] = real


class _ListeningHeartbeat(Heartbeat):
    fd: int

    def _try_bind_socket(self) -> None:
        self.socket.setsockopt(zmq.USE_FD, self.fd)
        self.socket.bind(f"ipc://{self.ip}-{self.port}")


class SandboxKernelApp(IPKernelApp):
    """The application of an IPython kernel whose sockets are there already."""

    kernel_class = SandboxKernel
    fds: dict[str, int]

    def _try_bind_socket(self, s: Any, port: int) -> int:
        s.setsockopt(zmq.USE_FD, self.fds[CHANNELS[port - 1]])
        if CHANNELS[port - 1] == "iopub":
            s.sndhwm = QUEUED_OUTPUTS
        s.bind(f"ipc://{self.ip}-{port}")
        if CHANNELS[port - 1] == "shell":
            # The debugger's socket connects to the last address, and must not look for a file.
            s.bind("inproc://shell")
        return port

    def init_heartbeat(self) -> None:
        """Start the heartbeat on its own listening socket."""
        address = (self.transport, self.ip, self.hb_port)
        self.heartbeat = _ListeningHeartbeat(zmq.Context(), address)  # type: ignore[no-untyped-call]
        self.heartbeat.fd = self.fds["hb"]
        self.heartbeat.start()

    def parse_command_line(self, argv: Any = None) -> None:
        """Parse nothing: there is no command line, and making its parser takes 5 ms."""

    def init_connection_file(self) -> None:
        """Leave the connection file alone: everything in it came another way."""

    def write_connection_file(self, **kwargs: Any) -> None:
        """Write nothing: the server knows the address."""

    def cleanup_connection_file(self) -> None:
        """Remove nothing, for the same reason."""


def make_ready() -> None:
    """Make what all kernels of a template can share until they run: application and shell.

    Nothing of it may hold a socket, a thread, a secret or a number that has to be its own.
    """
    app = _make_app()
    ZMQInteractiveShell.instance(
        config=app.config, profile_dir=ProfileDir(), compiler_class=XCachingCompiler
    )


def remember_modules() -> None:
    """Note where all modules are from, for the debuggers of the kernels."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    _module_files[:] = [file for file in files if file]


def forget_ready() -> None:
    """Undo `make_ready`: each kernel makes its own."""
    SandboxKernelApp.clear_instance()
    ZMQInteractiveShell.clear_instance()


def _make_app() -> SandboxKernelApp:
    app = SandboxKernelApp.instance()
    config = Config()
    config.HistoryManager.enabled = False  # nothing to write when /tmp is full
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShellApp.matplotlib = "inline" if "matplotlib" in sys.modules else None
    config.InlineBackend.rc = {"figure.dpi": 100, "figure.figsize": (7.0, 4.5)}
    app.update_config(config)
    app.log.setLevel(logging.WARNING)  # what is less would be made and then thrown away
    return app


def configure(connection: dict[str, Any], fds: list[int]) -> SandboxKernelApp:
    """Return the application for this connection, not yet initialised."""
    app = SandboxKernelApp.instance() if SandboxKernelApp.initialized() else _make_app()
    app.fds = dict(zip(CHANNELS, fds, strict=True))
    app.transport = "ipc"
    app.ip = "/run/kernel"
    for port, channel in enumerate(CHANNELS, 1):
        setattr(app, f"{channel}_port", port)
    app.session.key = connection["key"].encode()
    app.session.signature_scheme = connection["signature_scheme"]
    app.parent_handle = 0
    return app


def warm_up(app: SandboxKernelApp) -> None:
    """Have the kernel answer its first requests while nobody waits.

    They come from the kernel itself once it runs, over its own socket: much of what the first
    execution costs is the first use of memory that was shared with the template.
    """
    assert app.context is not None and app.shell is not None
    displayhook = app.shell.displayhook
    socket = app.context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect("inproc://shell")
    stream = ZMQStream(socket)
    run = {"silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}

    def finish(parts: list[bytes]) -> None:
        _, parts = app.session.feed_identities(parts)
        if app.session.deserialize(parts)["msg_type"] == "execute_reply":
            displayhook.flush()
            stream.close()

    stream.on_recv(finish)
    app.session.send(stream, "kernel_info_request")
    app.session.send(stream, "execute_request", {"code": "1 + 1", **run})


def prepare_streams() -> None:
    """Give the process empty standard streams; output goes to clients, never to a log."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
