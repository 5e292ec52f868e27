"""Waiting for a thread's active run instead of being refused, in order of arrival."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from ci_tools_assistants.errors import ThreadBusy

T = TypeVar("T")


@dataclass
class _Queue:
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: int = 0


class Queues:
    """Who waits for which thread, for at most `patience` seconds; 0 is not at all."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._queues: dict[str, _Queue] = {}

    async def when_free(
        self,
        thread_id: str,
        attempt: Callable[[], Awaitable[T]],
        await_end: Callable[[ThreadBusy, float], Awaitable[None]],
    ) -> T:
        """Return what `attempt` returns as soon as it does not find the thread busy.

        `await_end` waits for the end of a run, not longer than it is told.

        Raises:
            ThreadBusy: It was busy to the end.
        """
        if not self._patience:
            return await attempt()
        deadline = time.monotonic() + self._patience
        async with self._turn(thread_id):
            while True:
                try:
                    return await attempt()
                except ThreadBusy as busy:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise
                    await await_end(busy, left)

    @asynccontextmanager
    async def _turn(self, thread_id: str) -> AsyncIterator[None]:
        """Wait for those who came before; past the deadline go on all the same."""
        queue = self._queues.setdefault(thread_id, _Queue())
        queue.waiting += 1
        has_turn = False
        try:
            with anyio.move_on_after(self._patience):
                await queue.lock.acquire()
                has_turn = True
            yield
        finally:
            if has_turn:
                queue.lock.release()
            queue.waiting -= 1
            if not queue.waiting:
                del self._queues[thread_id]
