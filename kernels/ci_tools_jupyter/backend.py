"""The backend: kernels on the embedded Jupyter Server and on remote ones."""

import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio
import anyio.to_thread

from ci_tools.commands import LocalCommands
from ci_tools.errors import (
    BackendError,
    ConfigurationError,
    KernelLostError,
    KernelStartError,
    ServerUnavailableError,
)
from ci_tools.kernel import (
    CommandRequest,
    Kernel,
    KernelRequest,
    Workspace,
    WorkspaceRequest,
)
from ci_tools.models import CommandEvent, ErrorOutput, Json, KernelRef, KernelSpec
from ci_tools.paths import MOUNT
from ci_tools.settings import JupyterServerProfile, Settings
from ci_tools.workspace import LocalWorkspace
from ci_tools_jupyter.channels import Channels, open_channels
from ci_tools_jupyter.commands import run_in_kernel, run_in_sandbox, to_variables
from ci_tools_jupyter.contents import (
    ContentsWorkspace,
    find_model,
    make_folder,
    remove_folder,
)
from ci_tools_jupyter.embedded import PREFIX, EmbeddedServer, find_server, is_sandboxed
from ci_tools_jupyter.greeting import (
    FILES,
    FOLDER,
    NOTHING,
    PLACE,
    REMOVE,
    Greeting,
    greet,
    greet_any,
    install_module,
    set_variables,
    to_place,
)
from ci_tools_jupyter.kernel import JupyterKernel, join_channel_id
from ci_tools_jupyter.kernel_files import KernelWorkspace
from ci_tools_jupyter.remote import RemoteServer, ask
from ci_tools_jupyter.removal import remove_tree
from ci_tools_jupyter.sandbox import SANDBOXED, EmbeddedKernels
from ci_tools_jupyter.server import START_TIMEOUT, JupyterServer

logger = logging.getLogger(__name__)

EMBEDDED = "embedded"
"""The name of the embedded server."""

DEFAULT = "default"
"""The name of the server that `jupyter_url` is the address of."""

CULL_GRACE = 900.0
"""Seconds after which an embedded server ends a kernel that its service should have stopped."""

CLOSE_GRACE = 5.0
"""Seconds to close a connection."""

REMOVE_TIMEOUT = 60.0
"""Seconds that a kernel may take to delete a session's folder."""

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


