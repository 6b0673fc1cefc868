"""The steps from one schema of the log's database to the next, for Alembic."""
