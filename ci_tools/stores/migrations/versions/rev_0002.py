"""File ids of paths, and what each session says about its network and environment."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns of sessions; make a placement of each file that was uploaded into one."""
    op.add_column("sessions", sa.Column("network", sa.Text(), nullable=True))
    op.add_column("sessions", sa.Column("environment", sa.Text(), nullable=True))

    op.create_table(
        "placements",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("modified_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name=op.f("fk_placements_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session_id", "path", name=op.f("pk_placements")),
    )
    op.create_index(op.f("ix_placements_file_id"), "placements", ["file_id"])
    op.execute(
        "INSERT INTO placements (session_id, path, file_id, size, sha256) "
        "SELECT session_id, path, id, size, sha256 FROM files WHERE session_id IS NOT NULL"
    )
