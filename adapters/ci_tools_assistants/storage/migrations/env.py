"""What Alembic runs to migrate: on the connection, and in the transaction, of `prepare`."""

from alembic import context

chain = context.config.attributes["chain"]

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=chain.metadata,
    version_table=chain.version_table,
    render_as_batch=True,  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
