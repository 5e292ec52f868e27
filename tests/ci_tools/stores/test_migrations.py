import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from ci_tools.errors import ConfigurationError
from ci_tools.models import Session
from ci_tools.stores import migrate
from ci_tools.stores.blobs import BlobStore
from ci_tools.stores.database import Database
from ci_tools.stores.migrate import create, find_revision, upgrade
from ci_tools.stores.records import _open_database, open_records_at
from ci_tools.stores.schema import REVISION, metadata

SQLITE_SCHEMA = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"

POSTGRESQL_COLUMNS = """
    SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default
    FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 3
"""

POSTGRESQL_INDEXES = (
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
)

POSTGRESQL_CONSTRAINTS = """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace ORDER BY 1
"""


def read_schema(conn: Connection) -> list[tuple[object, ...]]:
    if conn.dialect.name == "sqlite":
        queries = [SQLITE_SCHEMA]
    else:
        queries = [POSTGRESQL_COLUMNS, POSTGRESQL_INDEXES, POSTGRESQL_CONSTRAINTS]
    rows = [tuple(row) for query in queries for row in conn.execute(text(query))]
    return [tuple(normalise(value) for value in row) for row in rows]


def normalise(value: object) -> object:
    """Forget what is the writer's business: spaces, and the order of constraints."""
    if not isinstance(value, str):
        return value
    return sorted(part.strip(" )") for part in " ".join(value.split()).split(", "))


def compare(conn: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(conn), metadata))


async def build(database: Database, make: Callable[[Connection], None]) -> list[tuple[object, ...]]:
    await database.write(make, bulk=True)
    assert await database.read(find_revision) == REVISION
    assert await database.read(compare, bulk=True) == []
    return await database.read(read_schema)


async def test_migrations_make_the_same_schema_as_a_new_store(
    empty_url: str,
) -> None:
    async with _open_database(empty_url) as database:
        migrated = await build(database, upgrade)
        await database.write(metadata.drop_all)
        await database.write(lambda conn: conn.execute(text("DROP TABLE alembic_version")))
        created = await build(database, create)

    assert migrated == created


def test_the_newest_migration_is_the_one_the_code_was_written_for() -> None:
    config = Config()
    config.set_main_option("script_location", "ci_tools.stores:migrations")

    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


async def test_an_older_store_is_migrated_and_keeps_its_records(
    empty_url: str,
    blobs: BlobStore,
    new_session: Callable[..., Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_records_at(empty_url, blobs) as store:
        session = await store.add_session(new_session(), limit=1)
    upgraded: list[str | None] = []

    def observe(conn: Connection) -> None:
        upgraded.append(find_revision(conn))
        upgrade(conn)

    monkeypatch.setattr(migrate, "REVISION", "9999")  # whatever is stored is older
    monkeypatch.setattr(migrate, "upgrade", observe)
    async with open_records_at(empty_url, blobs) as store:
        kept = await store.list_sessions(principal="ada")

    assert upgraded == [REVISION]
    assert kept == [session]


async def test_a_store_from_the_future_is_refused(
    empty_url: str, blobs: BlobStore, new_session: Callable[..., Session]
) -> None:
    async with open_records_at(empty_url, blobs) as store:
        session = await store.add_session(new_session(), limit=1)
    async with _open_database(empty_url) as database:
        await database.write(
            lambda conn: conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        )

    with pytest.raises(ConfigurationError):
        async with open_records_at(empty_url, blobs):
            pass

    async with _open_database(empty_url) as database:
        await database.write(
            lambda conn: conn.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        )
    async with open_records_at(empty_url, blobs) as store:
        assert await store.list_sessions(principal="ada") == [session]


async def test_opening_a_current_store_does_not_load_alembic(
    tmp_path: Path,
) -> None:
    path = tmp_path / "records.db"
    code = f"""
import sys, anyio
from ci_tools.stores import migrate
from ci_tools.stores.blobs import BlobStore, create_store
from ci_tools.stores.records import open_records_at
async def main():
    blobs = BlobStore(create_store("memory:///", {{}}))
    for _ in range(2):
        async with open_records_at("sqlite:///{path}", blobs):
            pass
anyio.run(main)
loaded = [name for name in ("alembic", "asyncpg", "sqlalchemy.ext.asyncio") if name in sys.modules]
assert not loaded, loaded
"""
    await anyio.run_process([sys.executable, "-c", code])


async def test_importing_the_core_does_not_load_the_stores() -> None:
    code = (
        "import sys, ci_tools; assert not {'sqlalchemy', 'obstore', 'alembic'} & set(sys.modules)"
    )

    await anyio.run_process([sys.executable, "-c", code])
