"""What is left of deleted threads is deleted in the background, also what another process left."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ci_tools import CIToolsError
from ci_tools_assistants.storage.records import Records

logger = logging.getLogger(__name__)

_PAUSE = 300.0
"""Seconds between two looks, if no thread was deleted here."""


class Purge:
    """The task that purges deleted threads."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._asked = anyio.Event()

    def ask(self) -> None:
        """Have it done soon."""
        self._asked.set()

    async def run(self) -> None:
        """Purge for ever."""
        while True:
            self._asked = anyio.Event()
            try:
                await self._records.purge()
            except (CIToolsError, OSError) as error:
                logger.warning("deleted threads take up room for now: %s", error)
            except Exception:
                # The outermost handler of a task that nobody waits for.
                logger.exception("deleted threads take up room for now")
            with anyio.move_on_after(_PAUSE):
                await self._asked.wait()


@asynccontextmanager
async def open_purge(records: Records) -> AsyncIterator[Purge]:
    """Purge deleted threads while the block lasts."""
    purge = Purge(records)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(purge.run)
        try:
            yield purge
        finally:
            tasks.cancel_scope.cancel()
