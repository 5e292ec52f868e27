"""A run step that this process has in hand: its record, its output so far, who watches it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ci_tools.kernel import KernelEvent
from ci_tools.models import RunStep, StepEvent, StepFinished
from ci_tools.outputs import OutputLog

StopReason: TypeAlias = Literal["cancelled", "closed", "output_limit"]
"""Why a step is stopped: somebody asked, the service closes, or it printed too much."""


class RunningStep:
    """One unfinished step; written to by its session's owning task, read by everybody."""

    def __init__(self, step: RunStep, log: OutputLog) -> None:
        self._step = step
        self._watchers: set[MemoryObjectSendStream[StepEvent]] = set()
        self._scope: anyio.CancelScope | None = None
        self.log = log
        self.done = anyio.Event()
        """Set when the step is final and stored."""

        self.stop: StopReason | None = None
        """Why the step is being stopped before its time."""

        self.finishing = False
        """Whether somebody writes the final record now."""

        self.executing = False
        """Whether the kernel has the code; until then a cancelled step never runs."""

        self.told: int | None = None
        """The epoch of its kernel, if the step says what became of the kernel before."""

    @property
    def step(self) -> RunStep:
        """The record, with the outputs so far while it runs."""
        if self.done.is_set() or not self.log.size and not self.executing:
            return self._step
        return replace(self._step, outputs=self.log.outputs())

    def update(self, step: RunStep) -> None:
        """Replace the record."""
        self._step = step

    def add(self, event: KernelEvent) -> None:
        """Keep an event's output and tell the watchers.

        Raises:
            OutputLimitError: The step printed more than may be kept.
        """
        told = self.log.add(event)
        if told is not None and self._watchers:
            self.publish(told)

    def publish(self, event: StepEvent) -> None:
        """Tell every watcher; a slow one delays nobody, its events wait in memory."""
        for watcher in self._watchers:
            watcher.send_nowait(event)

    def finish(self, step: RunStep) -> None:
        """Take the stored final record, tell the watchers and let them go."""
        self._step = step
        self.done.set()
        self.publish(StepFinished(step=step))
        for watcher in self._watchers:
            watcher.close()
        self._watchers.clear()

    def request_stop(self, reason: StopReason) -> None:
        """Ask for the step's end; its task interrupts the kernel."""
        if self.stop is None and not self.done.is_set():
            self.stop = reason
            if self._scope is not None:
                self._scope.cancel()

    def stop_scope(self, seconds: float) -> anyio.CancelScope:
        """Return the scope in which output is awaited: it ends after `seconds` or on a stop."""
        self._scope = anyio.move_on_after(seconds)
        if self.stop is not None:
            self._scope.cancel()
        return self._scope

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[MemoryObjectReceiveStream[StepEvent]]:
        """Yield the events from now on; `StepFinished` is the last."""
        # Unbounded, so that a slow reader never counts against the step's time; output is capped.
        send, receive = anyio.create_memory_object_stream[StepEvent](float("inf"))
        if self.done.is_set():
            send.send_nowait(StepFinished(step=self._step))
            send.close()
        else:
            self._watchers.add(send)
        try:
            with receive:
                yield receive
        finally:
            self._watchers.discard(send)
            send.close()
