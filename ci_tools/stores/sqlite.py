"""Records in one SQLite file.

How this works: in WAL mode with `synchronous=NORMAL` a commit only writes into the system's page
cache (0.1 ms), which is less than a hop to a thread and back costs (0.2 ms), and each `await` of
an async driver is such a hop. So short work runs right here, on a connection of its own, and what
could block runs in a thread: large reads and writes, waiting for another process that is writing,
and checkpoints, which wait for the disk (automatic ones are off).

The file must be on a local disk: WAL needs memory shared between the processes that have it open.
"""

import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread
from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from ci_tools.errors import ConfigurationError, StoreError
from ci_tools.stores.database import Work
from ci_tools.stores.schema import SQLITE_CLOCK

T = TypeVar("T")

BUSY_TIMEOUT = 15.0
"""Seconds to wait in a thread for another process to finish writing."""

_FORGET_TIMEOUT = 2.0
"""Seconds to wait for readers in other processes before the log is emptied."""

_CHECKPOINT_WRITES = 500
"""Transactions after which the write-ahead log is copied into the database file."""


class _Connected:
    """One connection with its lock; `raw` is the driver's, for what has to cost nothing."""

    def __init__(self, connection: Connection, raw: sqlite3.Connection) -> None:
        self.connection = connection
        self.raw = raw
        self.lock = anyio.Lock(fast_acquire=True)

    def run(self, work: Work[T], begin: str) -> T:
        """Run `work` between `begin` and COMMIT; on any error nothing of it remains."""
        self.raw.execute(begin)
        try:
            result = work(self.connection)
            self.raw.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # it may have rolled back itself
                self.raw.execute("ROLLBACK")
            raise
        return result

    def run_patiently(self, work: Work[T], begin: str) -> T:
        """Do the same, waiting for other processes; only in a thread."""
        self.raw.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
        try:
            return self.run(work, begin)
        finally:
            self.raw.execute("PRAGMA busy_timeout = 0")


class SQLiteDatabase:
    """An open SQLite file; implements `ci_tools.stores.database.Database`."""

    def __init__(self, hot: _Connected, bulk: _Connected) -> None:
        self._hot = hot
        self._bulk = bulk
        self._writes = 0

    def close(self) -> None:
        """Close the file; the last process to do so copies the log into it."""
        self._bulk.connection.close()
        self._hot.connection.close()

    async def read(self, work: Work[T], *, bulk: bool = False) -> T:
        """Run `work`, which only reads; with `bulk`, in a thread."""
        connected = self._bulk if bulk else self._hot
        async with connected.lock:
            return await _run(connected, work, "BEGIN", bulk)

    async def write(self, work: Work[T], *, bulk: bool = False) -> T:
        """Run `work` as one transaction; with `bulk` or if the file is busy, in a thread."""
        async with self._hot.lock:
            result = await _run(self._hot, work, "BEGIN IMMEDIATE", bulk)
        self._writes += 1
        if self._writes >= _CHECKPOINT_WRITES:
            self._writes = 0
            await self._checkpoint("PASSIVE")
        return result

    async def forget_deleted(self) -> None:
        """Empty the log; in the file itself, what is deleted is overwritten at once.

        While another process reads an old state of the file, the log has to stay; it is emptied
        when the last process closes the file.
        """
        async with self._hot.lock:
            await self._checkpoint("TRUNCATE", timeout=_FORGET_TIMEOUT)

    async def _checkpoint(self, mode: str, *, timeout: float = 0) -> None:
        """Copy the log into the database file."""

        def checkpoint() -> None:
            self._bulk.raw.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
            self._bulk.raw.execute(f"PRAGMA wal_checkpoint({mode})")
            self._bulk.raw.execute("PRAGMA busy_timeout = 0")

        with anyio.CancelScope(shield=True):
            async with self._bulk.lock:
                with suppress(sqlite3.Error):  # another process may be doing it
                    await to_thread.run_sync(checkpoint)


async def _run(connected: _Connected, work: Work[T], begin: str, bulk: bool) -> T:
    try:
        if not bulk:
            try:
                return connected.run(work, begin)
            except (DBAPIError, sqlite3.Error) as exc:
                if not _is_busy(exc):
                    raise
        with anyio.CancelScope(shield=True):
            result = await to_thread.run_sync(connected.run_patiently, work, begin)
    except (DBAPIError, sqlite3.Error) as exc:
        raise StoreError(f"The record store failed: {_original(exc)}.") from exc
    return result


@asynccontextmanager
async def open_sqlite(url: URL) -> AsyncIterator[SQLiteDatabase]:
    """Open the file, made with mode 0600 if missing (and its folder with 0700)."""
    if not url.database or url.database == ":memory:":
        raise ConfigurationError("The SQLite URL names no file; write sqlite:///path/to/file.")
    path = Path(url.database)
    try:
        database = await to_thread.run_sync(_open, path)
    except (OSError, sqlite3.Error, DBAPIError) as exc:
        raise ConfigurationError(f"The SQLite file {str(path)!r} cannot be opened: {exc}.") from exc
    try:
        yield database
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(database.close)


def _open(path: Path) -> SQLiteDatabase:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # SQLite gives its log files the mode of the database file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",  # transactions are begun and ended by `_Connected`
        connect_args={"check_same_thread": False, "timeout": 0},
        hide_parameters=True,  # errors are logged, and must not quote code
    )
    return SQLiteDatabase(_connect(engine), _connect(engine))


def _connect(engine: Engine) -> _Connected:
    connection = engine.connect()
    # SQLAlchemy takes it to be in a transaction always, so that nothing else begins or commits one.
    connection.begin()
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    try:
        raw.create_function(SQLITE_CLOCK, 0, time.time)
        _use_wal(raw)
        raw.execute("PRAGMA synchronous = NORMAL")
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("PRAGMA secure_delete = ON")
        raw.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        connection.close()
        raise
    return _Connected(connection, raw)


def _use_wal(raw: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:  # SQLite does not wait by itself when two processes switch a new file to WAL
        try:
            (mode,) = raw.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as exc:
            if not _is_busy(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            if mode != "wal":
                raise sqlite3.OperationalError("its file system does not support WAL")
            return


def _original(exc: Exception) -> object:
    return exc.orig if isinstance(exc, DBAPIError) else exc


def _is_busy(exc: Exception) -> bool:
    code = getattr(_original(exc), "sqlite_errorcode", 0)  # its low byte is the primary code
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
