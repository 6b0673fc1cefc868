"""The event log in a database: SQLite or PostgreSQL, through SQLAlchemy Core."""

from __future__ import annotations

from .log import SqlEventLog, open_sql_log, read_sql_log

__all__ = ["SqlEventLog", "open_sql_log", "read_sql_log"]
