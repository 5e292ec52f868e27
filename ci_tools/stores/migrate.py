"""The schema in a database: made when it is empty, brought up to date when it is older.

How this works: the stored revision is compared with the one this code was written for, which costs
one query. Only when they differ is anything else done, in one transaction and after looking again,
as another process may have been first. Alembic is imported only for a real migration.

An adapter may keep tables of its own in the same database: as a chain of its own, with its own
version table, prepared after the core's.
"""

from dataclasses import dataclass
from functools import partial

from sqlalchemy import Column, Connection, MetaData, String, Table, func, insert, inspect, select

from ci_tools.errors import ConfigurationError
from ci_tools.stores.database import Database
from ci_tools.stores.schema import REVISION, metadata

_LOCK = 0x63692D746F6F6C73
"""The advisory lock under which PostgreSQL's schema is changed; "ci-tools" in ASCII."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Tables that are migrated together."""

    version_table: str
    """The table that holds their revision."""

    location: str
    """Alembic's folder with `env.py` and `versions`, as `package:folder`.

    Its `env.py` finds the connection and this chain in the config's attributes.
    """

    revision: str
    """The newest revision, the one this code works with; revisions sort as text."""

    metadata: MetaData


CORE = Chain(
    version_table="alembic_version",
    location="ci_tools.stores:migrations",
    revision=REVISION,
    metadata=metadata,
)
"""The tables of the core."""


async def prepare(database: Database, chain: Chain = CORE) -> None:
    """Make the chain's tables or bring them up to date.

    Raises:
        ConfigurationError: A newer release has written the database.
    """
    if await database.read(partial(find_revision, chain=chain)) != chain.revision:
        await database.write(partial(_prepare, chain=chain), bulk=True)


def find_revision(conn: Connection, chain: Chain = CORE) -> str | None:
    """Return the revision of the chain's tables; None if there are none."""
    version = _version(chain)
    if not inspect(conn).has_table(version.name):
        return None
    return conn.scalar(select(version.c.version_num))


def _prepare(conn: Connection, chain: Chain) -> None:
    if conn.dialect.name == "postgresql":
        conn.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    revision = find_revision(conn, chain)
    if revision is None:
        create(conn, chain)
    elif revision > chain.revision:
        raise ConfigurationError(
            f"The database has schema {revision}, made by a newer release; this one knows "
            f"schema {chain.revision}. Update ci-tools or name another database."
        )
    elif revision < chain.revision:
        upgrade(conn, chain)


def create(conn: Connection, chain: Chain = CORE) -> None:
    """Make all tables at once, as if every migration had run."""
    chain.metadata.create_all(conn, checkfirst=False)
    version = _version(chain)
    version.create(conn)
    conn.execute(insert(version).values(version_num=chain.revision))


def upgrade(conn: Connection, chain: Chain = CORE) -> None:
    """Run the migrations that are missing, in the transaction of `conn`."""
    # Takes a quarter of a second to import and is needed once per release.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", chain.location)
    config.attributes["connection"] = conn
    config.attributes["chain"] = chain
    command.upgrade(config, "head")


def _version(chain: Chain) -> Table:
    return Table(
        chain.version_table,
        MetaData(naming_convention={"pk": "%(table_name)s_pkc"}),
        Column("version_num", String(32), primary_key=True),
    )
