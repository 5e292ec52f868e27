"""The API's own tables, beside the core's; `migrations/` builds what is written here.

Every kind of object has a table. `data` is the wire object of version 2 as JSON text, `private`
what belongs to it and is never shown; what is filtered by has a column of its own. `seq` gives the
order in which objects were made, and with the parent it is the index that pages are read by: a
page costs the same in a short list and in a long one.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    literal_column,
    text,
)

from ci_tools.stores.schema import JsonText
from ci_tools_assistants.objects import Kind

REVISION = "0002"
"""The revision in `migrations/` that this code works with."""

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


def _table(name: str, *more: Column[str] | Column[bool] | Column[int] | Index) -> Table:
    # AUTOINCREMENT: the number of a deleted row must not come back, cursors compare with it.
    return Table(
        name,
        metadata,
        _seq(),
        Column("id", Text, nullable=False, unique=True),
        Column("principal", Text, nullable=False),
        *more,
        Column("private", JsonText),
        Column("data", JsonText, nullable=False),
        sqlite_autoincrement=True,
    )


def _parent(table: str) -> Column[str]:
    return Column("parent", Text, ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=False)


assistants = _table("api_assistants", Index("ix_api_assistants_principal_seq", "principal", "seq"))

threads = _table("api_threads", Index("ix_api_threads_principal_seq", "principal", "seq"))

messages = _table(
    "api_messages",
    _parent("api_threads"),
    Column("run_id", Text),
    Index("ix_api_messages_parent_seq", "parent", "seq"),
    Index("ix_api_messages_run_id_seq", "run_id", "seq"),
)

runs = _table(
    "api_runs",
    _parent("api_threads"),
    Column("status", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("expires_at", BigInteger),
    Column("lease", Text),
    Index("ix_api_runs_parent_seq", "parent", "seq"),
    # The lock of a thread: there cannot be two.
    Index(
        "uq_api_runs_active_parent",
        "parent",
        unique=True,
        sqlite_where=text("active"),
        postgresql_where=text("active"),
    ),
)

IS_ACTIVE = literal_column("api_runs.active", Boolean)
"""A run that locks its thread; written as in the index, or SQLite would not use that."""

steps = _table("api_steps", _parent("api_runs"), Index("ix_api_steps_parent_seq", "parent", "seq"))

files = _table(
    "api_files",
    Column("purpose", Text, nullable=False),
    Column("expires_at", BigInteger, index=True),
    Index("ix_api_files_principal_seq", "principal", "seq"),
    Index("ix_api_files_principal_purpose_seq", "principal", "purpose", "seq"),
)

uploads = _table(
    "api_uploads",
    Column("expires_at", BigInteger, index=True),
    Index("ix_api_uploads_principal_seq", "principal", "seq"),
)

parts = _table(
    "api_parts", _parent("api_uploads"), Index("ix_api_parts_parent_seq", "parent", "seq")
)

thread_metadata = Table(
    "api_thread_metadata",
    metadata,
    Column(
        "thread",
        BigInteger().with_variant(Integer, "sqlite"),
        ForeignKey("api_threads.seq", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("pair", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Index("ix_api_thread_metadata_principal_pair_thread", "principal", "pair", "thread"),
)
"""The metadata of threads, for listing those with certain values: each pair by its digest, as the
text may be longer than what databases take into an index."""

deleted = Table(
    "api_deleted",
    metadata,
    Column("id", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("parent", Text),
    Column("seq", BigInteger, nullable=False),
    Column("deleted_at", BigInteger, nullable=False, index=True),
)
"""Where deleted objects were, for a while: code that deletes all while it pages through a list
names the last one it deleted as the cursor."""

usage = Table(
    "api_usage",
    metadata,
    _seq(),
    Column("principal", Text, nullable=False),
    Column("thread", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Index("ix_api_usage_principal_started_at", "principal", "started_at"),
    Index("ix_api_usage_thread_started_at", "thread", "started_at"),
)
"""Sessions of the code interpreter as they are counted; they outlive their threads."""

webhooks = Table(
    "api_webhooks",
    metadata,
    _seq(),
    Column("id", Text, nullable=False, unique=True),
    Column("principal", Text, nullable=False, index=True),
    Column("run", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due_at", Double, nullable=False, index=True),
    sqlite_autoincrement=True,
)
"""Events that another server is still to be told of; `due_at` is when it is tried next."""

TABLES: dict[Kind, Table] = {
    Kind.ASSISTANT: assistants,
    Kind.THREAD: threads,
    Kind.MESSAGE: messages,
    Kind.RUN: runs,
    Kind.STEP: steps,
    Kind.FILE: files,
    Kind.UPLOAD: uploads,
    Kind.PART: parts,
}

PARENTS: dict[Kind, Kind] = {
    Kind.MESSAGE: Kind.THREAD,
    Kind.RUN: Kind.THREAD,
    Kind.STEP: Kind.RUN,
    Kind.PART: Kind.UPLOAD,
}
