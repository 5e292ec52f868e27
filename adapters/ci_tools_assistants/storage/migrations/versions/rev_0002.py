"""Events for webhooks, which wait in a table."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of events that are still to be told."""
    op.create_table(
        "api_webhooks",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_api_webhooks")),
        sa.UniqueConstraint("id", name=op.f("uq_api_webhooks_id")),
        sqlite_autoincrement=True,
    )
    for column in ("principal", "due_at"):
        op.create_index(op.f(f"ix_api_webhooks_{column}"), "api_webhooks", [column])
