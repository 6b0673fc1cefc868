"""What Alembic runs: the steps that are missing, on the connection it was given and in its transaction."""

from __future__ import annotations

from alembic import context

from learner.sql.migrate import VERSION_TABLE
from learner.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
