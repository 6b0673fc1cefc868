"""What can be asked of a log in a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Executable,
    Text,
    any_,
    func,
    literal,
    select,
    text,
)

from ..event_log import Chosen, LogSize, Observed
from ..events import Decision, Event, OperatorEvent, Outcome, Reported, RewardEvent
from . import codec
from .batches import PAGE, read_batches, read_events, read_reported, read_rollbacks
from .codec import from_text, to_text
from .database import Database
from .schema import decisions, events, log, metadata, rewards

_LEARNED = [outcome.value for outcome in Outcome if outcome.is_learned]


def among(database: Database, column: Column[Any], values: Sequence[str] | Sequence[int]) -> ColumnElement[bool]:
    """Whether the column is one of any number of values, as one parameter: long lists of them have limits."""
    if database.is_sqlite:
        return column.in_(select(func.json_each(orjson.dumps(list(values)).decode()).table_valued("value").c.value))
    kind = Text() if isinstance(column.type, Text) else BigInteger()
    return column == any_(literal(list(values), ARRAY(kind)))


class SqlLogReader:
    """The reading half of `EventLog`, see there for what each method means."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(
        self, decision_ids: Sequence[str], reward_ids: Sequence[str]
    ) -> tuple[dict[str, Reported], dict[str, Reported]]:
        """See `EventLog`."""
        with self._database.read() as connection:
            by_decision = self._known_decisions(connection, decision_ids) if decision_ids else {}
            self._add_rewards(connection, rewards.c.decision_id, decision_ids, by_decision)
            by_reward_id: dict[str, Reported] = {}
            self._add_rewards(connection, rewards.c.reward_id, reward_ids, by_reward_id)
        return (
            {from_text(key): reported for key, reported in by_decision.items()},
            {from_text(key): reported for key, reported in by_reward_id.items()},
        )

    def _known_decisions(self, connection: Connection, decision_ids: Sequence[str]) -> dict[str, Reported]:
        columns = ("id", "received_s", "epoch", "version", "uids", "hotkeys")
        rows = connection.execute(
            select(*(decisions.c[name] for name in columns)).where(
                among(self._database, decisions.c.id, [to_text(key) for key in decision_ids])
            )
        )
        return {
            row.id: Reported(
                row.received_s, row.epoch, row.version, codec.uids_of(row.uids), codec.hotkeys_of(row.hotkeys)
            )
            for row in rows
        }

    def _add_rewards(
        self, connection: Connection, column: Column[Any], ids: Sequence[str], known: dict[str, Reported]
    ) -> None:
        """Note the rewards of those ids; only reward ids become known by their rewards."""
        if not ids:
            return
        query = (
            select(column, rewards.c.uid, rewards.c.reward, rewards.c.author, rewards.c.assumed, events.c.logged_s)
            .join(events, events.c.seq == rewards.c.seq)
            .where(column.is_not(None), among(self._database, column, [to_text(key) for key in ids]))
            .order_by(rewards.c.seq, rewards.c.position)
        )
        for key, uid, reward, author, assumed, logged_s in connection.execute(query):
            if key not in known and column is rewards.c.decision_id:
                continue
            reported = known.setdefault(key, Reported(logged_s))
            reported.note((uid,), (reward,), from_text(author), assumed=bool(assumed))

    def embeddings(self, decision_ids: Sequence[str]) -> dict[str, NDArray[np.float16] | None]:
        """See `EventLog`."""
        condition = among(self._database, decisions.c.id, [to_text(key) for key in decision_ids])
        with self._database.read() as connection:
            rows = connection.execute(select(decisions.c.id, decisions.c.embedding).where(condition)).fetchall()
        return {from_text(key): codec.from_bytes(stored) for key, stored in rows}

    def decision(self, decision_id: str) -> Decision | None:
        """See `EventLog`."""
        with self._database.read() as connection:
            row = connection.execute(select(decisions).where(decisions.c.id == to_text(decision_id))).one_or_none()
        return None if row is None else codec.decision_of(row)

    def decisions_count(self) -> int:
        """See `EventLog`."""
        with self._database.read() as connection:
            return int(connection.execute(select(log.c.decisions_count)).scalar_one())

    def chosen_after(self, row: int) -> Iterator[Chosen]:
        """See `EventLog`."""
        columns = ("row", "id", "uids", "hotkeys", "epoch", "version")
        while True:
            query = (
                select(*(decisions.c[name] for name in columns))
                .where(decisions.c.row > row)
                .order_by(decisions.c.row)
                .limit(PAGE)
            )
            with self._database.read() as connection:
                page = connection.execute(query).fetchall()
            yield from map(codec.chosen_of, page)
            if len(page) < PAGE:
                return
            row = page[-1].row

    def observed(self) -> Iterator[Observed]:
        """Every decision with its learned rewards, in the order of their arrival."""
        row = 0
        while True:
            query = select(decisions).where(decisions.c.row > row).order_by(decisions.c.row).limit(PAGE)
            with self._database.read() as connection:
                page = connection.execute(query).fetchall()
                learned = _learned(connection, row, page[-1].row) if page else {}
            for found in page:
                yield Observed(codec.decision_of(found), found.received_s, learned.get(found.id, {}))
            if len(page) < PAGE:
                return
            row = page[-1].row

    def unrewarded(self, received_before_s: float, limit: int) -> list[Chosen]:
        """See `EventLog`."""
        done = select(log.c.defaults_until).scalar_subquery()
        # Times never go back in a log, so only the first `limit` rows can be due: the others need no look.
        oldest = select(decisions).where(decisions.c.row > done).order_by(decisions.c.row).limit(limit).subquery()
        due = (
            select(*(oldest.c[name] for name in ("row", "id", "uids", "hotkeys", "epoch", "version")))
            .where(oldest.c.received_s < received_before_s)
            .order_by(oldest.c.row)
        )
        with self._database.read() as connection:
            return [codec.chosen_of(row) for row in connection.execute(due)]

    def batches(self, after: int, upto: int | None = None) -> Iterator[list[Event]]:
        """See `EventLog`."""
        return read_batches(self._database, after, upto)

    def reward_events(self, seqs: Sequence[int]) -> list[RewardEvent]:
        """See `EventLog`."""
        with self._database.read() as connection:
            found = read_events(connection, lambda column: among(self._database, column, seqs))
        return [event for event in found if isinstance(event, RewardEvent)]

    def reported_since(self, at_s: float, limit: int) -> list[tuple[float, RewardEvent]]:
        """See `EventLog`."""
        with self._database.read() as connection:
            return read_reported(connection, at_s, limit)

    def rollbacks(self, after: int) -> list[OperatorEvent]:
        """The rollbacks after that place, in order."""
        with self._database.read() as connection:
            return read_rollbacks(connection, after)

    def first_seq(self) -> int:
        """See `EventLog`."""
        query = select(func.min(events.c.seq), select(log.c.last_seq).scalar_subquery())
        with self._database.read() as connection:
            first, last = connection.execute(query).one()
        return int(last) + 1 if first is None else int(first)

    def is_whole(self) -> bool:
        """Whether every event is still there. Held ones outlive those around them, so the first may be there alone."""
        query = select(select(func.count()).select_from(events).scalar_subquery(), log.c.last_seq)
        with self._database.read() as connection:
            count, last = connection.execute(query).one()
        return int(count) == int(last)

    def size(self) -> LogSize:
        """See `EventLog`. Counting rows one by one would take long; the bytes are without what a commit has in work."""
        with self._database.read() as connection:
            rows = {"events": _span(connection, events.c.seq), "decisions": _span(connection, decisions.c.row)}
            return LogSize(rows, int(connection.execute(self._taken()).scalar_one()))

    def _taken(self) -> Executable:
        """Asks for the bytes that are taken."""
        if self._database.is_sqlite:
            return text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
        return select(sum((func.pg_total_relation_size(name) for name in metadata.tables), start=literal(0)))


def _span(connection: Connection, column: Column[int]) -> int:
    """How many rows there are from the first to the last."""
    first, last = (connection.execute(select(end(column))).scalar_one() for end in (func.min, func.max))
    return 0 if first is None else int(last - first) + 1


def _learned(connection: Connection, after: int, upto: int) -> dict[str, dict[int, float]]:
    """The learned rewards of the decisions in those rows, by decision and uid."""
    query = (
        select(rewards.c.decision_id, rewards.c.uid, rewards.c.reward)
        .join(decisions, decisions.c.id == rewards.c.decision_id)
        .where(decisions.c.row.between(after + 1, upto), rewards.c.status.in_(_LEARNED))
    )
    learned: dict[str, dict[int, float]] = {}
    for decision_id, uid, reward in connection.execute(query):
        learned.setdefault(decision_id, {})[uid] = reward
    return learned
