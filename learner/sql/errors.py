"""What a database's errors mean to the learner."""

from __future__ import annotations

import sqlite3

import psycopg
from sqlalchemy import exc

from ..errors import LogCorruptError, LogError, LogUnavailableError

_SQLITE_CORRUPT = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_SQLITE_AWAY = (
    "SQLITE_BUSY",
    "SQLITE_CANTOPEN",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_LOCKED",
    "SQLITE_NOMEM",
    "SQLITE_PERM",
    "SQLITE_PROTOCOL",
    "SQLITE_READONLY",
)
# Classes of SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES_CORRUPT = ("XX001", "XX002")
_POSTGRES_AWAY = ("08", "25006", "25P0", "28", "3D", "40", "42501", "53", "54", "55", "57", "58", "XX000")
_NO_TABLE = ("42P01", "3F000")


def as_log_error(error: exc.SQLAlchemyError, name: str) -> LogError:
    """The error to raise in its place.

    Args:
        error: what the database, its driver or its pool of connections raised.
        name: of the database, without its password.
    """
    cause = error.orig if isinstance(error, exc.DBAPIError) else None
    said = " ".join(str(cause or error).split())
    kind = _kind_of(cause) if cause is not None else LogUnavailableError
    if kind is LogCorruptError:
        return LogCorruptError(f"{name} is damaged, or is no database: {said}; restore it, or name another one")
    if kind is LogUnavailableError:
        return LogUnavailableError(f"{name} does not answer, or cannot write: {said}")
    if _lacks_tables(cause):
        return LogError(f"{name} holds no log: {said}; name a database (and a schema that exists) that has one")
    return LogError(f"{name} refused what was asked of it: {said}")


def _kind_of(cause: BaseException) -> type[LogError]:
    if isinstance(cause, sqlite3.Error):
        return _kind(getattr(cause, "sqlite_errorname", None) or "", _SQLITE_CORRUPT, _SQLITE_AWAY)
    if isinstance(cause, psycopg.Error) and cause.sqlstate is not None:
        return _kind(cause.sqlstate, _POSTGRES_CORRUPT, _POSTGRES_AWAY)
    # Without a code it is the driver's own: no connection, or one that broke.
    return LogUnavailableError if isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError) else LogError


def _kind(code: str, corrupt: tuple[str, ...], away: tuple[str, ...]) -> type[LogError]:
    if code.startswith(corrupt):
        return LogCorruptError
    return LogUnavailableError if code.startswith(away) else LogError


def _lacks_tables(cause: BaseException | None) -> bool:
    return "no such table" in str(cause) or (isinstance(cause, psycopg.Error) and cause.sqlstate in _NO_TABLE)
