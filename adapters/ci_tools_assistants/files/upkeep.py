"""What the service does about files whose time is over, of all principals."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
from sqlalchemy import Connection, Table, select

from ci_tools import CIToolsError, SessionService
from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.files.records import FileRecords
from ci_tools_assistants.files.uploads import drop_parts
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.storage.records import Records
from ci_tools_assistants.storage.schema import files, uploads

logger = logging.getLogger(__name__)

_PAUSE = 300.0
"""Seconds between two looks."""

_AT_ONCE = 100
"""Files deleted in one look; further ones have to wait for the next."""


@asynccontextmanager
async def open_upkeep(service: SessionService, records: Records) -> AsyncIterator[None]:
    """Delete what expires while the block lasts."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_expire_for_ever, service, records)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


async def _expire_for_ever(service: SessionService, records: Records) -> None:
    """Delete expired files and the parts of expired uploads, again and again."""
    while True:
        try:
            await expire(service, records)
        except (CIToolsError, ApiError, OSError) as error:
            logger.warning("expired files stay for now: %s", error)
        except Exception:
            # The outermost handler of a task that nobody waits for.
            logger.exception("expired files stay for now")
        await anyio.sleep(_PAUSE)


async def expire(service: SessionService, records: Records) -> None:
    """Delete what has expired by now."""
    for principal, id in await records.read(partial(_list_expired, table=files)):
        logger.info("file %s: expired", id)
        await FileRecords(service.act_as(principal), records).delete(id)
    for principal, id in await records.read(partial(_list_expired, table=uploads)):
        logger.info("upload %s: expired", id)
        await records.change(Kind.UPLOAD, id, _expired, principal=principal)
        await drop_parts(service.act_as(principal), records, id)


def _expired(upload: Object) -> Object:
    return {**upload, "status": "expired"} if upload["status"] == "pending" else upload


def _list_expired(conn: Connection, table: Table) -> list[tuple[str, str]]:
    query = select(table.c.principal, table.c.id).where(table.c.expires_at <= now())
    rows = conn.execute(query.order_by(table.c.expires_at).limit(_AT_ONCE))
    return [(row.principal, row.id) for row in rows]
