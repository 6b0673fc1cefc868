"""One database for one log: connections that neither hang nor leak a password, one transaction at a time to write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, ColumnElement, Connection, Engine, create_engine, event, exc, func, literal_column, make_url

from ..errors import LogError
from .connect import connect_postgresql, connect_sqlite, refuse_closed
from .errors import as_log_error

POOL_WAIT_S = 5.0
"""A thread waits for a connection this long."""
MIGRATION_LOCK = 0x7469646567617465
"""Of PostgreSQL's advisory locks: held while a database is migrated."""


class Database:
    """The database of that URL.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`.
        read_only: nothing may be written or created.

    Raises:
        LogError: it is no such URL.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        parsed = parse_url(url)
        self.name = _name_of(parsed)
        self.is_sqlite = parsed.drivername == "sqlite"
        self._file = Path(str(parsed.database)) if self.is_sqlite else None
        self._secrets = [secret for secret in (parsed.password, parsed.query.get("password")) if secret]
        self._lock = threading.Lock()
        connect = connect_sqlite if self.is_sqlite else connect_postgresql
        self._engine = create_engine(
            parsed,
            creator=lambda: connect(parsed, read_only=read_only),
            pool_timeout=POOL_WAIT_S,
            # The parameters of a statement are somebody's data, and have no place in a traceback.
            hide_parameters=True,
        )
        if self.is_sqlite:
            event.listen(self._engine, "begin", _begin_sqlite)
            self._reader: Engine = self._engine
        else:
            event.listen(self._engine, "checkout", refuse_closed)
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writer = self._engine.execution_options(tidegate_writes=True)

    @property
    def is_missing(self) -> bool:
        """Whether there is no such file; a server only tells when it is asked."""
        return self._file is not None and not self._file.exists()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one moment of the database.

        Raises:
            LogError: by kind, see `errors`.
        """
        with self._translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, the only one of this object that writes: committed at the end, rolled back on an error.

        Raises:
            LogError: by kind, see `errors`.
        """
        with self._lock, self._translated(), self._writer.begin() as connection:
            yield connection

    def lock_out_migrations(self, connection: Connection) -> None:
        """Until the end of the transaction nobody else gets past this."""
        if not self.is_sqlite:  # whose one writing transaction is lock enough
            connection.execute(func.pg_advisory_xact_lock(MIGRATION_LOCK).select())

    @property
    def now_s(self) -> ColumnElement[float]:
        """The database's clock: seconds since 1970."""
        # unixepoch('subsec') came with SQLite 3.42 only.
        text = (
            "((julianday('now') - 2440587.5) * 86400.0)"
            if self.is_sqlite
            else "extract(epoch FROM clock_timestamp())::double precision"
        )
        return literal_column(text)

    def dispose(self) -> None:
        """Close the connections; the next use opens new ones."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.SQLAlchemyError as error:
            failure = as_log_error(error, self.name)
            for secret in self._secrets:
                failure.args = tuple(str(arg).replace(str(secret), "***") for arg in failure.args)
            raise failure from error


def parse_url(url: str) -> URL:
    """The URL of a log's database, with its driver.

    Raises:
        LogError: it is none; the message does not repeat it, since it may hold a password.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise LogError(f"the log's URL cannot be read; {_POSSIBLE}") from None
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "sqlite":
        raise LogError(f"a log's URL cannot begin with {parsed.drivername}:; {_POSSIBLE}")
    if parsed.host or parsed.query or not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise LogError(f"a log in SQLite needs the path of a file and nothing else; {_POSSIBLE}")
    return parsed


_POSSIBLE = "possible are sqlite:///PATH (relative), sqlite:////PATH, postgresql://USER@HOST/DATABASE, and memory"


def _name_of(url: URL) -> str:
    """How messages name the database."""
    if url.drivername == "sqlite":
        return f"sqlite:///{url.database}"
    return URL.create("postgresql", url.username, None, url.host, url.port, url.database).render_as_string()


def _begin_sqlite(connection: Connection) -> None:
    writes: Any = connection.get_execution_options().get("tidegate_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
