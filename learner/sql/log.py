"""A log in a database, SQLite or PostgreSQL, that outlives its learner."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from ..errors import LogError, NoLogError, OldSchemaError, WrongLogError
from ..event_log import Commit, Genesis
from ..view_json import view_from_json, view_to_json
from .codec import from_text, to_text
from .database import Database
from .lease import Lease, acquire
from .migrate import current_revision, migrate, newest_revision
from .pruning import Pruning
from .reader import SqlLogReader
from .schema import log, writer
from .writer import Tail, erase_embedding, event_rows, write_commit

logger = logging.getLogger(__name__)


class SqlEventLog(SqlLogReader):
    """See `EventLog`, for what each method means. `open_sql_log` and `read_sql_log` build it.

    Args:
        database: the log's, with its tables and their rows.
        lease: the claim on the log, None to read only.
    """

    durable = True

    def __init__(self, database: Database, lease: Lease | None) -> None:
        super().__init__(database)
        self._lease = lease
        self._pruning = Pruning(database)
        self.epoch = 0 if lease is None else lease.epoch
        with database.read() as connection:
            row = connection.execute(select(log)).one()
        self.id: str = row.uuid
        self.fingerprint: str = from_text(row.fingerprint)
        self.dim: int = row.dim
        self.last_time_s: float = row.last_time_s
        self._take_over(row)

    @property
    def last_seq(self) -> int:
        """See `EventLog`."""
        return self._tail.last_seq

    @property
    def genesis(self) -> Genesis | None:
        """See `EventLog`."""
        return self._genesis

    def _take_over(self, row: Any) -> None:
        """Note what the row of `log` says."""
        self._tail = Tail(row.last_seq, row.last_time_s, row.decisions_count)
        view = row.genesis_view
        rule = None if row.genesis_rule is None else json.loads(row.genesis_rule)
        self._genesis = None if view is None else Genesis(view_from_json(view), row.genesis_seed, rule)

    def begin(self, genesis: Genesis) -> None:
        """See `EventLog`.

        Raises:
            ValueError: it was said before.
        """
        lease = self._claim()
        if self._genesis is not None:
            raise ValueError(f"{self._database.name} has begun already; a log begins once")
        view = view_to_json(genesis.view).decode()
        rule = None if genesis.rule is None else json.dumps(genesis.rule)
        with self._database.write() as connection:
            lease.fence(connection)
            connection.execute(update(log).values(genesis_view=view, genesis_seed=genesis.seed, genesis_rule=rule))
        self._genesis = genesis

    def commit(self, commit: Commit) -> None:
        """See `EventLog`.

        Raises:
            ValueError: the events' places do not follow the last one, or what is given cannot be stored.
        """
        lease = self._claim()
        for place, event in enumerate(commit.events, self.last_seq + 1):
            if event.seq != place:
                raise ValueError(f"the next event's place is {place}, got {event.seq}")
        rows = event_rows(commit, self.epoch, self.dim)
        with self._database.write() as connection:
            lease.fence(connection)
            tail = write_commit(connection, self._database, commit, rows, self._tail, self.dim)
        self._tail = tail

    def refresh(self) -> None:
        """See `EventLog`."""
        lease = self._claim()
        self._database.dispose()
        with self._database.write() as connection:
            # First of all, since it waits for the end of a commit that the server may still be at.
            lease.fence(connection)
            row = connection.execute(select(log)).one_or_none()
            if row is None or row.uuid != self.id:
                raise WrongLogError(f"{self._database.name} is no longer the log {self.id}; start the learner anew")
        self._take_over(row)

    def renew(self) -> None:
        """See `EventLog`."""
        lease = self._claim()
        with self._database.write() as connection:
            lease.fence(connection)

    def erase_embedding(self, decision_id: str) -> bool:
        """See `EventLog`."""
        lease = self._claim()
        with self._database.write() as connection:
            lease.fence(connection)
            return erase_embedding(connection, decision_id)

    def prune(self, *, upto: int, before_s: float, keep: Sequence[int]) -> int:
        """See `EventLog`."""
        lease = self._claim()
        return self._pruning.step(lease.fence, upto=upto, before_s=before_s, keep=keep)

    def close(self) -> None:
        """See `EventLog`. A database that does not answer keeps nobody from closing."""
        lease, self._lease = self._lease, None
        try:
            if lease is not None:
                with self._database.write() as connection:
                    lease.hand_over(connection)
        except LogError as error:
            logger.warning("log_not_handed_over error=%s", error)
        finally:
            self._database.dispose()

    def _claim(self) -> Lease:
        if self._lease is None:
            raise LogError(f"{self._database.name} is open for reading only, or closed; open it with open_sql_log")
        return self._lease


def open_sql_log(
    url: str, *, application: str, fingerprint: str, dim: int, holder: str, lease_s: float, patience_s: float
) -> SqlEventLog:
    """Open the log at that URL to write it, and make it if there is none.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`.
        application: whose log it is.
        fingerprint: of its encoder.
        dim: of an embedding.
        holder: who opens it: whoever has it already may open it again at once.
        lease_s: the log may be taken over from a writer that does not renew its claim for so long.
        patience_s: how long to wait for another writer's claim to end.

    Raises:
        LeaseHeldError: another writes it.
        WrongLogError: it is another application's, or another encoder's.
        LogSchemaError: a newer Tidegate has written it.
        LogError: see there for its other kinds.
    """
    database = Database(url)
    try:
        with database.write() as connection:
            database.lock_out_migrations(connection)
            migrate(connection, database.name)
            if connection.execute(select(log.c.id)).first() is None:
                _create(connection, application, fingerprint, dim)
            _check_owner(connection, database.name, application, fingerprint, dim)
        return SqlEventLog(database, acquire(database, holder=holder, lease_s=lease_s, patience_s=patience_s))
    except BaseException:
        database.dispose()
        raise


def read_sql_log(url: str) -> SqlEventLog:
    """Open the log at that URL to read it, whoever writes it meanwhile. Its epoch is 0, and it refuses to write.

    Raises:
        NoLogError: there is none.
        OldSchemaError: no learner of this version has opened it so far.
        LogSchemaError: a newer Tidegate has written it.
        LogError: see there for its other kinds.
    """
    database = Database(url, read_only=True)
    try:
        if database.is_missing:
            raise NoLogError(f"there is no log at {database.name}; name the log of a learner that has run")
        with database.read() as connection:
            revision = current_revision(connection, database.name)
        if revision is None:
            raise NoLogError(f"{database.name} holds no log; name the log of a learner that has run")
        if revision != newest_revision():
            raise OldSchemaError(
                f"{database.name} has schema {revision!r}, this version of Tidegate reads {newest_revision()!r}; "
                "start its learner with this version once"
            )
        return SqlEventLog(database, None)
    except BaseException:
        database.dispose()
        raise


def _create(connection: Connection, application: str, fingerprint: str, dim: int) -> None:
    connection.execute(
        insert(log).values(
            id=1,
            uuid=str(uuid.uuid4()),
            application=to_text(application),
            fingerprint=to_text(fingerprint),
            dim=dim,
            created_s=time.time(),
        )
    )
    connection.execute(insert(writer).values(id=1, epoch=0, holder="", renewals=0, expires_s=0.0))


def _check_owner(connection: Connection, name: str, application: str, fingerprint: str, dim: int) -> None:
    row = connection.execute(select(log)).one()
    found = (from_text(row.application), from_text(row.fingerprint), row.dim)
    if found != (application, fingerprint, dim):
        raise WrongLogError(
            f"{name} is the log of application {found[0]!r} with encoder {found[1]!r} (dimension {found[2]}), expected "
            f"application {application!r} with encoder {fingerprint!r} (dimension {dim}); another encoder is another "
            "application, and each application needs a database of its own, or in PostgreSQL a schema of its own "
            "(postgresql://.../DATABASE?options=-csearch_path%3DSCHEMA)"
        )
