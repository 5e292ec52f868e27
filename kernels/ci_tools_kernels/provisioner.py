"""The kernel provisioner: how a Jupyter Server starts sandboxed kernels.

A kernelspec names it in `metadata.kernel_provisioner`; its `config` there is the policy. The
folder that the server starts the kernel in becomes the kernel's /mnt/data.
"""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from ci_tools_kernels.bubblewrap import Bubblewrap
from ci_tools_kernels.demand import AT_ONCE, LATELY
from ci_tools_kernels.host import find_host
from ci_tools_kernels.lease import Lease
from ci_tools_kernels.listeners import CHANNELS, Listeners
from ci_tools_kernels.policy import MEGABYTE, choose, to_config, to_policy
from ci_tools_kernels.pool import PoolKey, Ready, to_size
from ci_tools_kernels.specs import kernel_environment, kernel_spec
from ci_tools_kernels.template import (
    SPAWN_TIMEOUT,
    START_TIMEOUT,
    Sandbox,
    Template,
    TemplateError,
)
from ci_tools_kernels.watch import Watch

REFILL_DELAY = 0.5
"""Seconds after a start until the pool makes up for it."""

CHOICE = "ci_tools_choice"
"""The argument of `start_kernel` with what is chosen for one kernel, as `policy.choose` reads it.

No request of a stock server sets it; restarts repeat it."""

GRACE = 1.0
"""Seconds that interrupted code has to get below a limit again."""


def _report(
    loop: asyncio.AbstractEventLoop,
    provisioner: "SandboxProvisioner",
    sandbox: Sandbox,
    message: str,
) -> None:
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(provisioner.enforce(sandbox, message), loop)
    else:  # a blocking kernel manager: nobody could send an interrupt
        provisioner.last_excess = message
        sandbox.kill()


def describe_end(status: int) -> str | None:
    """Say how a kernel ended by itself, from the status that its sandbox ended with."""
    if status == 0:
        return None
    try:
        name = signal.Signals(abs(status) - 128 if status > 0 else -status).name
    except ValueError:
        return f"Its process ended with status {status}."
    if name in ("SIGABRT", "SIGBUS", "SIGSEGV"):
        return f"Its process crashed ({name}), as it can where a library gets no more memory."
    return f"Its process was ended by a signal ({name})."


