"""The port between the records and the databases that can hold them.

All SQL of the product is written once, as plain functions of a SQLAlchemy connection; a database
decides in which thread or task they run and what a transaction is.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")

Work: TypeAlias = Callable[[Connection], T]


class Database(Protocol):
    """A place for records. Its errors are `StoreError`."""

    async def read(self, work: Work[T], *, bulk: bool = False) -> T:
        """Run `work`, which only reads; `bulk` says that it may read much."""
        ...

    async def write(self, work: Work[T], *, bulk: bool = False) -> T:
        """Run `work` as one transaction; `bulk` says that it may write much.

        A cancelled caller has either not begun or gets the result: nothing is half known. `work`
        may be run again from the start when another process was in the way.
        """
        ...

    async def forget_deleted(self) -> None:
        """Remove what was deleted from the disk too, as far as the database can be told to."""
        ...
