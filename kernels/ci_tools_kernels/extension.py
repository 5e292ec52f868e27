"""The Jupyter Server extension: fast connections, and commands beside a busy kernel.

    POST /ci-tools/api/kernels/<kernel id>/commands
        {"command": "ls -l", "timeout": 60, "output_limit": 1000000, "cwd": "...", "input": "...",
         "environment": {"NAME": "value"}}
    answers with one JSON object a line, as things happen:
        {"stream": "stdout", "text": "..."}
        {"exit_status": 0, "timed_out": false, "truncated": false}
    GET /ci-tools/api/kernels/<kernel id>
        {"isolation": "namespaces", "network": "none", "limits": {...}, "last_excess": null,
         "usage": {"size": 4096, "files": 1, "quota": true}}: what holds this kernel, the limit that
        it was last interrupted or ended for, and what is in /mnt/data, null where that is kept in
        memory; with `quota` the file system holds the limit
    GET /ci-tools/api/probe
        which mechanism holds each limit here, and why

It also keeps the server's own file routes from following symbolic links: code in a session makes
links as it likes, and they must lead nowhere outside of it.

Both need what running code needs: the server's own authentication, and its authorizer's leave to
execute in kernels.
"""

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler, AuthenticatedFileHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.iostream import StreamClosedError

from ci_tools_kernels.commands import CommandDone, TemplateError, run_command
from ci_tools_kernels.connection import SandboxWebsocketConnection
from ci_tools_kernels.host import find_host
from ci_tools_kernels.kernelspec import PROVISIONER
from ci_tools_kernels.policy import Policy, to_config, to_policy
from ci_tools_kernels.pool import PoolKey, to_size
from ci_tools_kernels.probe import probe
from ci_tools_kernels.provisioner import SandboxProvisioner
from ci_tools_kernels.template import START_TIMEOUT, Template
from ci_tools_kernels.usage import measure_folder

logger = logging.getLogger(__name__)

LONGEST_TIMEOUT = 3600.0
"""Seconds."""

LARGEST_OUTPUT = 64_000_000
"""Bytes."""

SHELL = "/bin/sh"
"""What commands are run by, inside the sandbox."""


class KernelHandler(APIHandler):
    """Says how a kernel is held."""

    auth_resource = "kernels"

    def find_provisioner(self, kernel_id: str) -> SandboxProvisioner:
        """Return the provisioner of a running sandboxed kernel, or answer with an error."""
        if kernel_id not in self.kernel_manager:
            raise web.HTTPError(HTTPStatus.NOT_FOUND, f"No kernel with id {kernel_id!r}.")
        provisioner = self.kernel_manager.get_kernel(kernel_id).provisioner
        if not isinstance(provisioner, SandboxProvisioner) or provisioner.sandbox is None:
            raise web.HTTPError(
                HTTPStatus.CONFLICT, "This kernel was not started in a sandbox of ci-tools."
            )
        return provisioner

    @web.authenticated
    @authorized(action="execute")  # type: ignore[untyped-decorator]
    async def get(self, kernel_id: str) -> None:
        """Answer with the kernel's isolation, limits and last excess."""
        provisioner = self.find_provisioner(kernel_id)
        description = {
            "isolation": provisioner.isolation,
            "network": provisioner.policy.network,
            "limits": asdict(provisioner.policy.limits),
            "last_excess": provisioner.last_excess,
            "usage": await asyncio.to_thread(find_usage, provisioner),
        }
        self.finish(json.dumps(description))


def find_root(contents: Any) -> Path | None:
    """Return the folder that holds everybody's, where it is on this machine."""
    folder = getattr(contents, "root_dir", None)
    return Path(folder) if folder else None


def find_usage(provisioner: SandboxProvisioner) -> dict[str, int | bool] | None:
    """Return what a kernel has in /mnt/data: bytes, files, and whether a quota holds the limit."""
    folder = provisioner.folder
    if folder is None:
        return None
    used = find_host().quotas.find_used(folder) if provisioner.quota else None
    if used is None:
        used = measure_folder(folder, most_files=provisioner.policy.limits.files)
    return {"size": used.size, "files": used.files, "quota": provisioner.quota}


class CommandHandler(KernelHandler):
    """Runs a command in a kernel's sandbox."""

    auth_resource = "kernels"
    _task: "asyncio.Task[None] | None" = None
    _left = False

    @web.authenticated
    @authorized(action="execute")  # type: ignore[untyped-decorator]
    async def post(self, kernel_id: str) -> None:
        """Start the command and stream what it writes."""
        provisioner = self.find_provisioner(kernel_id)
        request = _read_request(self.get_json_body())
        self.set_header("Content-Type", "application/x-ndjson")
        self._task = asyncio.current_task()
        try:
            await self._stream(provisioner, request)
        except TemplateError as exc:
            raise web.HTTPError(HTTPStatus.GONE, str(exc)) from exc
        except StreamClosedError:
            return  # the client is gone, and the command with it
        except asyncio.CancelledError:
            if not self._left:
                raise
        finally:
            self._task = None

    async def _stream(self, provisioner: SandboxProvisioner, request: dict[str, Any]) -> None:
        sandbox = provisioner.sandbox
        assert sandbox is not None
        argv = [SHELL, "-c", request.pop("command")]
        variables = {**provisioner.command_environment(), **request.pop("environment")}
        async with run_command(sandbox, argv, env=variables, **request) as events:
            async for event in events:
                self.write(json.dumps(asdict(event)) + "\n")
                await self.flush()
                if isinstance(event, CommandDone):
                    return

    def on_connection_close(self) -> None:
        """End the command of a client that has gone."""
        super().on_connection_close()
        self._left = True
        if self._task is not None:
            self._task.cancel()


