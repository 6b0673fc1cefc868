"""Bringing a log's database to this version's schema, in the transaction of whoever opens it."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from ..errors import LogSchemaError

VERSION_TABLE = "tidegate_schema"
"""Where the database says which schema it has; not Alembic's usual name, which another program may use."""

_FOLDER = Path(__file__).parent / "migrations"
_one_at_a_time = threading.Lock()


def newest_revision() -> str:
    """The schema that this version of Tidegate works with."""
    return str(_scripts().get_current_head())


def current_revision(connection: Connection, name: str) -> str | None:
    """The schema that the database has, None for none at all.

    Raises:
        LogSchemaError: this version of Tidegate does not know it.
    """
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    current = context.get_current_heads()
    known = {script.revision for script in _scripts().walk_revisions()}
    if not known.issuperset(current):
        raise LogSchemaError(
            f"{name} has schema {', '.join(current)!r}, and the newest that this version of Tidegate knows is "
            f"{newest_revision()!r}; upgrade Tidegate"
        )
    return current[0] if current else None


def migrate(connection: Connection, name: str) -> None:
    """Take the steps that are missing.

    Args:
        connection: in a transaction that keeps others from doing the same.
        name: of the database, for messages.

    Raises:
        LogSchemaError: see `current_revision`.
    """
    if current_revision(connection, name) == newest_revision():
        return
    config = _config()
    config.attributes["connection"] = connection
    # Alembic's `op` and `context` are globals of the process.
    with _one_at_a_time:
        command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
