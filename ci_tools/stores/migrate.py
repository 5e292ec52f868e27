"""The schema in a database: made when it is empty, brought up to date when it is older.

How this works: the stored revision is compared with the one this code was written for, which costs
one query. Only when they differ is anything else done, in one transaction and after looking again,
as another process may have been first. Alembic is imported only for a real migration.
"""

from sqlalchemy import Column, Connection, MetaData, String, Table, func, insert, inspect, select

from ci_tools.errors import ConfigurationError
from ci_tools.stores.database import Database
from ci_tools.stores.schema import REVISION, metadata

_VERSION = Table(
    "alembic_version",
    MetaData(naming_convention={"pk": "%(table_name)s_pkc"}),
    Column("version_num", String(32), primary_key=True),
)

_LOCK = 0x63692D746F6F6C73
"""The advisory lock under which PostgreSQL's schema is changed; "ci-tools" in ASCII."""


async def prepare(database: Database) -> None:
    """Make the schema or bring it up to date.

    Raises:
        ConfigurationError: A newer release has written the database.
    """
    if await database.read(find_revision) != REVISION:
        await database.write(_prepare, bulk=True)


def find_revision(conn: Connection) -> str | None:
    """Return the revision of the schema; None for an empty database."""
    if not inspect(conn).has_table(_VERSION.name):
        return None
    return conn.scalar(select(_VERSION.c.version_num))


def _prepare(conn: Connection) -> None:
    if conn.dialect.name == "postgresql":
        conn.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    revision = find_revision(conn)
    if revision is None:
        create(conn)
    elif revision > REVISION:
        raise ConfigurationError(
            f"The database has schema {revision}, made by a newer release; this one knows "
            f"schema {REVISION}. Update ci-tools or name another database."
        )
    elif revision < REVISION:
        upgrade(conn)


def create(conn: Connection) -> None:
    """Make the whole schema at once, as if every migration had run."""
    metadata.create_all(conn, checkfirst=False)
    _VERSION.create(conn)
    conn.execute(insert(_VERSION).values(version_num=REVISION))


def upgrade(conn: Connection) -> None:
    """Run the migrations that are missing, in the transaction of `conn`."""
    # Takes a quarter of a second to import and is needed once per release.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "ci_tools.stores:migrations")
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
