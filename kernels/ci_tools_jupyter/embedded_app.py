"""The Jupyter Server that `embedded_child` runs: its settings and a few improvements.

With a sandbox it has one kernelspec and no other, so that no name leads to a kernel without. The
sandbox is another package, which knows nothing of ours and is named here: the kernelspec names its
provisioner, and it is an extension of the server.
"""

import json
import os
import sys
import warnings
from contextlib import suppress
from typing import Any

from jupyter_client.kernelspec import (
    NATIVE_KERNEL_NAME,
    KernelSpec,
    KernelSpecManager,
    NoSuchKernel,
)
from jupyter_server._tz import utcnow
from jupyter_server.auth.decorator import authorized
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.kernels.connection.base import serialize_msg_to_ws_v1
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.handlers import MainKernelHandler
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.ioloop import IOLoop
from traitlets import Dict, Unicode
from traitlets.config import Config
from traitlets.utils.importstring import import_item

from ci_tools_jupyter.waiting import WAITING_PROCESSES, Kind

NUDGE_INTERVAL = 0.02
"""Seconds between requests that make a new kernel show it is there; stock servers wait 0.5."""

DEATH_INTERVAL = 0.5
"""Seconds between looks at whether a kernel still lives; stock servers wait 3."""

SHUTDOWN_WAIT = 2.0
"""Seconds that a kernel has to end by itself before it is killed."""

START_WAIT = 40.0
"""Seconds that a new kernel has to answer."""


PROVISIONER = "ci-tools-sandbox"
"""The kernel provisioner (an entry point) that starts sandboxed kernels."""

POOL_PROVISIONER = "ci-tools-waiting"
"""The kernel provisioner (an entry point) of kernels without a sandbox; `waiting.py`."""

EXTENSION = "ci_tools_kernels.extension"
"""The server extension that says how kernels are held, and runs commands beside them."""

CONNECTION = "ci_tools_kernels.connection.SandboxWebsocketConnection"
"""The connection to sandboxed kernels, which does not wait for what they do not need."""

KERNEL_MANAGER = "ci_tools_kernels.starts.PromptKernelManager"
"""The manager of a sandboxed kernel, which says at once that it has started."""

CHOICE = "ci_tools_choice"
"""The argument of a start that tells the provisioner what was chosen for one kernel."""

SANDBOXED = "python3"
"""The one kernelspec where there is a sandbox."""

REMEDY = (
    "Or run code without a sandbox, with the rights of the service: set CI_TOOLS_ISOLATION=none."
)
"""What is said besides where a sandbox cannot be had."""

SUBPROTOCOL = "v1.kernel.websocket.jupyter.org"
"""What our side speaks."""


_OWN_PYTHON = (sys.executable, "python", "python3", "python{}.{}".format(*sys.version_info))
"""Names in kernelspecs that stand for the server's own interpreter, as jupyter_client has it."""


class OneKernelspec(KernelSpecManager):
    """Knows the sandboxed kernelspec only; it is nowhere on the disk, for it may hold secrets."""

    python = Unicode(config=True, help="The interpreter of kernels.")
    policy = Dict(config=True, help="What the provisioner is told.")

    def find_kernel_specs(self) -> dict[str, str]:
        """Name it."""
        return {SANDBOXED: ""}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return it.

        Raises:
            NoSuchKernel: Another one is asked for.
        """
        if kernel_name != SANDBOXED:
            raise NoSuchKernel(kernel_name)
        return KernelSpec(
            # The words after the interpreter are for readers: the provisioner starts kernels.
            argv=[self.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3 (sandboxed)",
            language="python",
            interrupt_mode="message",
            metadata={
                "kernel_provisioner": {
                    "provisioner_name": PROVISIONER,
                    "config": dict(self.policy),
                }
            },
        )


class InstalledKernelspecs(KernelSpecManager):
    """Knows what is installed, and adds the variables of kernels to all."""

    python = Unicode(config=True, help="The interpreter of kernels of the native kernelspec.")
    environment = Dict(config=True, help="Variables of all kernels.")
    pool = Dict(config=True, help="What the provisioner of waiting processes is told.")

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return a kernelspec."""
        spec = super().get_kernel_spec(kernel_name)
        if spec.argv and spec.argv[0] in _OWN_PYTHON:
            spec.argv[0] = self.python
            pool = {"provisioner_name": POOL_PROVISIONER, "config": dict(self.pool)}
            spec.metadata = {"kernel_provisioner": pool, **spec.metadata}
        spec.env = {**spec.env, **self.environment}
        return spec

    def fill_pool(self) -> None:
        """Let the first processes wait, before anybody asks for a kernel."""
        with suppress(NoSuchKernel):
            spec = self.get_kernel_spec(NATIVE_KERNEL_NAME)
            environment = {**os.environ, **spec.env}
            kind = Kind.of(spec.argv, environment, self.pool.get("preload", ()))
            if kind is not None and sys.platform != "win32":
                WAITING_PROCESSES.fill(kind, self.pool.get("size", 0))


