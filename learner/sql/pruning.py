"""Dropping what is old from the log's tables, a little at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import takewhile

from sqlalchemy import Connection, and_, delete, exists, or_, select

from .database import Database
from .reader import among
from .schema import decisions, events, publishes, rewards
from .writer import PARTS

PRUNE_ROWS = 5000
"""So many events, decisions or publishes are looked at, and at most dropped, at a time."""

Fence = Callable[[Connection], None]


class Pruning:
    """Goes through a log once from its oldest rows on, and begins anew once it is asked for something else.

    What is to be kept is passed by only once in a round, however often it is asked for more, and is read outside of
    transactions that write: there may be a million events that are held, and every commit waits for a transaction.

    Args:
        database: the log's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: tuple[int, float, int] | None = None
        self._events_until = 0
        self._decisions_until = 0

    def step(self, fence: Fence, *, upto: int, before_s: float, keep: Sequence[int]) -> int:
        """Drop what is old: events, then the decisions that no event needs, and what was published.

        Args:
            fence: called first in every transaction.
            upto: see `EventLog.prune`, as for the others.
            before_s: when.
            keep: which not, ascending.

        Returns:
            How many rows went, 0 at the end of a round.
        """
        asked = (upto, before_s, len(keep))
        if asked != self._asked:
            self._asked, self._events_until, self._decisions_until = asked, 0, 0
        dropped = self._drop_events(fence, upto, before_s, keep)
        if not dropped:
            dropped = self._drop_decisions(fence, before_s)
        with self._database.write() as connection:
            fence(connection)
            dropped += _drop_publishes(connection, before_s)
        if not dropped:
            self._asked = None
        return dropped

    def _drop_events(self, fence: Fence, upto: int, before_s: float, keep: Sequence[int]) -> int:
        columns = (events.c.seq, events.c.batch, events.c.logged_s)
        while True:
            page = select(*columns).where(events.c.seq > self._events_until).order_by(events.c.seq).limit(PRUNE_ROWS)
            with self._database.read() as connection:
                found = connection.execute(page).fetchall()
            # Batches and times never go back in a log, so what is old comes first.
            old = [row.seq for row in takewhile(lambda row: row.batch <= upto and row.logged_s < before_s, found)]
            if not old:
                return 0
            kept = set(keep[bisect_right(keep, self._events_until) : bisect_right(keep, old[-1])])
            if seqs := [seq for seq in old if seq not in kept]:
                with self._database.write() as connection:
                    fence(connection)
                    dropped = sum(
                        connection.execute(delete(table).where(among(self._database, table.c.seq, seqs))).rowcount
                        for table in (*PARTS, events)
                    )
                self._events_until = old[-1]
                return dropped
            self._events_until = old[-1]

    def _drop_decisions(self, fence: Fence, before_s: float) -> int:
        is_free = ~exists().where(rewards.c.decision_id == decisions.c.id)
        columns = (decisions.c.row, decisions.c.received_s, is_free.label("is_free"))
        while True:
            page = (select(*columns).where(decisions.c.row > self._decisions_until).order_by(decisions.c.row)).limit(
                PRUNE_ROWS
            )
            with self._database.read() as connection:
                found = connection.execute(page).fetchall()
            old = list(takewhile(lambda row: row.received_s < before_s, found))
            if not old:
                return 0
            rows, dropped = [row.row for row in old if row.is_free], 0
            if rows:
                with self._database.write() as connection:
                    fence(connection)
                    # Once more, for a late reward may have come for one of them.
                    going = delete(decisions).where(among(self._database, decisions.c.row, rows), is_free)
                    dropped = connection.execute(going).rowcount
            self._decisions_until = old[-1].row
            if dropped:
                return dropped


def _drop_publishes(connection: Connection, before_s: float) -> int:
    """Epochs, versions and times all go up, so what is old comes first."""
    key = (publishes.c.epoch, publishes.c.version)
    oldest = select(*key, publishes.c.published_s).order_by(*key).limit(PRUNE_ROWS)
    old = list(takewhile(lambda row: row.published_s < before_s, connection.execute(oldest)))
    if not old:
        return 0
    epoch, version, _ = old[-1]
    is_old = or_(key[0] < epoch, and_(key[0] == epoch, key[1] <= version))
    return connection.execute(delete(publishes).where(is_old)).rowcount
