"""The object store's notes of what it writes and deletes, in the record store."""

from collections.abc import Sequence
from functools import partial

from ci_tools.stores import loose
from ci_tools.stores.database import Database


class ObjectJournal:
    """The notes of one process, under its lease; implements `ci_tools.stores.blobs.Journal`."""

    def __init__(self, database: Database, lease: str) -> None:
        self._database = database
        self._lease = lease

    async def announce(self, key: str) -> None:
        """Note that something is about to be written under a key."""
        await self._database.write(partial(loose.announce, key=key, lease=self._lease))

    async def give_up(self, key: str) -> None:
        """Note that what was written under a key is to go."""
        await self._database.write(partial(loose.loosen, keys=[key]))

    async def forget(self, keys: Sequence[str]) -> None:
        """Note that there is nothing under these keys."""
        await self._database.write(partial(loose.forget, keys=keys))
