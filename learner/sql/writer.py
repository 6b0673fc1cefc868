"""Writing to the log's tables, within a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import Any

from sqlalchemy import Connection, Table, and_, delete, exists, or_, select, update

from ..event_log import Commit
from ..events import Decision, Event, OperatorEvent, ResyncEvent, RewardEvent
from . import codec
from .database import Database
from .reader import among
from .schema import (
    decisions,
    events,
    log,
    message_embeddings,
    operator_actions,
    publishes,
    resyncs,
    rewards,
)

PRUNE_ROWS = 5000
"""So many events, and as many decisions and publishes, are dropped in one transaction."""
_PARTS = (rewards, message_embeddings, resyncs, operator_actions)

Rows = dict[Table, list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a log ends: what its row of `log` counts."""

    last_seq: int = 0
    last_time_s: float = 0.0
    decisions_count: int = 0


def event_rows(commit: Commit, epoch: int, dim: int) -> Rows:
    """The rows of a commit's events and publishes.

    Raises:
        ValueError: an event is not to be stored: rewards that are not finite, an embedding of another dimension.
    """
    rows: Rows = {
        events: [(event.seq, event.batch, epoch, codec.kind_of(event), commit.at_s) for event in commit.events],
        publishes: [(epoch, publish.version, publish.time_s) for publish in commit.publishes],
    }
    rows.update((part, []) for part in _PARTS)
    for event in commit.events:
        _add_parts(rows, event, dim)
    return rows


def _add_parts(rows: Rows, event: Event, dim: int) -> None:
    match event:
        case RewardEvent():
            rows[rewards] += codec.reward_rows(event)
            if event.decision_id is None and event.embedding is not None:
                rows[message_embeddings].append((event.seq, codec.to_bytes(event.embedding, dim)))
        case ResyncEvent():
            rows[resyncs].append(codec.resync_row(event))
        case OperatorEvent():
            rows[operator_actions].append(codec.operator_row(event))


def write_commit(connection: Connection, database: Database, commit: Commit, rows: Rows, tail: Tail, dim: int) -> Tail:
    """Write all of it.

    Args:
        connection: in a transaction in which this writer is known to have the log.
        database: the log's.
        commit: what to write.
        rows: its `event_rows`.
        tail: where the log ends.
        dim: of an embedding.

    Returns:
        Where it ends afterwards.
    """
    fresh = _fresh_decision_rows(connection, database, commit, tail, dim)
    for table, added in {decisions: fresh, **rows}.items():
        if added:
            connection.exec_driver_sql(_insert(table, database.is_sqlite), added)
    ends = replace(
        tail,
        last_seq=tail.last_seq + len(commit.events),
        last_time_s=max(tail.last_time_s, commit.at_s),
        decisions_count=tail.decisions_count + len(fresh),
    )
    settings: dict[str, Any] = {
        "last_seq": ends.last_seq,
        "last_time_s": ends.last_time_s,
        "decisions_count": ends.decisions_count,
    }
    if commit.defaults_until is not None:
        settings["defaults_until"] = commit.defaults_until
    connection.execute(update(log).values(settings))
    return ends


def _fresh_decision_rows(
    connection: Connection, database: Database, commit: Commit, tail: Tail, dim: int
) -> list[tuple[Any, ...]]:
    """Rows of the decisions that are not known yet, numbered without a gap."""
    given: dict[str, Decision] = {}
    for decision in commit.decisions:
        given.setdefault(codec.to_text(decision.id), decision)
    if not given:
        return []
    condition = among(database, decisions.c.id, list(given))
    known = set(connection.execute(select(decisions.c.id).where(condition)).scalars())
    fresh = [decision for key, decision in given.items() if key not in known]
    return [
        codec.decision_row(decision, row, commit.at_s, dim)
        for row, decision in enumerate(fresh, tail.decisions_count + 1)
    ]


@lru_cache(maxsize=32)
def _insert(table: Table, is_sqlite: bool) -> str:
    """The statement, for rows as tuples: SQLAlchemy's own way with many rows takes several times as long."""
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    values = ", ".join(["?" if is_sqlite else "%s"] * len(table.columns))
    known = " ON CONFLICT DO NOTHING" if table is publishes else ""
    return f"INSERT INTO {table.name} ({columns}) VALUES ({values}){known}"


def erase_embedding(connection: Connection, decision_id: str) -> bool:
    """Forget a decision's embedding; whether the decision was known."""
    erased = connection.execute(
        update(decisions).where(decisions.c.id == codec.to_text(decision_id)).values(embedding=None)
    )
    return erased.rowcount > 0


def prune(connection: Connection, database: Database, *, upto: int, before_s: float, keep: Sequence[int]) -> int:
    """Drop old events, then decisions that no event needs, and old publishes; how many rows went."""
    seqs = _old_events(connection, upto, before_s, set(keep))
    dropped = 0
    if seqs:
        for table in (*_PARTS, events):
            dropped += connection.execute(delete(table).where(among(database, table.c.seq, seqs))).rowcount
    has_rewards = exists().where(rewards.c.decision_id == decisions.c.id)
    old = (
        select(decisions.c.row)
        .where(decisions.c.received_s < before_s, ~has_rewards)
        .order_by(decisions.c.received_s)
        .limit(PRUNE_ROWS)
    )
    dropped += connection.execute(delete(decisions).where(decisions.c.row.in_(old))).rowcount
    return dropped + _prune_publishes(connection, before_s)


def _prune_publishes(connection: Connection, before_s: float) -> int:
    """Epochs, versions and times all go up, so what is old comes first."""
    key = (publishes.c.epoch, publishes.c.version)
    oldest = select(*key, publishes.c.published_s).order_by(*key).limit(PRUNE_ROWS)
    old = list(takewhile(lambda row: row.published_s < before_s, connection.execute(oldest)))
    if not old:
        return 0
    epoch, version, _ = old[-1]
    is_old = or_(key[0] < epoch, and_(key[0] == epoch, key[1] <= version))
    return connection.execute(delete(publishes).where(is_old)).rowcount


def _old_events(connection: Connection, upto: int, before_s: float, keep: set[int]) -> list[int]:
    """Batches and times never go back in a log, so what may go is among the oldest: the others need no look."""
    oldest = (
        select(events.c.seq, events.c.batch, events.c.logged_s).order_by(events.c.seq).limit(PRUNE_ROWS + len(keep))
    )
    old = [
        seq
        for seq, batch, logged_s in connection.execute(oldest)
        if batch <= upto and logged_s < before_s and seq not in keep
    ]
    return old[:PRUNE_ROWS]
