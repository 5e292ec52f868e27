"""Objects in the object store that no record names."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, empty: what was left behind before is not known."""
    op.create_table(
        "loose_objects",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("lease", sa.Text(), nullable=True),
        sa.Column("noted_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_loose_objects")),
    )
