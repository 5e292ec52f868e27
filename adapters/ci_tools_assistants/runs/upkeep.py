"""Runs that no request and no task of this process looks after: cancelled, overdue, orphaned."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

import anyio

from ci_tools import CIToolsError
from ci_tools_assistants.errors import NoSuchObject
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.runs import settling
from ci_tools_assistants.runs.events import Event
from ci_tools_assistants.runs.running import ActiveRun
from ci_tools_assistants.storage.records import Records

logger = logging.getLogger(__name__)

TICK = 0.5
"""Seconds between two looks for runs that were cancelled elsewhere, or whose time is over."""

OVERDUE = 60
"""Seconds after its time that a run is ended which another process should have ended."""

_SLEPT = 3
"""Looks for orphans that are left out after the machine slept."""


class Runs(Protocol):
    """What the upkeep needs of the engine."""

    @property
    def is_closing(self) -> bool:
        """Whether no run is to be taken in hand any more."""
        ...

    def find_active(self, run_id: str) -> ActiveRun | None:
        """Return the run if this process works on it."""
        ...

    def tell_cancelled(self, run: Object) -> None:
        """Stop the work on a run that is `cancelling`."""
        ...

    def work_on(self, run: Object, begun: Sequence[Event], *, principal: str) -> ActiveRun:
        """Take a run in hand."""
        ...

    async def try_to_end(
        self, run: Object, status: str, principal: str, error: Object | None = None
    ) -> bool:
        """End a run that nobody works on; tell whether that could be stored."""
        ...


class RunUpkeep:
    """Looks after the runs in the record store, as long as the engine is open."""

    def __init__(self, runs: Runs, records: Records, *, lease: str, lease_time: float) -> None:
        self._runs = runs
        self._records = records
        self._lease = lease
        self._lease_time = lease_time
        self._adopted: dict[str, tuple[str, Object]] = {}

    async def watch(self) -> None:
        """Look after runs for ever."""
        await _attempt(self._take_over_orphans)
        looked_at, left_out = time.time(), 0
        while True:
            before = time.time()
            await anyio.sleep(TICK)
            if time.time() - before > self._lease_time:
                # The leases of others have run out with ours, though they live.
                left_out = _SLEPT
            await _attempt(self._stop_cancelled)
            await _attempt(self._end_overdue)
            if time.time() - looked_at >= self._lease_time / 3:
                looked_at = time.time()
                if left_out:
                    left_out -= 1
                else:
                    await _attempt(self._take_over_orphans)

    async def _stop_cancelled(self) -> None:
        for run_id in await self._records.list_cancelling_runs(lease=self._lease):
            active = self._runs.find_active(run_id)
            if active is not None and active.stop_reason is None:
                self._runs.tell_cancelled({**active.run, "status": "cancelling"})

    async def _end_overdue(self) -> None:
        for principal, run in await self._records.list_overdue_runs(now()):
            # Those that somebody works on have a clock of their own.
            is_late = run["expires_at"] + OVERDUE <= now()
            if self._runs.find_active(run["id"]) is None and (
                is_late or run["status"] == "requires_action"
            ):
                await self._runs.try_to_end(run, "expired", principal)

    async def _take_over_orphans(self) -> None:
        for principal, run in await self._records.list_orphaned_runs():
            if self._runs.find_active(run["id"]) is None and await self._records.adopt_run(
                run["id"], lease=self._lease
            ):
                # From here on no other process will: what fails now is tried again here.
                self._adopted[run["id"]] = (principal, run)
        for principal, run in list(self._adopted.values()):
            if self._runs.is_closing:
                return
            await _attempt(partial(self._take_over, run, principal))

    async def _take_over(self, run: Object, principal: str) -> None:
        try:
            private = await self._records.get_private(Kind.RUN, run["id"], principal=principal)
        except NoSuchObject:
            private = {}  # it was deleted, which the next step finds as well
        ended = settling.count_ended(private)
        fate = settling.find_fate(run, ended=ended)
        outcome = "resumed" if fate == "resume" else fate
        logger.warning("run %s: its process has ended; it is %s", run["id"], outcome)
        if fate == "resume":
            is_done = await self._resume(run, ended, principal)
        else:
            error = settling.TOO_OFTEN if fate == "failed" else None
            is_done = await self._runs.try_to_end(run, fate, principal, error)
        if is_done:
            del self._adopted[run["id"]]

    async def _resume(self, run: Object, ended: int, principal: str) -> bool:
        try:
            await self._prepare(run, ended, principal)
        except NoSuchObject:
            logger.info("run %s: deleted before it was taken up", run["id"])
        else:
            self._runs.work_on(run, [], principal=principal)
        return True

    async def _prepare(self, run: Object, ended: int, principal: str) -> None:
        """Make a run ready to be taken up; what fails may be done once more."""

        def count(private: Object) -> Object:
            kept = {key: value for key, value in private.items() if key != settling.RELEASED}
            return {**kept, settling.RESUMPTIONS: ended}

        steps = await settling.list_steps(self._records, run["id"], principal=principal)
        await settling.remove_begun(self._records, run, steps, principal=principal)
        await self._records.change_private(Kind.RUN, run["id"], count, principal=principal)


async def _attempt(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except (CIToolsError, OSError) as error:
        logger.warning("looking after runs failed, it will be tried again: %s", error)
    except Exception:  # the outermost handler of a task that nobody waits for
        logger.exception("looking after runs failed, it will be tried again")
