"""Kernels made ahead of their sessions: all there but for the session's folder and its clients.

A pool is one server process's, and so of the one user that this runs as; a kernel is used once and
stands in for those of the same interpreter and policy only. It holds `Policy.pool` kernels at
least, and for some minutes as many as were lately wanted at once.
"""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ci_tools_kernels.demand import Demand, find_room
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

    def close(self) -> None:
        """End it."""
        self.sandbox.close()
        self.listeners.close()


STARTED_AT_ONCE = 2
"""Kernels that are made at the same time: those who wait for a session come first."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many kernels of one kind are kept ready."""

    least: int
    most: int


def to_size(policy: Policy, *, usual: bool = True) -> Size:
    """Return how many kernels of this policy are kept ready; what is chosen for some sessions only
    is kept while it is wanted."""
    return Size(least=policy.pool if usual else 0, most=max(policy.pool, policy.pool_most))


class Pool:
    """The ready kernels of one server process, which belong to no session yet."""

    def __init__(self, users: Users, run_dir: Path, proxies: Proxies) -> None:
        self._users = users
        self._proxies = proxies
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._closed = False
        self._ready: dict[PoolKey, list[Ready]] = {}
        self._starting: dict[PoolKey, int] = {}
        self._demands: dict[PoolKey, Demand] = {}

    def take(self, key: PoolKey) -> Ready | None:
        """Return a ready kernel, which is the caller's from now on; None if there is none."""
        self.note(key)
        with self._lock:
            waiting = self._ready.get(key, [])
            while waiting:
                ready = waiting.pop(0)
                if not ready.sandbox.exited.done():
                    return ready
                ready.close()
        return None

    def note(self, key: PoolKey) -> None:
        """Remember that one is wanted."""
        with self._lock:
            self._demands.setdefault(key, Demand()).note()

    def fill(self, key: PoolKey, template: Template, policy: Policy, size: Size) -> None:
        """Start what is missing, a few at a time; returns before they are there."""
        with self._lock:
            starting = self._starting.get(key, 0)
            there = len(self._ready.get(key, ())) + starting
            wanted = self._count_wanted(key, size)
            if wanted > max(there, size.least):
                wanted = min(wanted, max(size.least, there + find_room()))
            missing = max(0, min(wanted - there, STARTED_AT_ONCE - starting))
            self._starting[key] = starting + missing
        for _ in range(missing):
            self._start(key, template, policy, size)

    def trim(self, key: PoolKey, size: Size) -> None:
        """End what is no longer wanted."""
        with self._lock:
            waiting = self._ready.get(key, [])
            surplus = waiting[self._count_wanted(key, size) :]
            del waiting[len(waiting) - len(surplus) :]
        for ready in surplus:
            ready.close()

    def _count_wanted(self, key: PoolKey, size: Size) -> int:
        demand = self._demands.get(key)
        peak = demand.peak() if demand is not None else 0
        return max(size.least, min(peak, size.most))

    def _start(self, key: PoolKey, template: Template, policy: Policy, size: Size) -> None:
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
            memory_counted=lease.memory_counted,
            pooled=True,
            proxy=self._proxies.find(policy.hosts) if policy.network == "allowlist" else None,
        )
        try:
            started = template.spawn(spec, listeners.fds)
        except TemplateError as exc:
            started = Future()
            started.set_exception(exc)
        started.add_done_callback(
            self._collector(
                key, listeners, lease, secret, lambda: self.fill(key, template, policy, size)
            )
        )

    def _collector(
        self,
        key: PoolKey,
        listeners: Listeners,
        lease: Lease,
        secret: str,
        go_on: Callable[[], None],
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
                closed = self._closed
                if not closed:
                    self._ready.setdefault(key, []).append(ready)
            if closed:
                ready.close()
            else:
                go_on()

        return collect

    def count(self) -> int:
        """Return how many kernels are ready."""
        with self._lock:
            return sum(len(waiting) for waiting in self._ready.values())

    def count_of(self, key: PoolKey) -> int:
        """Return how many kernels of one kind are ready."""
        with self._lock:
            return len(self._ready.get(key, ()))

    def close(self) -> None:
        """End them all."""
        with self._lock:
            self._closed = True
            for waiting in self._ready.values():
                for ready in waiting:
                    ready.close()
            self._ready.clear()