class SandboxProvisioner(KernelProvisionerBase):
    """Starts a kernel in a sandbox of its own, forked from the server's template process."""

    parent: Any
    _listeners: Listeners | None = None
    _sandbox: Sandbox | None = None
    _lease: "Lease | None" = None
    _ready: Ready | None = None
    _watch: Watch | None = None
    _enforcing = False
    _killed = False
    _isolation = "none"

    folder: str | None = None
    """The kernel's /mnt/data on this machine; None where that is kept in memory."""

    quota = False
    """Whether the file system itself holds the disk limit."""

    last_excess: str | None = None
    """The limit that this kernel was last interrupted or ended for, or how it ended by itself."""

    @property
    def isolation(self) -> str:
        """What separates the kernel from the machine: `namespaces` or `bubblewrap`."""
        return self._isolation

    def __init__(self, *, kernel_id: str, kernel_spec: Any, parent: Any, **config: Any) -> None:
        super().__init__(kernel_id=kernel_id, kernel_spec=kernel_spec, parent=parent)
        self._own_policy = to_policy(config)
        self.policy = self._own_policy
        """What the kernelspec says; something that means nothing here is a `ValueError`.

        What the server's own code chose for this kernel is in it once it is started."""

    @property
    def sandbox(self) -> Sandbox | None:
        """The running sandbox, for the second channel."""
        return self._sandbox

    def command_environment(self) -> dict[str, str]:
        """Return the variables of a command in the sandbox: those of the kernel."""
        return kernel_environment(str(self.kernel_spec.argv[0]), self.policy, self.kernel_spec.env)

    @property
    def has_process(self) -> bool:
        """Whether a sandbox was started and not yet cleaned up."""
        return self._sandbox is not None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Bind the kernel's sockets and tell the kernel manager where they are."""
        self.policy = choose(self._own_policy, kwargs.pop(CHOICE, {}))
        manager = self.parent
        host = find_host()
        if self._listeners is None:
            self._ready = host.pool.take(self.pool_key())
            if self._ready is not None:
                self._listeners = self._ready.listeners
                manager.session.key = self._ready.key.encode()
            else:
                self._listeners = Listeners(host.run_dir / uuid4().hex[:12])
        self._listeners.publish()
        manager.transport = "ipc"
        manager.cache_ports = False
        manager.ip = self._listeners.prefix
        for port, channel in enumerate(CHANNELS, 1):
            setattr(manager, f"{channel}_port", port)
        manager.write_connection_file()
        self.connection_info = manager.get_connection_info()
        return await super().pre_launch(cmd=list(self.kernel_spec.argv), **kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel and return how to reach it.

        Raises:
            IsolationError: This machine does not allow the sandbox; the message names the fix.
            TemplateError: The sandbox could not be made.
        """
        try:
            await self._launch(cmd[0], kwargs.get("cwd"))
        except BaseException:
            # The kernel manager does not clean up after a start that failed.
            await self.cleanup()
            raise
        return self.connection_info

    async def _launch(self, python: str, cwd: str | None) -> None:
        host, policy = find_host(), self.policy
        proxy = None
        if policy.network == "allowlist":
            proxy = host.proxies.find(policy.hosts)
            if proxy is None:
                proxy = await asyncio.to_thread(host.proxies.open, policy.hosts)
        launcher = host.find_launcher(python, policy)
        if launcher is None:  # trying sandboxes out takes a while
            place = Path(cwd).parent if cwd else None
            launcher = await asyncio.to_thread(host.launcher, python, policy, folder=place)
        if launcher.ready.done():
            launcher.ready.result()
        else:
            ready = asyncio.shield(asyncio.wrap_future(launcher.ready))
            await asyncio.wait_for(ready, START_TIMEOUT)
        self._isolation = "namespaces" if isinstance(launcher, Template) else "bubblewrap"
        folder = self._data_folder(cwd)
        quota = await self._limit_folder(folder)
        made = await self._take_ready(launcher, folder) or await self._make(
            launcher, python, folder, proxy
        )
        sandbox, lease = made
        self.folder, self.quota = folder, quota
        self._sandbox = sandbox
        self._lease = lease
        self._killed = False
        loop = asyncio.get_running_loop()
        self._watch = Watch(
            sandbox,
            folder=None if quota else folder,
            limits=policy.limits,
            memory="memory" not in host.controls.parents,
            report=lambda message: _report(loop, self, sandbox, message),
        )
        host.watcher.add(self._watch)
        # What has a session's own variables stands in for no other one.
        shared = policy.environment == self._own_policy.environment
        if policy.pool and shared and isinstance(launcher, Template):
            key, size = self.pool_key(), to_size(policy, usual=policy == self._own_policy)
            # Not at once: the session that was just started comes first.
            loop.call_later(REFILL_DELAY, host.pool.fill, key, launcher, policy, size)
            loop.call_later(LATELY + AT_ONCE, host.pool.trim, key, size)

    def pool_key(self) -> PoolKey:
        """Return what kernels must have in common with this one to stand in for it."""
        return PoolKey(
            python=self.kernel_spec.argv[0],
            policy=json.dumps(to_config(self.policy)),
            environment=tuple(sorted(self.kernel_spec.env.items())),
        )

    async def _take_ready(
        self, launcher: Template | Bubblewrap, folder: str | None
    ) -> tuple[Sandbox, Lease] | None:
        """Give the session's folder to the kernel from the pool, if there is one."""
        ready, self._ready = self._ready, None
        if ready is None or not isinstance(launcher, Template):
            return None
        if folder is not None:
            user = ready.lease.user
            try:
                attached = launcher.attach(ready.sandbox, data=folder, user=user)
                await asyncio.wait_for(asyncio.wrap_future(attached), SPAWN_TIMEOUT)
            except (TemplateError, TimeoutError) as exc:
                self.log.warning("A kernel from the pool could not be used: %s", exc)
                ready.sandbox.close()
                return None
        return ready.sandbox, ready.lease

    async def _make(
        self, launcher: Template | Bubblewrap, python: str, folder: str | None, proxy: str | None
    ) -> tuple[Sandbox, Lease]:
        assert self._listeners is not None
        host = find_host()
        lease = Lease(host, self.kernel_id or uuid4().hex, self.policy.limits)
        session = self.parent.session
        spec = kernel_spec(
            python,
            self.policy,
            data=folder,
            user=lease.user,
            key=session.key.decode(),
            signature_scheme=session.signature_scheme,
            extra_environment=self.kernel_spec.env,
            cgroups=lease.group.entries if lease.group else (),
            memory_counted=lease.memory_counted,
            proxy=proxy,
        )
        try:
            started = asyncio.wrap_future(launcher.spawn(spec, self._listeners.fds))
            sandbox = await asyncio.wait_for(started, SPAWN_TIMEOUT)
        except BaseException:
            lease.give_back()
            raise
        sandbox.exited.add_done_callback(lambda _: lease.give_back())
        return sandbox, lease

    async def _limit_folder(self, folder: str | None) -> bool:
        """Let the file system hold the disk limit, where it can; tell whether it does."""
        quotas, limits = find_host().quotas, self.policy.limits
        if folder is None or not quotas.may_limit(folder):
            return False
        try:
            await asyncio.to_thread(quotas.limit, folder, size=limits.disk, files=limits.files)
        except OSError as exc:
            self.log.warning("Kernel %s has no disk quota: %s", self.kernel_id, exc)
            return False
        return True

    async def enforce(self, sandbox: Sandbox, message: str) -> None:
        """Interrupt the kernel for being past a limit, and end it if that does not help."""
        if self._enforcing or self._sandbox is not sandbox or self._watch is None:
            return
        self._enforcing = True
        try:
            self.last_excess = message
            self.log.warning("Kernel %s is interrupted: %s", self.kernel_id, message)
            await self._interrupt(message)
            await asyncio.sleep(GRACE)
            still = await asyncio.to_thread(self._watch.find_excess)
            if still and self._sandbox is sandbox:
                self.log.warning("Kernel %s is ended: %s", self.kernel_id, still)
                sandbox.kill()
        finally:
            self._enforcing = False

    async def _interrupt(self, reason: str) -> None:
        """Interrupt the kernel, which tells its code the reason."""
        manager = self.parent
        connect = getattr(manager, "_connect_control_socket", None)
        if connect is None:  # jupyter_client has changed: without the reason then
            await manager.interrupt_kernel()
            return
        connect()
        request = manager.session.msg("interrupt_request", content={"reason": reason})
        manager.session.send(manager._control_socket, request)

    def _data_folder(self, folder: str | None) -> str | None:
        """Return the kernel's own folder; None keeps /mnt/data in memory.

        The server falls back to a parent when a folder is missing, up to the root that holds
        everybody's: only what lies strictly below that root can be one kernel's own.
        """
        if not folder:
            return None
        found = Path(folder).resolve()
        root = getattr(self.parent.parent, "root_dir", None)
        if root is None:
            own = found != Path.home() and found not in Path.home().parents
        else:
            own = Path(root).resolve() in found.parents
        if own:
            return str(found)
        self.log.warning(
            "Kernel %s has no folder of its own: its files stay in memory.", self.kernel_id
        )
        return None

    async def poll(self) -> int | None:
        """Return the exit status, or None while the kernel runs."""
        if self._sandbox is None:
            return 0
        if not self._sandbox.exited.done():
            return None
        status = self._sandbox.exited.result()
        self._explain_end(status)
        return status

    def _explain_end(self, status: int) -> None:
        if self._killed:
            return
        if self._lease is not None and self._lease.was_out_of_memory:
            megabytes = self.policy.limits.memory // MEGABYTE
            self.last_excess = f"The processes used more than {megabytes} MB of memory."
        elif self.last_excess is None:
            self.last_excess = describe_end(status)

    async def wait(self) -> int | None:
        """Wait until nothing of the sandbox is left."""
        if self._sandbox is None:
            return 0
        status = await asyncio.wrap_future(self._sandbox.exited)
        self._explain_end(status)
        self._sandbox.close()
        self._sandbox = None
        return status

    async def send_signal(self, signum: int) -> None:
        """Send the kernel a signal; interrupts come as messages instead."""
        if signum == signal.SIGKILL:
            await self.kill()

    async def kill(self, restart: bool = False) -> None:
        """End everything in the sandbox."""
        self._killed = True
        if self._sandbox is not None:
            self._sandbox.kill()

    async def terminate(self, restart: bool = False) -> None:
        """End everything in the sandbox; the kernel was asked politely before."""
        await self.kill(restart)

    async def cleanup(self, restart: bool = False) -> None:
        """Give back what the kernel held; its sockets stay for a restart."""
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None
        if not restart and self._listeners is not None:
            self._listeners.close()
            self._listeners = None
            if find_host().quotas.in_use:
                await asyncio.to_thread(find_host().quotas.give_back_removed)
