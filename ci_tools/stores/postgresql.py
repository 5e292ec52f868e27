"""Records in a PostgreSQL database, through asyncpg."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ci_tools.errors import StoreError
from ci_tools.stores.database import Work

T = TypeVar("T")

STATEMENT_TIMEOUT = 30.0
"""Seconds after which a statement is given up, and a connection that is not answered."""

_POOL_SIZE = 10
"""Connections that one service process keeps."""


_ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What may come out of a connection; while it is being made, SQLAlchemy wraps nothing."""


class PostgreSQLDatabase:
    """A pool of connections; implements `ci_tools.stores.database.Database`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def read(self, work: Work[T], *, bulk: bool = False) -> T:
        """Run `work`, which only reads."""
        try:
            async with self._engine.connect() as connection:
                return await connection.run_sync(work)
        except _ERRORS as exc:
            raise _store_error(exc) from None

    async def write(self, work: Work[T], *, bulk: bool = False) -> T:
        """Run `work` as one transaction, which a cancelled caller does not tear apart."""
        try:
            with anyio.CancelScope(shield=True):
                async with self._engine.begin() as connection:
                    result = await connection.run_sync(work)
        except _ERRORS as exc:
            raise _store_error(exc) from None
        return result

    async def forget_deleted(self) -> None:
        """Do nothing: when deleted rows leave the disk is up to the server's vacuuming."""


@asynccontextmanager
async def open_postgresql(url: URL) -> AsyncIterator[PostgreSQLDatabase]:
    """Open a pool; `sslmode` in the URL means what it means to psql."""
    query = dict(url.query)
    arguments: dict[str, Any] = {
        "timeout": STATEMENT_TIMEOUT,
        "command_timeout": STATEMENT_TIMEOUT,
        # Our statements are short; compiling them would only cost.
        "server_settings": {"application_name": "ci-tools", "jit": "off"},
    }
    if "sslmode" in query:
        arguments["ssl"] = query.pop("sslmode")
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg", query=query),
        connect_args=arguments,
        pool_size=_POOL_SIZE,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    try:
        yield PostgreSQLDatabase(engine)
    finally:
        with anyio.CancelScope(shield=True):
            await engine.dispose()


def _store_error(exc: Exception) -> StoreError:
    """Return our error, to be raised without its cause.

    The server's text may quote what was being stored, and tracebacks are logged.
    """
    original = exc.orig if isinstance(exc, DBAPIError) else exc
    reason = type(original).__name__
    if isinstance(original, OSError):
        reason = f"it cannot be reached ({original})"
    return StoreError(f"The record store failed: {reason}.")
