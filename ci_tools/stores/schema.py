"""The tables, the same on SQLite and PostgreSQL; `migrations/` builds what is written here.

Free text (code, names, reasons) is stored as JSON text (see `ci_tools.stores.codec`), because
databases refuse characters that users may send. `seq` gives the order in which rows were made.
A step is unfinished while `finished_at` is null. `files` are bytes that we keep; `placements` say
under which file id a path of a session's folder is known, which may have no kept bytes behind it.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ci_tools.models import Json
from ci_tools.stores.codec import from_text, to_text

REVISION = "0003"
"""The revision in `migrations/` that this code works with."""

SQLITE_CLOCK = "ci_now"
"""The SQL function that connections to SQLite get, as its own clock is too coarse."""


class Now(FunctionElement[float]):
    """The database's clock, in Unix seconds."""

    type = Double()
    inherit_cache = True


@compiles(Now, "sqlite")
def _now_on_sqlite(element: Now, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"{SQLITE_CLOCK}()"


@compiles(Now, "postgresql")
def _now_on_postgresql(element: Now, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "extract(epoch FROM clock_timestamp())::double precision"


class JsonText(TypeDecorator[Json]):
    """A JSON value in a text column; null stays null."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Json, dialect: Dialect) -> str | None:
        """Write JSON text."""
        return None if value is None else to_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read JSON text."""
        return None if value is None else from_text(value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _seq() -> Column[int]:
    return Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


sessions = Table(
    "sessions",
    metadata,
    _seq(),
    Column("id", Text, nullable=False, unique=True),
    Column("principal", Text, nullable=False, index=True),
    Column("name", JsonText),
    Column("server", Text, nullable=False),
    Column("kernelspec", Text, nullable=False),
    Column("isolation", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_used_at", Double, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("kernel", JsonText),
    Column("lost", JsonText),
    Column("workspace_bytes", BigInteger, nullable=False),
    Column("network", Text),
    Column("environment", JsonText),
)

steps = Table(
    "steps",
    metadata,
    _seq(),
    Column("id", Text, nullable=False, unique=True),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("principal", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("timeout", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("lease", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),  # in the object store
    Column("outputs_key", Text),  # in the object store, if they are too large for `outputs`
    Column("full_text", JsonText),
    Column("result", JsonText),
    Column("code", JsonText, nullable=False),
    Column("outputs", Text),
    Index("ix_steps_session_id_seq", "session_id", "seq"),
    Index(
        "ix_steps_unfinished_principal",
        "principal",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    Index(
        "ix_steps_unfinished_session_id",
        "session_id",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    Index(
        "ix_steps_stored_principal",
        "principal",
        "stored_bytes",
        sqlite_where=text("stored_bytes > 0"),
        postgresql_where=text("stored_bytes > 0"),
    ),
)

leases = Table(
    "leases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("expires_at", Double, nullable=False),
)

files = Table(
    "files",
    metadata,
    _seq(),
    Column("id", Text, nullable=False, unique=True),
    Column("principal", Text, nullable=False, index=True),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE")),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text),
    Column("media_type", Text, nullable=False),
    Column("modified_at", Double, nullable=False),
    Column("key", Text, nullable=False),
    Index("ix_files_session_id_path", "session_id", "path", unique=True),
)

loose_objects = Table(
    "loose_objects",
    metadata,
    Column("key", Text, primary_key=True),
    Column("lease", Text),  # null: nobody is writing it
    Column("noted_at", Double, nullable=False),
)
"""Keys in the object store that no record names, yet or any more; see `loose.py`."""

placements = Table(
    "placements",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("path", Text, primary_key=True),
    Column("file_id", Text, nullable=False, index=True),
    Column("size", BigInteger),  # null: the id stands for whatever is under the path
    Column("sha256", Text),
    Column("modified_at", Double),
)

tokens = Table(
    "tokens",
    metadata,
    _seq(),
    Column("id", Text, nullable=False, unique=True),
    Column("principal", Text, nullable=False, index=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)

tickets = Table(
    "tickets",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("principal", Text, nullable=False, index=True),
    Column(
        "session_id",
        Text,
        ForeignKey("sessions.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("path", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("expires_at", Double, nullable=False),
)
