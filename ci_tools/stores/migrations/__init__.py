"""Migrations of the schema, run by Alembic; see `ci_tools.stores.migrate`."""
