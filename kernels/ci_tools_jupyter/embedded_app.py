"""The Jupyter Server that `embedded_child` runs: its settings and a few improvements."""

import json
import os
import warnings
from typing import Any

from jupyter_server._tz import utcnow
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.ioloop import IOLoop
from traitlets.config import Config

NUDGE_INTERVAL = 0.02
"""Seconds between requests that make a new kernel show it is there; stock servers wait 0.5."""

DEATH_INTERVAL = 0.5
"""Seconds between looks at whether a kernel still lives; stock servers wait 3."""

SHUTDOWN_WAIT = 2.0
"""Seconds that a kernel has to end by itself before it is killed."""

START_WAIT = 40.0
"""Seconds that a new kernel has to answer."""


class QuickConnection(ZMQChannelsWebsocketConnection):
    """A connection that opens as soon as its kernel can be heard, and sends without delay."""

    def nudge(self) -> Any:
        """Ask for a sign of life more often than twice a second."""
        connected = super().nudge()
        control = self.kernel_manager.connect_control()
        loop = IOLoop.current()

        def ask() -> None:
            if connected.done() or control.closed():
                control.close()
                return
            self.session.send(control, "kernel_info_request")
            loop.call_later(NUDGE_INTERVAL, ask)

        loop.call_later(NUDGE_INTERVAL, ask)
        return connected

    def connect(self) -> Any:
        """Send every message at once: where there are no unix sockets this is TCP."""
        self.websocket_handler.set_nodelay(True)
        return super().connect()


class QuickKernels(AsyncMappingKernelManager):
    """Keeps watch over kernels at a fraction of the usual cost, which is paid per message."""

    def start_watching_activity(self, kernel_id: str) -> None:
        """Note whether a kernel is busy, and when it last was."""
        start: Any = super().start_watching_activity
        start(kernel_id)
        kernel = self._kernels[kernel_id]
        kernel._activity_stream.on_recv(lambda parts: self._note_activity(kernel, parts))

    def _note_activity(self, kernel: Any, parts: list[bytes]) -> None:
        _, (_, header, parent, _, content, *_) = kernel.session.feed_identities(parts)
        parent_type = json.loads(parent).get("msg_type")
        message_type = json.loads(header).get("msg_type")
        untracked = self.untracked_message_types
        tracked = parent_type not in untracked
        if tracked or kernel.execution_state == "busy" or message_type not in untracked:
            self.last_kernel_activity = kernel.last_activity = utcnow()
        if message_type == "status":
            state = json.loads(content).get("execution_state")
            if tracked:
                kernel.execution_state = state
            elif kernel.execution_state == "starting" and state != "starting":
                kernel.execution_state = "idle"


def run_app(options: dict[str, Any], ready: int) -> None:
    """Run the server until it is told to stop; tell `ready` (a descriptor) its port first."""
    folder = options["folder"]
    os.environ["JUPYTER_CONFIG_DIR"] = os.path.join(folder, "config")
    os.environ["JUPYTER_CONFIG_PATH"] = os.path.join(folder, "config")
    os.environ["JUPYTER_RUNTIME_DIR"] = os.path.join(folder, "runtime")
    app = ServerApp.instance(config=_to_config(options))
    app.no_browser_open_file = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app.initialize(argv=[], find_extensions=False)
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_CONFIG_PATH", "JUPYTER_RUNTIME_DIR"):
        os.environ.pop(name, None)  # not for kernels

    def announce() -> None:
        os.write(ready, json.dumps({"port": app.port}).encode() + b"\n")
        os.close(ready)

    app.io_loop.add_callback(announce)  # it listens by then: that was added before
    app.start()


def list_own_processes() -> set[int]:
    """Name the kernels' processes, which the server itself collects when they end."""
    if not ServerApp.initialized():
        return set()
    manager = getattr(ServerApp.instance(), "kernel_manager", None)
    kernels = list(getattr(manager, "_kernels", {}).values())
    found = {getattr(getattr(kernel, "provisioner", None), "pid", None) for kernel in kernels}
    return {pid for pid in found if pid is not None}


def _to_config(options: dict[str, Any]) -> Config:
    config = Config()
    config.ServerApp.update(
        root_dir=options["root"],
        open_browser=False,
        allow_root=True,
        terminals_enabled=False,
        jpserver_extensions={},
        log_level="WARN",
        disable_check_xsrf=False,
        kernel_manager_class=QuickKernels,
        kernel_websocket_connection_class=QuickConnection,
    )
    if options["socket"] is not None:
        config.ServerApp.update(sock=options["socket"], sock_mode="0600")
    else:
        config.ServerApp.update(ip="127.0.0.1", port=0, port_retries=0)
    config.IdentityProvider.token = options["token"]
    config.QuickConnection.limit_rate = False
    config.FileContentsManager.update(allow_hidden=True, delete_to_trash=False)
    config.MappingKernelManager.update(
        cull_idle_timeout=int(options["cull_after"]),
        cull_interval=60,
        cull_connected=False,
        kernel_info_timeout=START_WAIT,
    )
    config.KernelManager.shutdown_wait_time = SHUTDOWN_WAIT
    # A kernel that ended stays ended: a new one under the old id would have lost its variables.
    config.KernelRestarter.update(time_to_dead=DEATH_INTERVAL, restart_limit=0)
    return config
