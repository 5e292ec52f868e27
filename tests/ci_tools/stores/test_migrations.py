import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    func,
    insert,
    select,
    text,
)

from ci_tools.errors import ConfigurationError
from ci_tools.models import File, Session, new_id
from ci_tools.stores import migrate
from ci_tools.stores.blobs import BlobStore
from ci_tools.stores.database import Database
from ci_tools.stores.migrate import Chain, create, find_revision, prepare, upgrade
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


def new_file(session_id: str | None, path: str) -> File:
    return File(
        id=new_id("file-"),
        principal="ada",
        session_id=session_id,
        path=path,
        size=10,
        sha256="ab" * 32,
        media_type="text/csv",
        modified_at=0,
    )


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
        file, _ = await store.put_file(new_file(session.id, "a.csv"), key="k", limit=100)
        await store.put_file(new_file(None, "b.csv"), key="k2", limit=100)
    upgraded: list[str | None] = []

    def observe(conn: Connection, chain: Chain) -> None:
        upgraded.append(find_revision(conn, chain))
        upgrade(conn, chain)

    async with _open_database(empty_url) as database:
        await database.write(go_back_to_0001)
    monkeypatch.setattr(migrate, "upgrade", observe)
    async with open_records_at(empty_url, blobs) as store:
        kept = await store.list_sessions(principal="ada")
        [placement] = await store.list_placements(session.id, principal="ada")

    assert upgraded == ["0001"]
    assert kept == [session]
    assert (placement.path, placement.file_id, placement.size) == ("a.csv", file.id, 10)
    assert (placement.sha256, placement.modified_at) == ("ab" * 32, None)


def go_back_to_0001(conn: Connection) -> None:
    """Leave what the first release would have written."""
    conn.execute(text("DROP TABLE placements"))
    conn.execute(text("DROP TABLE loose_objects"))
    conn.execute(text("ALTER TABLE sessions DROP COLUMN network"))
    conn.execute(text("ALTER TABLE sessions DROP COLUMN environment"))
    conn.execute(text("UPDATE alembic_version SET version_num = '0001'"))


async def test_an_adapter_keeps_tables_of_its_own_beside_the_records(
    empty_url: str, blobs: BlobStore
) -> None:
    chain = Chain(
        version_table="alembic_version_notes",
        location="nowhere:migrations",
        revision="0001",
        metadata=MetaData(),
    )
    notes = Table("notes", chain.metadata, Column("id", Integer, primary_key=True))

    for _ in range(2):
        async with open_records_at(empty_url, blobs) as store:
            await prepare(store.database, chain)
            await store.database.write(lambda conn: conn.execute(insert(notes)))
    async with open_records_at(empty_url, blobs) as store:
        count = await store.database.read(
            lambda conn: conn.scalar(select(func.count()).select_from(notes))
        )
        own = await store.database.read(partial(find_revision, chain=chain))
        core = await store.database.read(find_revision)
        older = replace(chain, revision="0000")
        with pytest.raises(ConfigurationError):
            await prepare(store.database, older)

    assert (count, own, core) == (2, "0001", REVISION)


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
            lambda conn: conn.execute(
                text(f"UPDATE alembic_version SET version_num = '{REVISION}'")
            )
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


async def test_importing_the_core_loads_neither_the_stores_nor_the_settings() -> None:
    code = (
        "import sys, ci_tools; assert not {'sqlalchemy', 'obstore', 'alembic', 'pydantic', 'anyio'}"
        " & set(sys.modules)"
    )

    await anyio.run_process([sys.executable, "-c", code])
