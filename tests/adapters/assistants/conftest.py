from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import pytest

from ci_tools.stores.database import Database
from ci_tools.stores.migrate import prepare
from ci_tools.stores.records import _open_database
from ci_tools_assistants.storage.records import Records, open_records
from tests.adapters.assistants.api import ApiClient, open_client


@pytest.fixture(scope="session")
def api_databases() -> dict[str, str]:
    """The database of PostgreSQL that these tests share, made by the first one."""
    return {}


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(
    request: pytest.FixtureRequest, tmp_path: Path, api_databases: dict[str, str]
) -> AsyncIterator[Database]:
    """A database with the core's tables and without records."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'records.db'}"
    else:
        server = request.getfixturevalue("postgresql")
        url = api_databases.get("url") or await _create_database(server)
        api_databases["url"] = url
    async with _open_database(url) as database:
        await prepare(database)
        yield database
    if request.param == "postgresql":
        connection = await asyncpg.connect(url)
        await connection.execute("DROP SCHEMA public CASCADE")
        await connection.execute("CREATE SCHEMA public")
        await connection.close()


@pytest.fixture
async def records(database: Database) -> Records:
    return await open_records(database)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[ApiClient]:
    """A client of the principal `ada`."""
    async with open_client(tmp_path) as client:
        yield client


async def _create_database(server: str) -> str:
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(server)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return server.replace("/postgres?", f"/{name}?")
