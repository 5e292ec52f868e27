"""The migrations of `schema.py`, run by Alembic."""