class TellingConnection:
    """What a connection has besides: it says for which limit its kernel has ended."""

    kernel_manager: Any
    session: Any
    channels: Any
    subprotocol: Any
    write_message: Any
    _provisioner: Any = None

    def connect(self) -> Any:
        """Remember the provisioner: the manager forgets those of ended kernels."""
        self._provisioner = self.kernel_manager.provisioner
        connect: Any = super().connect  # type: ignore[misc] # of the connection beside this class
        return connect()

    def _send_status_message(self, status: str) -> None:
        excess = getattr(self._provisioner, "last_excess", None)
        if excess is None or status != "dead" or self.subprotocol != SUBPROTOCOL:
            send: Any = super()._send_status_message  # type: ignore[misc] # the same
            send(status)
            return
        iopub = self.channels.get("iopub")
        if iopub and not iopub.closed():
            iopub.flush()  # what the kernel has still said comes first
        message = self.session.msg("status", {"execution_state": status, "reason": excess})
        serialize: Any = serialize_msg_to_ws_v1
        self.write_message(serialize(message, "iopub", self.session.pack), binary=True)


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

    async def start_kernel(  # type: ignore[override] # as the superclass itself has it
        self, *, choice: dict[str, Any] | None = None, **kwargs: Any
    ) -> str:
        """Start a kernel; why that failed is part of the answer."""
        if choice and isinstance(self.kernel_spec_manager, OneKernelspec):
            kwargs[CHOICE] = choice
        elif choice:
            kwargs["env"] = {**os.environ, **choice.get("environment", {})}
        try:
            return await super().start_kernel(**kwargs)
        except web.HTTPError:
            raise
        except Exception as exc:
            self.log.exception("A kernel could not be started.")
            raise web.HTTPError(500, _explain(exc).replace("%", "%%")) from exc

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


class StartHandler(MainKernelHandler):
    """Starts kernels as the stock route does, and with what the service chose for one."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start a kernel, and answer with its id."""
        body = self.get_json_body() or {}
        if not body.get("choice"):
            stock: Any = super().post
            await stock()
            return
        kernel_id = await self.kernel_manager.start_kernel(
            kernel_name=body["name"], path=body.get("path"), choice=body["choice"]
        )
        self.set_status(201)
        self.finish(json.dumps({"id": kernel_id, "name": body["name"]}))


def _explain(failure: Exception) -> str:
    text = str(failure) or type(failure).__name__
    # By its name: the class is another package's.
    return f"{text} {REMEDY}" if type(failure).__name__ == "IsolationError" else text


def run_app(options: dict[str, Any], ready: int) -> None:
    """Run the server until it is told to stop; tell `ready` (a descriptor) its port first."""
    folder = options["folder"]
    os.environ["JUPYTER_CONFIG_DIR"] = os.path.join(folder, "config")
    os.environ["JUPYTER_CONFIG_PATH"] = os.path.join(folder, "config")
    os.environ["JUPYTER_RUNTIME_DIR"] = os.path.join(folder, "runtime")
    if options["sandboxed"]:
        os.environ["XDG_RUNTIME_DIR"] = options["sockets"]  # for the kernels' sockets
    app = ServerApp.instance(config=_to_config(options))
    app.no_browser_open_file = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app.initialize(argv=[], find_extensions=False)
    route = url_path_join(app.base_url, "api", "kernels")
    application: Any = app.web_app
    application.add_handlers(".*$", [(route, StartHandler)])  # before the server's own
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_CONFIG_PATH", "JUPYTER_RUNTIME_DIR"):
        os.environ.pop(name, None)  # not for kernels

    def announce() -> None:
        os.write(ready, json.dumps({"port": app.port}).encode() + b"\n")
        os.close(ready)

    app.io_loop.add_callback(announce)  # it listens by then: that was added before
    if isinstance(app.kernel_spec_manager, InstalledKernelspecs):
        app.io_loop.add_callback(app.kernel_spec_manager.fill_pool)
    app.start()


def list_own_processes() -> set[int]:
    """Name the kernels' processes, which the server itself collects when they end."""
    if not ServerApp.initialized():
        return set()
    manager = getattr(ServerApp.instance(), "kernel_manager", None)
    kernels = list(getattr(manager, "_kernels", {}).values())
    found = {getattr(getattr(kernel, "provisioner", None), "pid", None) for kernel in kernels}
    return {pid for pid in found if pid is not None} | WAITING_PROCESSES.list_pids()


def _make_connection(*, sandboxed: bool) -> type:
    quick = import_item(CONNECTION) if sandboxed else QuickConnection
    return type("EmbeddedConnection", (TellingConnection, quick), {})


def _to_config(options: dict[str, Any]) -> Config:
    config = Config()
    config.ServerApp.update(
        root_dir=options["root"],
        open_browser=False,
        allow_root=True,
        terminals_enabled=False,
        jpserver_extensions={EXTENSION: True} if options["sandboxed"] else {},
        log_level="WARN",
        disable_check_xsrf=False,
        kernel_manager_class=QuickKernels,
        kernel_spec_manager_class=OneKernelspec if options["sandboxed"] else InstalledKernelspecs,
        kernel_websocket_connection_class=_make_connection(sandboxed=options["sandboxed"]),
    )
    if options["socket"] is not None:
        config.ServerApp.update(sock=options["socket"], sock_mode="0600")
    else:
        config.ServerApp.update(ip="127.0.0.1", port=0, port_retries=0)
    config.OneKernelspec.python = config.InstalledKernelspecs.python = options["python"]
    config.OneKernelspec.policy = {**options["policy"], "environment": options["environment"]}
    config.InstalledKernelspecs.environment = options["environment"]
    policy = options["policy"]
    config.InstalledKernelspecs.pool = {
        "size": policy.get("pool", 0),
        "preload": policy.get("preload", []),
    }
    config.IdentityProvider.token = options["token"]
    config.ZMQChannelsWebsocketConnection.limit_rate = False
    config.FileContentsManager.update(allow_hidden=True, delete_to_trash=False)
    if options["sandboxed"]:
        config.MappingKernelManager.kernel_manager_class = KERNEL_MANAGER
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
