"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables of the first release."""
    _create("api_assistants")
    _index("api_assistants", "principal", "seq")

    _create("api_threads")
    _index("api_threads", "principal", "seq")

    _create("api_messages", _parent("api_threads"), sa.Column("run_id", sa.Text()))
    _index("api_messages", "parent", "seq")
    _index("api_messages", "run_id", "seq")

    _create(
        "api_runs",
        _parent("api_threads"),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("lease", sa.Text()),
    )
    _index("api_runs", "parent", "seq")
    op.create_index(
        "uq_api_runs_active_parent",
        "api_runs",
        ["parent"],
        unique=True,
        sqlite_where=sa.text("active"),
        postgresql_where=sa.text("active"),
    )

    _create("api_steps", _parent("api_runs"))
    _index("api_steps", "parent", "seq")

    _create(
        "api_files",
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
    )
    _index("api_files", "expires_at")
    _index("api_files", "principal", "seq")
    _index("api_files", "principal", "purpose", "seq")

    _create("api_uploads", sa.Column("expires_at", sa.BigInteger()))
    _index("api_uploads", "expires_at")
    _index("api_uploads", "principal", "seq")

    _create("api_parts", _parent("api_uploads"))
    _index("api_parts", "parent", "seq")

    op.create_table(
        "api_thread_metadata",
        sa.Column("thread", _SEQ, nullable=False),
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["thread"],
            ["api_threads.seq"],
            name=op.f("fk_api_thread_metadata_thread"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("thread", "pair", name=op.f("pk_api_thread_metadata")),
    )
    _index("api_thread_metadata", "principal", "pair", "thread")

    op.create_table(
        "api_deleted",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text()),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_deleted")),
    )
    _index("api_deleted", "deleted_at")

    op.create_table(
        "api_usage",
        sa.Column("seq", _SEQ, nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("thread", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_api_usage")),
    )
    _index("api_usage", "principal", "started_at")
    _index("api_usage", "thread", "started_at")


def _create(name: str, *more: sa.Column[str] | sa.Column[bool] | sa.Column[int]) -> None:
    """Make the table of one kind of object."""
    keys = [
        sa.ForeignKeyConstraint(
            [column.name],
            [column.info["parent"] + ".id"],
            name=op.f(f"fk_{name}_{column.name}"),
            ondelete="CASCADE",
        )
        for column in more
        if "parent" in column.info
    ]
    op.create_table(
        name,
        sa.Column("seq", _SEQ, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        *more,
        sa.Column("private", sa.Text()),
        sa.Column("data", sa.Text(), nullable=False),
        *keys,
        sa.PrimaryKeyConstraint("seq", name=op.f(f"pk_{name}")),
        sa.UniqueConstraint("id", name=op.f(f"uq_{name}_id")),
        sqlite_autoincrement=True,
    )


def _parent(table: str) -> sa.Column[str]:
    return sa.Column("parent", sa.Text(), nullable=False, info={"parent": table})


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))
