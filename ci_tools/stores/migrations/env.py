"""What Alembic runs to migrate: on the connection, and in the transaction, of `migrate.upgrade`."""

from alembic import context

from ci_tools.stores.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
