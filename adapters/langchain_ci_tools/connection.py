"""One private event loop in a thread, and in it a session service.

How this works: agents call tools from threads, from one event loop or from several, and often from
inside of a loop that must not be blocked. A service belongs to one loop. So it gets a loop of its
own; a *job* is a coroutine function that runs there while its caller waits, in whatever way suits
the caller. Whoever stops waiting cancels the job, and still waits for its clean-up: that is what
interrupts a kernel and stores its step before an agent goes on.

The thread starts with the first job and ends with `close`, or at the latest with the main thread,
so that a program which forgets to close ends all the same, and its kernels with it.
"""

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import copy_context
from typing import Generic, TypeAlias, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from ci_tools.errors import ConfigurationError, ServiceClosedError
from langchain_ci_tools.api import Put, SessionAPI

logger = logging.getLogger(__name__)

T = TypeVar("T")

Job: TypeAlias = Callable[[SessionAPI, Put], Awaitable[T]]
"""What runs in the private loop."""

Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[SessionAPI]]
"""Opens the service, in the private loop."""

_LOOK = 0.5
"""Seconds between two looks whether the main thread has ended."""

_END = object()
"""The last thing that a waiting caller is handed."""


class Connection:
    """A session service that opens at first use, for callers in any thread or event loop."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: _Loop | None = None
        self._process = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether no more jobs are taken."""
        return self._closed

    def call(self, job: Job[T], *, put: Put = None) -> T:
        """Run a job and wait for it, blocking this thread.

        `put` gets, in this thread, what the job hands over on its way.
        """
        waiting: queue.SimpleQueue[object] = queue.SimpleQueue()
        running = self._start(job, None if put is None else waiting.put)
        running.future.add_done_callback(lambda _: waiting.put(_END))
        try:
            while (item := waiting.get()) is not _END:
                if put is not None:
                    put(item)
        except BaseException:
            # Mostly KeyboardInterrupt: the kernel must hear of it too.
            running.cancel()
            while waiting.get() is not _END:
                pass
            raise
        return running.future.result()

    async def acall(
        self, job: Job[T], *, put: Callable[[object], Awaitable[None]] | None = None
    ) -> T:
        """Run a job and wait for it, without blocking this event loop."""
        # LangChain's async half needs asyncio, so there is no other loop to think of.
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[object] = asyncio.Queue()

        def tell(item: object) -> None:
            with suppress(RuntimeError):  # the caller's loop was closed while it waited
                loop.call_soon_threadsafe(waiting.put_nowait, item)

        running = self._start(job, None if put is None else tell)
        running.future.add_done_callback(lambda _: tell(_END))
        try:
            while (item := await waiting.get()) is not _END:
                if put is not None:
                    await put(item)
        except BaseException:
            running.cancel()
            with anyio.CancelScope(shield=True):
                while await waiting.get() is not _END:
                    pass
            raise
        return running.future.result()

    def close(self) -> None:
        """Close the service and end the thread; running steps are cancelled."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.stop()
            if thread is not threading.current_thread():
                thread.join()

    async def aclose(self) -> None:
        """Close without blocking this event loop."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    def _start(self, job: Job[T], put: Put) -> "_Running[T]":
        if self._process not in (0, os.getpid()):
            # Threads do not go with a fork, so nobody would ever answer.
            raise ConfigurationError(
                "This toolkit was in use when the process forked: make one in each process."
            )
        with self._lock:
            if self._closed:
                raise ServiceClosedError
            if self._loop is None:
                self._process = os.getpid()
                ready: Future[_Loop] = Future()
                self._thread = threading.Thread(
                    target=_run_loop, args=(self._opener, ready), name="ci-tools"
                )
                self._thread.start()
                self._loop = ready.result()
            running = _Running(job, put, self._loop)
            self._loop.start(running)
        return running


def _run_loop(opener: Opener, ready: "Future[_Loop]") -> None:
    """Be the private thread."""

    async def main() -> None:
        await _Loop(opener).run(ready)

    try:
        anyio.run(main)
    except BaseException as error:
        if ready.done():
            raise
        ready.set_exception(error)


class _Loop:
    """The private event loop, seen from inside and, through `start` and `stop`, from outside."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._loop = asyncio.get_running_loop()
        # anyio knows from the context, which callbacks otherwise lack, that it is on asyncio.
        self._context = copy_context()
        self._stopping = anyio.Event()
        self._opening = anyio.Lock()
        self._service: SessionAPI | None = None
        self._closed = anyio.Event()

    async def run(self, ready: "Future[_Loop]") -> None:
        """Run jobs until the end."""
        async with anyio.create_task_group() as self._jobs, anyio.create_task_group() as own:
            self._own = own
            own.start_soon(self._watch_main_thread)
            ready.set_result(self)
            await self._stopping.wait()
            if self._service is not None:
                # Its steps end with it, and so do the jobs that wait for them.
                await self._closed.wait()
            own.cancel_scope.cancel()
            self._jobs.cancel_scope.cancel()

    def start(self, running: "_Running[T]") -> None:
        """Start a job; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._start_here, running, context=self._context)
        except RuntimeError as error:  # the loop has ended with the main thread
            raise ServiceClosedError from error

    def stop(self) -> None:
        """End it all; from any thread."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set, context=self._context)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the loop; from any thread."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, context=self._context)

    async def service(self) -> SessionAPI:
        """Return the service, opening it if need be."""
        if self._service is None:
            async with self._opening:
                if self._stopping.is_set():
                    raise ServiceClosedError
                if self._service is None:
                    self._service = await self._own.start(self._hold)
        return self._service

    async def _hold(self, *, task_status: anyio.abc.TaskStatus[SessionAPI]) -> None:
        """Own the service: it is opened and closed in this task."""
        opened = False
        try:
            async with self._opener() as service:
                opened = True
                task_status.started(service)
                await self._stopping.wait()
        except Exception:
            if not opened:
                raise
            logger.exception("the session service did not close cleanly")
        finally:
            if opened:
                self._closed.set()

    async def _watch_main_thread(self) -> None:
        while threading.main_thread().is_alive():  # noqa: ASYNC110 - a thread sets no event
            await anyio.sleep(_LOOK)
        self._stopping.set()

    def _start_here(self, running: "_Running[T]") -> None:
        if self._stopping.is_set():
            running.future.set_exception(ServiceClosedError())
        else:
            self._jobs.start_soon(running.run)


class _Running(Generic[T]):
    """A job on its way."""

    def __init__(self, job: Job[T], put: Put, loop: _Loop) -> None:
        self._job = job
        self._put = put
        self._loop = loop
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False
        self.future: Future[T] = Future()

    async def run(self) -> None:
        """Run the job and keep what came of it."""
        try:
            with anyio.CancelScope() as self._scope:
                if self._cancelled:
                    self._scope.cancel()
                result = await self._job(await self._loop.service(), self._put)
                self.future.set_result(result)
                return
        except Exception as error:  # noqa: BLE001 - the caller gets it, whatever it is
            self.future.set_exception(error)
        except BaseException:
            # The loop ends: what was asked for will not come.
            self.future.set_exception(ServiceClosedError())
            raise
        else:
            # It was cancelled: nobody waits for a result.
            self.future.set_exception(ServiceClosedError())

    def cancel(self) -> None:
        """Stop the job; from any thread. It goes on cleaning up."""
        self._loop.call_soon(self._cancel_here)

    def _cancel_here(self) -> None:
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()