class ProbeHandler(APIHandler):
    """Says how sandboxed kernels are held here."""

    auth_resource = "kernels"

    @web.authenticated
    @authorized(action="execute")  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        """Try a sandbox out and answer with the report."""
        report = await asyncio.to_thread(probe, folder=find_root(self.contents_manager))
        self.finish(json.dumps(asdict(report)))


def _read_request(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict) or not isinstance(body.get("command"), str):
        raise web.HTTPError(HTTPStatus.BAD_REQUEST, "The body needs a `command`.")
    variables = body.get("environment", {})
    try:
        return {
            "command": body["command"],
            "timeout": min(max(float(body.get("timeout", 60.0)), 0.0), LONGEST_TIMEOUT),
            "output_limit": min(max(int(body.get("output_limit", 1_000_000)), 0), LARGEST_OUTPUT),
            "cwd": str(body.get("cwd", "/mnt/data")),
            "input": str(body.get("input", "")).encode(),
            "environment": {str(name): str(value) for name, value in dict(variables).items()},
        }
    except (TypeError, ValueError) as exc:
        raise web.HTTPError(HTTPStatus.BAD_REQUEST, f"The body is not valid: {exc}.") from exc


def refuse_links(contents: Any) -> None:
    """Let this contents manager find nothing that is reached over a symbolic link.

    Its checkpoints neither: they are files beside those that are saved, and code can make links in
    their places as well.
    """
    checkpoints = getattr(contents, "checkpoints", None)
    for owner, name in (
        (contents, "_get_os_path"),
        (checkpoints, "_get_os_path"),
        (checkpoints, "checkpoint_path"),
    ):
        find = getattr(owner, name, None)
        if find is not None:  # else it is not on a file system
            setattr(owner, name, _without_links(owner, find))


def _without_links(owner: Any, find: Callable[..., Any]) -> Callable[..., str]:
    def find_without_links(*args: Any, **kwargs: Any) -> str:
        found = str(find(*args, **kwargs))
        _check_links(owner.root_dir, found)
        return found

    return find_without_links


def _check_links(root: str, path: str) -> None:
    below = os.path.relpath(path, root)
    if os.path.realpath(path) != os.path.normpath(os.path.join(os.path.realpath(root), below)):
        raise web.HTTPError(HTTPStatus.NOT_FOUND, "There is no such file.")


class SessionFileHandler(AuthenticatedFileHandler):
    """The server's own route for files, for those that are reached over no symbolic link."""

    def validate_absolute_path(self, root: str, absolute_path: str) -> str:
        """Check the path as the server does, and that it has no link in it."""
        _check_links(root, absolute_path)  # first: what comes back has its links followed
        return str(super().validate_absolute_path(root, absolute_path))


def warm_up(specs: KernelSpecManager, folder: Path | None) -> None:
    """Start the template of each sandboxed kernelspec, and fill its pool, in the background.

    `folder` is where the sessions' folders are.
    """
    for name, found in specs.get_all_specs().items():
        provisioner = found["spec"].get("metadata", {}).get("kernel_provisioner", {})
        if provisioner.get("provisioner_name") != PROVISIONER:
            continue
        policy = to_policy(provisioner.get("config", {}))
        key = PoolKey(
            python=found["spec"]["argv"][0],
            policy=json.dumps(to_config(policy)),
            environment=tuple(sorted(found["spec"].get("env", {}).items())),
        )
        threading.Thread(
            target=_warm_up, args=(name, key, policy, folder), name="ci-tools-warm-up", daemon=True
        ).start()


def _warm_up(name: str, key: PoolKey, policy: Policy, folder: Path | None) -> None:
    host = find_host()
    try:
        launcher = host.launcher(key.python, policy, folder=folder)
        launcher.ready.result(START_TIMEOUT)
        if policy.network == "allowlist":
            host.proxies.open(policy.hosts)
    except (OSError, RuntimeError, TimeoutError) as exc:
        logger.error("Kernels of %s cannot be started: %s", name, exc)
        return
    if isinstance(launcher, Template):
        host.pool.fill(key, launcher, policy, to_size(policy))


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "ci_tools_kernels.extension"}]


def _load_jupyter_server_extension(serverapp: Any) -> None:
    """Add the routes, and use the faster connection unless another was chosen."""
    settings = serverapp.web_app.settings
    chosen = settings.get("kernel_websocket_connection_class")
    if chosen is not None and issubclass(SandboxWebsocketConnection, chosen):
        settings["kernel_websocket_connection_class"] = SandboxWebsocketConnection
        serverapp.kernel_websocket_connection_class = SandboxWebsocketConnection
    contents = serverapp.contents_manager
    refuse_links(contents)
    warm_up(serverapp.kernel_spec_manager, find_root(contents))
    base = url_path_join(settings["base_url"], "ci-tools", "api")
    kernel = url_path_join(base, "kernels", r"(?P<kernel_id>[-\w]+)")
    if getattr(contents, "files_handler_class", None) is AuthenticatedFileHandler:
        # Added later, it comes before the server's own route.
        files = url_path_join(settings["base_url"], "files", "(.*)")
        route = (files, SessionFileHandler, contents.files_handler_params)
        serverapp.web_app.add_handlers(".*$", [route])
    serverapp.web_app.add_handlers(
        ".*$",
        [
            (url_path_join(base, "probe"), ProbeHandler),
            (kernel, KernelHandler),
            (url_path_join(kernel, "commands"), CommandHandler),
        ],
    )
