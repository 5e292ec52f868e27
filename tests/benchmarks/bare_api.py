"""A bare FastAPI app that stores and reads what a thread is: python -m tests.benchmarks.bare_api.

It does the same insert and select as ours, through SQLAlchemy's asynchronous engine, and nothing
else: nothing is validated, owned, paged or checked. It is served by uvicorn as ours is.
"""

import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy import Column, Integer, MetaData, Table, Text, event, insert, select
from sqlalchemy.ext.asyncio import create_async_engine

PATH, PORT = sys.argv[1], int(sys.argv[2])

metadata = MetaData()
threads = Table(
    "threads",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", Text, unique=True),
    Column("data", Text),
)
engine = create_async_engine(f"sqlite+aiosqlite:///{PATH}")


@event.listens_for(engine.sync_engine, "connect")
def set_pragmas(connection: Any, record: object) -> None:
    """Write as ours does: into a write-ahead log, without waiting for the disk."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


@asynccontextmanager
async def run(app: FastAPI) -> AsyncIterator[None]:
    """Make the table first."""
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=run)


@app.post("/v1/threads")
async def create_thread(request: Request) -> JSONResponse:
    """Insert a thread."""
    body = await request.json()
    thread = {
        "id": f"thread_{uuid4().hex}",
        "object": "thread",
        "created_at": int(time.time()),
        "metadata": body.get("metadata", {}),
        "tool_resources": {},
    }
    async with engine.begin() as connection:
        await connection.execute(insert(threads).values(id=thread["id"], data=json.dumps(thread)))
    return JSONResponse(thread)


@app.get("/v1/threads/{id}")
async def get_thread(id: str) -> JSONResponse:
    """Select a thread."""
    async with engine.connect() as connection:
        row = (await connection.execute(select(threads.c.data).where(threads.c.id == id))).one()
    return JSONResponse(json.loads(row.data))


@app.get("/readyz")
async def ready() -> dict[str, str]:
    """Tell that it runs."""
    return {"status": "ready"}


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_config=None, access_log=False, http="h11")
