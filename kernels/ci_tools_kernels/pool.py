"""Kernels made ahead of their sessions: all there but for the session's folder and its clients."""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ci_tools_kernels.lease import Lease, Users
from ci_tools_kernels.listeners import Listeners
from ci_tools_kernels.policy import Policy
from ci_tools_kernels.proxies import Proxies
from ci_tools_kernels.specs import kernel_spec
from ci_tools_kernels.template import Sandbox, Template, TemplateError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolKey:
    """What kernels must have in common to stand in for one another."""

    python: str
    policy: str
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A kernel that waits for a session."""

    sandbox: Sandbox
    listeners: Listeners
    lease: Lease
    key: str
    """What its messages are signed with."""


class Pool:
    """The ready kernels of one server process, which belong to no session yet."""

    def __init__(self, users: Users, run_dir: Path, proxies: Proxies) -> None:
        self._users = users
        self._proxies = proxies
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._ready: dict[PoolKey, list[Ready]] = {}
        self._starting: dict[PoolKey, int] = {}

    def take(self, key: PoolKey) -> Ready | None:
        """Return a ready kernel, which is the caller's from now on; None if there is none."""
        with self._lock:
            waiting = self._ready.get(key, [])
            while waiting:
                ready = waiting.pop(0)
                if not ready.sandbox.exited.done():
                    return ready
                ready.sandbox.close()
                ready.listeners.close()
        return None

    def fill(self, key: PoolKey, template: Template, policy: Policy) -> None:
        """Start as many kernels as are missing; returns before they are there."""
        with self._lock:
            there = len(self._ready.get(key, ())) + self._starting.get(key, 0)
            missing = max(0, policy.pool - there)
            self._starting[key] = self._starting.get(key, 0) + missing
        for _ in range(missing):
            self._start(key, template, policy)

    def _start(self, key: PoolKey, template: Template, policy: Policy) -> None:
        name = uuid4().hex
        secret = os.urandom(32).hex()
        lease = Lease(self._users, name, policy.limits)
        listeners = Listeners(self._run_dir / name[:12])
        spec = kernel_spec(
            key.python,
            policy,
            data=None,
            user=lease.user,
            key=secret,
            extra_environment=dict(key.environment),
            cgroups=lease.group.entries if lease.group else (),
            pooled=True,
            proxy=self._proxies.find(policy.hosts) if policy.network == "allowlist" else None,
        )
        try:
            started = template.spawn(spec, listeners.fds)
        except TemplateError as exc:
            started = Future()
            started.set_exception(exc)
        started.add_done_callback(self._collector(key, listeners, lease, secret))

    def _collector(
        self, key: PoolKey, listeners: Listeners, lease: Lease, secret: str
    ) -> Callable[[Future[Sandbox]], None]:
        def collect(started: Future[Sandbox]) -> None:
            error = started.exception()
            with self._lock:
                self._starting[key] -= 1
            if error is not None:
                logger.warning("A kernel for the pool could not be started: %s", error)
                listeners.close()
                lease.give_back()
                return
            sandbox = started.result()
            sandbox.exited.add_done_callback(lambda _: lease.give_back())
            ready = Ready(sandbox=sandbox, listeners=listeners, lease=lease, key=secret)
            with self._lock:
                self._ready.setdefault(key, []).append(ready)

        return collect

    def count(self) -> int:
        """Return how many kernels are ready."""
        with self._lock:
            return sum(len(waiting) for waiting in self._ready.values())

    def close(self) -> None:
        """End them all."""
        with self._lock:
            for waiting in self._ready.values():
                for ready in waiting:
                    ready.sandbox.close()
                    ready.listeners.close()
            self._ready.clear()