class JupyterBackend:
    """Kernels on Jupyter Servers; implements `ci_tools.kernel.KernelBackend`."""

    name = "jupyter"

    def __init__(
        self,
        *,
        state_dir: Path,
        remotes: Mapping[str, JupyterServerProfile] | None = None,
        kernel_idle_timeout: float = 3600.0,
        kernels: EmbeddedKernels | None = None,
    ) -> None:
        self._state_dir = state_dir.absolute()
        self._kernels = kernels or EmbeddedKernels.from_settings(Settings())
        self._isolation = self._kernels.isolation
        self._remotes = {
            name: RemoteServer(name, profile) for name, profile in (remotes or {}).items()
        }
        self._embedded = EmbeddedServer(
            self._state_dir, kernels=self._kernels, cull_after=kernel_idle_timeout + CULL_GRACE
        )
        self._neighbours: dict[str, JupyterServer] = {}
        self._parked: dict[str, Channels] = {}
        self._commands = LocalCommands()

    @classmethod
    def from_settings(cls, settings: Settings) -> "JupyterBackend":
        """Return the backend that the settings describe."""
        remotes: dict[str, JupyterServerProfile] = {}
        if settings.jupyter_url is not None:
            remotes[DEFAULT] = JupyterServerProfile(
                url=settings.jupyter_url, token=settings.jupyter_token
            )
        remotes |= settings.jupyter_servers
        return cls(
            state_dir=settings.state_dir,
            remotes=remotes,
            kernel_idle_timeout=settings.kernel_idle_timeout,
            kernels=EmbeddedKernels.from_settings(settings),
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Own the embedded server and the connections."""
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._aclose()

    async def _aclose(self) -> None:
        self._commands.end_all()
        while self._parked:
            _, channels = self._parked.popitem()
            with anyio.move_on_after(CLOSE_GRACE):
                await channels.close()
        servers = [remote.server for remote in self._remotes.values()]
        for server in (*servers, *self._neighbours.values()):
            await server.aclose()
        self._neighbours.clear()
        await self._embedded.aclose()

    def servers(self) -> Sequence[str]:
        """Name the remote servers, and the embedded one unless there is a remote `default`.

        Who runs code elsewhere by default does not want a model to choose this machine.
        """
        if DEFAULT in self._remotes:
            return tuple(self._remotes)
        return (EMBEDDED, *self._remotes)

    def isolation(self, server: str) -> str:
        """Tell what separates code on the embedded server from this machine.

        Until the first kernel has started, that may be `auto`.
        """
        return self._isolation if server == EMBEDDED or server.startswith(PREFIX) else "remote"

    async def warm_up(self) -> None:
        """Start the embedded server, if sessions run there by default."""
        if self.servers()[0] == EMBEDDED:
            await self._embedded.get()

    def preparation(self) -> str | None:
        """Say that the environment for kernels is being built, while it is."""
        return self._embedded.preparation

    async def list_kernelspecs(self, server: str) -> Sequence[KernelSpec]:
        """List the kinds of kernel there; the first is the default."""
        specs = await (await self._find_server(server)).list_kernelspecs()
        remote = self._remotes.get(server)
        preferred = remote.profile.kernelspec if remote else None
        if preferred is None:
            return specs
        return sorted(specs, key=lambda spec: spec.name != preferred)

    async def open_workspace(self, request: WorkspaceRequest) -> Workspace | None:
        """Return the session's folder, made if missing; None if only its kernel can reach it."""
        _check_session_id(request.session_id)
        if request.server == EMBEDDED:
            folder = self._to_local_folder(request.session_id)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return LocalWorkspace(folder, seen_as=MOUNT if self._kernels.sandboxed else None)
        remote = self._to_remote(request.server)
        if not await remote.serves_files():
            return None
        await make_folder(remote.server, remote.to_folder(request.session_id))
        return ContentsWorkspace(
            remote,
            request.session_id,
            open_kernel=partial(self._reach_files, remote, request),
        )

    async def remove_workspace(self, request: WorkspaceRequest) -> None:
        """Delete the session's folder and all in it.

        A kernel does it, where there is a Python kernel, because it leaves nothing behind. What it
        cannot do the server is asked for, in one request: code may have made links in the folder,
        and whoever walks it over the contents API deletes what they lead to.
        """
        _check_session_id(request.session_id)
        if request.server == EMBEDDED:
            folder = self._to_local_folder(request.session_id)
            await anyio.to_thread.run_sync(_remove_folder, folder)
            return
        remote = self._to_remote(request.server)
        place = remote.to_folder(request.session_id)
        if not await remote.server.has_contents():
            await self._remove_by_kernel(remote, request)
            return
        if await find_model(remote.server, place) is None:
            return
        try:
            await self._remove_by_kernel(remote, request)
        except BackendError as error:
            logger.warning("session %s: no kernel removes its files: %s", request.session_id, error)
        if await find_model(remote.server, place) is None:
            return
        if not await remove_folder(remote.server, place):
            logger.warning(
                "session %s: its folder %s stays on %s, which does not delete it",
                request.session_id,
                place,
                remote.server.address.name,
            )

    async def start_kernel(self, request: KernelRequest) -> KernelRef:
        """Start a kernel in the session's folder and wait until it answers.

        Raises:
            KernelStartError: It did not start, or there is no such kernelspec.
        """
        _check_session_id(request.session_id)
        if request.server == EMBEDDED and self._kernels.sandboxed:
            if request.kernelspec not in ("", SANDBOXED):
                raise KernelStartError(
                    f"The sandbox runs only the kernelspec {SANDBOXED!r}: {request.kernelspec!r}"
                    " needs CI_TOOLS_ISOLATION=none, with which code has the rights of the service."
                )
        server = await self._find_server(request.server)
        spec = await server.find_kernelspec(self._to_kernelspec(request))
        if spec is None:
            raise KernelStartError(
                f"{server.address.name} has no kernelspec {request.kernelspec!r}."
            )
        remote = self._remotes.get(request.server)
        if remote is not None and not await remote.server.has_contents():
            if spec.name in await remote.server.list_sandboxed():
                raise KernelStartError(
                    f"{server.address.name} is a gateway: it has no folders for sessions, and files"
                    f" of sandboxed kernels ({spec.name!r}) would be lost. Use a Jupyter Server."
                )
        path = await self._prepare_folder(request)
        choice = _to_choice(request) if request.server == EMBEDDED else None
        kernel_id = await server.start_kernel(spec.name, path, choice=choice)
        try:
            if request.server == EMBEDDED and self._isolation == "auto":
                self._isolation = await server.find_isolation(kernel_id)
            return await self._greet(request, server, spec, kernel_id)
        except BaseException:
            with anyio.move_on_after(CLOSE_GRACE, shield=True), suppress(BackendError):
                await server.stop_kernel(kernel_id)
            raise

    async def _prepare_folder(self, request: KernelRequest) -> str:
        """Make the session's folder, where that needs no kernel, and return its path there."""
        if request.server == EMBEDDED:
            await self.open_workspace(
                WorkspaceRequest(session_id=request.session_id, server=request.server)
            )
            return f"{request.session_id}/data"
        remote = self._to_remote(request.server)
        if await remote.server.has_contents():
            place = remote.to_folder(request.session_id)
            await make_folder(remote.server, place)
            return place
        # The kernel itself makes the folder and goes there, from the server's root: a gateway
        # starts it in a folder that is there already, and it would make another one below.
        return ""

    async def _greet(
        self, request: KernelRequest, server: JupyterServer, spec: KernelSpec, kernel_id: str
    ) -> KernelRef:
        channel = uuid4().hex
        channels: Channels | None = None
        try:
            with anyio.fail_after(START_TIMEOUT):
                channels = await open_channels(server, kernel_id, channel, timeout=START_TIMEOUT)
                greeting = await self._introduce(request, spec, channels, channel)
        except BaseException as exc:
            if channels is not None:
                channels.transport.abort()
            if isinstance(exc, TimeoutError):
                raise KernelStartError(
                    f"The kernel {spec.name!r} did not answer within {START_TIMEOUT:.0f} seconds."
                ) from exc
            if isinstance(exc, KernelLostError):
                raise KernelStartError("The kernel ended while it started.") from exc
            raise
        self._parked[kernel_id] = channels
        return KernelRef(
            server=f"{PREFIX}{self._embedded.id}" if request.server == EMBEDDED else request.server,
            kernel_id=kernel_id,
            channel_id=join_channel_id(channel, greeting.signature),
            kernelspec=spec.name,
            language=spec.language,
        )

    async def _introduce(
        self, request: KernelRequest, spec: KernelSpec, channels: Channels, channel: str
    ) -> Greeting:
        """Learn the kernel's signature, and see that it is in the session's folder."""
        if spec.language != "python":
            if request.environment and request.server != EMBEDDED:
                raise KernelStartError(
                    "The session has variables of its own, and only the embedded server and Python"
                    f" kernels can be given any: {spec.name!r} is neither."
                )
            return await greet_any(channels, channel)
        if request.server == EMBEDDED:
            folder = self._to_local_folder(request.session_id)
            if self._kernels.sandboxed:
                greeting = await greet(channels, channel, code=NOTHING, expression=PLACE)
                right = greeting.folder == to_place(MOUNT, folder)
            else:
                greeting = await greet(channels, channel, code="", expression=FOLDER)
                right = greeting.folder is not None and folder.samefile(greeting.folder)
        else:
            remote = self._to_remote(request.server)
            expression = await remote.to_entry(request.session_id)
            code = install_module() + set_variables(request.environment)
            greeting = await greet(channels, channel, code=code, expression=expression)
            right = remote.learn_root(request.session_id, greeting.folder)
        if not right:
            raise KernelStartError(
                f"The kernel started in another folder than that of session {request.session_id}."
            )
        return greeting

    @asynccontextmanager
    async def connect(self, ref: KernelRef) -> AsyncIterator[Kernel]:
        """Connect to a live kernel; usable by the task that entered.

        Raises:
            KernelLostError: There is no such kernel any more.
        """
        server = self._find_server_of(ref)
        self._check_isolation(ref)
        remote = self._remotes.get(ref.server)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            parked = self._parked.pop(ref.kernel_id, None)
            if remote is not None and ref.language == "python":
                kernel = JupyterKernel(
                    ref=ref,
                    server=server,
                    channels=parked,
                    files_expression=FILES,
                    on_reply=remote.learn_digests,
                )
            else:
                explain = self._kernels.explain if remote is None else _as_it_is
                kernel = JupyterKernel(ref=ref, server=server, channels=parked, explain=explain)
            tasks.start_soon(kernel.run)
            tasks.start_soon(kernel.watch)
            try:
                await kernel.open()
                if remote is not None:
                    await _furnish(kernel, remote)
                yield kernel
            except Exception as exc:  # noqa: BLE001 - raised below; the group would wrap it
                failure = exc
            finally:
                tasks.cancel_scope.cancel()
                with anyio.move_on_after(CLOSE_GRACE, shield=True):
                    await kernel.aclose()
        if failure is not None:
            raise failure

    async def stop_kernel(self, ref: KernelRef) -> None:
        """End a kernel; nothing happens if it is gone already."""
        self._commands.end(ref.kernel_id)
        parked = self._parked.pop(ref.kernel_id, None)
        if parked is not None:
            parked.transport.abort()
        try:
            server = self._find_server_of(ref)
            await server.stop_kernel(ref.kernel_id)
        except KernelLostError:
            return
        except ServerUnavailableError:
            if not server.has_ended():
                raise

    @asynccontextmanager
    async def run_command(
        self, ref: KernelRef, request: CommandRequest
    ) -> AsyncIterator[AsyncIterator[CommandEvent]]:
        """Run a shell command beside a live kernel, the best way that there is.

        Raises:
            KernelLostError: There is no such kernel any more.
            BackendError: There is no way; the message says what is missing.
        """
        _check_session_id(request.session_id)
        server = self._find_server_of(ref)
        self._check_isolation(ref)
        async with run_in_sandbox(server, ref.kernel_id, request) as events:
            if events is not None:
                yield events
                return
        if ref.server.startswith(PREFIX):
            if self._kernels.sandboxed:
                raise BackendError(
                    "This session's kernel runs in no sandbox, and so commands beside it are"
                    " refused: restart the session, or set CI_TOOLS_ISOLATION=none."
                )
            folder = self._to_local_folder(request.session_id)
            async with self._commands.run(
                ref.kernel_id,
                request,
                folder=folder,
                variables={
                    **to_variables(),
                    **self._kernels.environment,
                    **request.environment,
                },
            ) as events:
                yield events
        else:
            async with self._run_in_second_kernel(ref, request) as events:
                yield events

    @asynccontextmanager
    async def _run_in_second_kernel(
        self, ref: KernelRef, request: CommandRequest
    ) -> AsyncIterator[AsyncIterator[CommandEvent]]:
        remote = self._to_remote(request.server)
        kernelspec: str | None = ref.kernelspec
        if ref.language != "python":
            kernelspec = await self._find_python(remote, ref.kernelspec)
        if kernelspec is None:
            raise BackendError(
                f"{remote.server.address.name} runs no commands: it has neither the server"
                " extension of ci-tools (`ci_tools_kernels.extension`) nor a Python kernel."
            )
        async with self._second_kernel(
            remote, request.session_id, kernelspec, environment=request.environment
        ) as kernel:
            # The server's own way knows the folder's path; the kernel's may not have asked yet.
            workspace = (
                await self.open_workspace(
                    WorkspaceRequest(session_id=request.session_id, server=request.server)
                )
                or kernel.workspace
            )
            assert workspace is not None
            async with run_in_kernel(kernel, request, place=workspace.root) as events:
                yield events

    @asynccontextmanager
    async def _reach_files(
        self, remote: RemoteServer, request: WorkspaceRequest
    ) -> AsyncIterator[Workspace]:
        """Yield the session's folder as a second kernel reaches it: by following no links."""
        kernelspec = await self._find_python(remote, request.kernelspec)
        if kernelspec is None:
            raise BackendError(
                f"Files cannot be changed on {remote.server.address.name}: that needs a Python"
                " kernel there, because the server itself would follow links that code has made."
            )
        async with self._second_kernel(remote, request.session_id, kernelspec) as kernel:
            assert kernel.workspace is not None
            yield kernel.workspace

    async def _remove_by_kernel(self, remote: RemoteServer, request: WorkspaceRequest) -> None:
        session_id = request.session_id
        kernelspec = await self._find_python(remote, request.kernelspec)
        if kernelspec is None:
            logger.warning("session %s: no Python kernel there removes its files", session_id)
            return
        async with self._second_kernel(remote, session_id, kernelspec) as kernel:
            assert isinstance(kernel, JupyterKernel)
            if await ask(kernel, REMOVE, timeout=REMOVE_TIMEOUT) is None:
                logger.warning("session %s: its files were not removed in time", session_id)
        remote.mounted.discard(session_id)

    @asynccontextmanager
    async def _second_kernel(
        self,
        remote: RemoteServer,
        session_id: str,
        kernelspec: str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Kernel]:
        """Start a Python kernel in a session's folder for a short time."""
        ref = await self.start_kernel(
            KernelRequest(
                session_id=session_id,
                server=remote.name,
                kernelspec=kernelspec,
                epoch=0,
                environment=environment or {},
            )
        )
        try:
            async with self.connect(ref) as kernel:
                yield kernel
        finally:
            with anyio.move_on_after(CLOSE_GRACE, shield=True), suppress(BackendError):
                await self.stop_kernel(ref)

    async def _find_python(self, remote: RemoteServer, kernelspec: str) -> str | None:
        """Name the kernelspec for a second kernel in the folder of a session with this one.

        A new kernel may run what code has left in its folder (`ipykernel_launcher.py`), and so it
        must not have more rights than that code had: it is of the same kind, or in a sandbox.
        """
        specs = await self.list_kernelspecs(remote.name)
        wanted = kernelspec or remote.profile.kernelspec
        own = next((spec for spec in specs if wanted in ("", None, spec.name)), None)
        if own is not None and own.language == "python":
            return own.name
        sandboxed = await remote.server.list_sandboxed()
        python = [spec.name for spec in specs if spec.language == "python"]
        if own is None and sandboxed:
            python = [name for name in python if name in sandboxed]
        return min(python, key=lambda name: name not in sandboxed, default=None)

    def _to_kernelspec(self, request: KernelRequest) -> str:
        remote = self._remotes.get(request.server)
        if request.kernelspec or remote is None:
            return request.kernelspec
        return remote.profile.kernelspec or ""

    def _to_local_folder(self, session_id: str) -> Path:
        return self._state_dir / "sessions" / session_id / "data"

    def _to_remote(self, name: str) -> RemoteServer:
        remote = self._remotes.get(name)
        if remote is None:
            raise ConfigurationError(
                f"No Jupyter Server is called {name!r}; there are: {', '.join(self.servers())}."
            )
        return remote

    def may_live(self, ref: KernelRef) -> bool:
        """Tell whether a kernel may still be there: not if its embedded server has ended."""
        if not ref.server.startswith(PREFIX):
            return True
        try:
            self._find_server_of(ref)
        except KernelLostError:
            return False
        return True

    async def _find_server(self, name: str) -> JupyterServer:
        if name == EMBEDDED:
            return await self._embedded.get()
        return self._to_remote(name).server

    def _find_server_of(self, ref: KernelRef) -> JupyterServer:
        """Return the server of a kernel; it may be the embedded one of another process.

        Raises:
            KernelLostError: That one has ended.
        """
        if not ref.server.startswith(PREFIX):
            return self._to_remote(ref.server).server
        server_id = ref.server.removeprefix(PREFIX)
        own = self._embedded.find(server_id)
        if own is not None:
            return own
        neighbour = self._neighbours.get(server_id)
        if neighbour is None:
            if _SESSION_ID.fullmatch(server_id) is None:
                raise KernelLostError(f"There is no embedded Jupyter Server {server_id[:40]!r}.")
            neighbour = self._neighbours[server_id] = find_server(self._state_dir, server_id)
        if neighbour.has_ended():
            raise KernelLostError(f"{neighbour.address.name} has ended, and its kernels with it.")
        return neighbour

    def _check_isolation(self, ref: KernelRef) -> None:
        """Refuse a kernel of another process that sees its folder elsewhere than ours would."""
        if not ref.server.startswith(PREFIX):
            return
        server_id = ref.server.removeprefix(PREFIX)
        if server_id == self._embedded.id:
            return
        if is_sandboxed(self._state_dir, server_id) not in (None, self._kernels.sandboxed):
            raise BackendError(
                "The kernel of this session belongs to another service with this state directory,"
                " which has another isolation. Set the same CI_TOOLS_ISOLATION for both, or another"
                " CI_TOOLS_STATE_DIR."
            )


def _to_choice(request: KernelRequest) -> dict[str, Json]:
    """Return what the embedded server is told about one kernel."""
    choice: dict[str, Json] = {}
    if request.network is not None:
        choice["network"] = request.network
    if request.environment:
        choice["environment"] = dict(request.environment)
    return choice


def _as_it_is(error: ErrorOutput) -> ErrorOutput:
    return error


async def _furnish(kernel: JupyterKernel, remote: RemoteServer) -> None:
    """Give a kernel on a remote server what its server lacks."""
    if await remote.serves_files():
        if kernel.ref.language == "python":
            if remote.root is None:
                await remote.ask_root(kernel)
            kernel.workspace = KernelWorkspace(kernel, language=kernel.ref.language, waits=False)
    else:
        kernel.workspace = KernelWorkspace(kernel, language=kernel.ref.language)
        if kernel.ref.language == "python":
            await kernel.workspace.open()


def _check_session_id(session_id: str) -> None:
    if _SESSION_ID.fullmatch(session_id) is None:
        raise ValueError("a session id has letters, digits, '_' and '-' only")


def _remove_folder(folder: Path) -> None:
    remove_tree(folder)
    with suppress(OSError):  # others keep files of the session beside it
        folder.parent.rmdir()
