"""Connections to the two kinds of database, set up so that what is acknowledged is on disk, and nothing hangs."""

from __future__ import annotations

import select
import sqlite3
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from sqlalchemy import URL
from sqlalchemy.exc import DisconnectionError

BUSY_S = 4.0
"""How long SQLite waits for another process's transaction."""
ANSWER_S = 5.0
"""How long a PostgreSQL server may be silent."""
_SESSION = {
    "statement_timeout": "5s",
    "lock_timeout": "4s",
    # A writer that is stopped in a transaction must not keep its successor out.
    "idle_in_transaction_session_timeout": "5s",
}
_LIBPQ: dict[str, Any] = {
    "application_name": "tidegate",
    "connect_timeout": int(ANSWER_S),
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": int(ANSWER_S * 1000),
}


def connect_sqlite(url: URL, *, read_only: bool) -> sqlite3.Connection:
    """Open the file, and make it and its folder unless it is only to be read.

    Raises:
        sqlite3.Error: that cannot be done.
    """
    path = Path(str(url.database)).absolute()
    if not read_only:
        _make_folder(path.parent)
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={'rw' if read_only else 'rwc'}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,  # transactions are begun by hand: the module would begin none before a read
        check_same_thread=False,  # the pool hands a connection from thread to thread
    )
    try:
        _set_up(connection, read_only=read_only)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        failure = sqlite3.OperationalError(f"cannot make the folder {folder}: {error.strerror}")
        failure.sqlite_errorname = "SQLITE_CANTOPEN"
        raise failure from error


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Several may open a new file at once. The switch needs it alone, and SQLite refuses at once instead of waiting."""
    deadline_s = time.monotonic() + BUSY_S
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() >= deadline_s:
                raise
            time.sleep(0.01)


def _set_up(connection: sqlite3.Connection, *, read_only: bool) -> None:
    if read_only:
        connection.execute("PRAGMA query_only = ON")
        return
    _switch_to_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # An erased embedding must not stay in the file's unused space.
    connection.execute("PRAGMA secure_delete = ON").close()


class _ImpatientConnection(psycopg.Connection[Any]):
    """Gives a server up that stays silent: TCP cannot tell one that hangs from one that works."""

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """See psycopg; the operation that waits is `gen`."""
        return super().wait(self._within(gen, ANSWER_S), *args, **kwargs)

    def _within(self, gen: Generator[Any, Any, Any], silence_s: float) -> Generator[Any, Any, Any]:
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > silence_s:
                    self.close()
                    raise psycopg.OperationalError(f"the server was silent for {silence_s:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value


def connect_postgresql(url: URL, *, read_only: bool) -> psycopg.Connection[Any]:
    """Connect to the server.

    Raises:
        psycopg.Error: that cannot be done.
    """
    given = {key: value if isinstance(value, str) else ",".join(value) for key, value in url.query.items()}
    session = dict(_SESSION, default_transaction_read_only="on" if read_only else "off")
    options = " ".join([*(f"-c {name}={value}" for name, value in session.items()), given.pop("options", "")])
    address = url.translate_connect_args(username="user", database="dbname")
    return _ImpatientConnection.connect(**{**_LIBPQ, **address, **given, "options": options.strip()})


def refuse_closed(connection: psycopg.Connection[Any], *_: object) -> None:
    """Make the pool replace a connection that the server has closed meanwhile.

    That needs no answer from the server, unlike a statement: one that hangs would be waited for twice.

    Raises:
        DisconnectionError: it has.
    """
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    if poll.poll(0):
        raise DisconnectionError("the server has closed the connection")
