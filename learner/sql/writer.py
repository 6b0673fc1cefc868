"""Writing to the log's tables, within a transaction of the caller's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Table, select, update

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

PARTS = (rewards, message_embeddings, resyncs, operator_actions)
"""The tables that events' parts lie in."""

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
    rows.update((part, []) for part in PARTS)
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
