"""Alembic's environment: our metadata, and a connection given by `migrate.py`."""

from alembic import context

from learnback.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
