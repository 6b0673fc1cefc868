"""Reading events out of the tables that their parts lie in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, select

from ..events import Action, Event, OperatorEvent, RewardEvent
from . import codec
from .database import Database
from .schema import decisions, events, message_embeddings, operator_actions, resyncs, rewards

PAGE = 2000
"""So many events are read at a time."""

Where = Callable[[Column[int]], ColumnElement[bool]]
"""Which places are meant, as a condition on a column of them."""


def read_batches(database: Database, after: int, upto: int | None) -> Iterator[list[Event]]:
    """See `EventLog.batches`. Each page is a short transaction, so that a long replay holds nothing up."""
    place, open_batch = _before_batch(database, after), list[Event]()
    while place is not None:
        with database.read() as connection:
            page = _read_page(connection, place)
        wanted = [event for event in page if event.batch > after and (upto is None or event.batch <= upto)]
        for batch, group in itertools.groupby(wanted, key=lambda event: event.batch):
            if open_batch and open_batch[0].batch != batch:
                yield open_batch
                open_batch = []
            open_batch.extend(group)
        is_end = not page or (upto is not None and page[-1].batch > upto)
        place = None if is_end else page[-1].seq
    if open_batch:
        yield open_batch


def _before_batch(database: Database, after: int) -> int | None:
    """The place before the first event of the first batch after that number, None if there is none."""
    first = select(events.c.seq).where(events.c.batch > after).order_by(events.c.batch, events.c.seq).limit(1)
    with database.read() as connection:
        seq = connection.execute(first).scalar()
    return None if seq is None else seq - 1


def _read_page(connection: Connection, place: int) -> list[Event]:
    last = connection.execute(
        select(events.c.seq).where(events.c.seq > place).order_by(events.c.seq).offset(PAGE - 1).limit(1)
    ).scalar()
    if last is None:
        return read_events(connection, lambda seq: seq > place)
    return read_events(connection, lambda seq: seq.between(place + 1, last))


def read_events(connection: Connection, where: Where) -> list[Event]:
    """The events at those places, in order, with the embeddings that are still there."""
    heads = connection.execute(
        select(events.c.seq, events.c.batch, events.c.kind).where(where(events.c.seq)).order_by(events.c.seq)
    ).fetchall()
    batch_of = {seq: batch for seq, batch, _ in heads}
    found: dict[int, Event] = {}
    for kind, read in _READ.items():
        if any(head[2] == kind for head in heads):
            found.update(read(connection, where, batch_of))
    return [found[seq] for seq in batch_of]


def _read_rewards(connection: Connection, where: Where, batch_of: dict[int, int]) -> dict[int, RewardEvent]:
    rows = connection.execute(
        select(*(rewards.c[name] for name in codec.REWARD_COLUMNS))
        .where(where(rewards.c.seq))
        .order_by(rewards.c.seq, rewards.c.position)
    ).fetchall()
    embeddings = _embeddings(connection, where)
    return {
        seq: codec.reward_event_of(list(group), batch_of[seq], embeddings.get(seq))
        for seq, group in itertools.groupby(rows, key=itemgetter(0))
    }


def read_reported(connection: Connection, at_s: float, limit: int) -> list[tuple[float, RewardEvent]]:
    """See `EventLog.reported_since`."""
    # Times never go back in a log, and so the newest are the last.
    heads = connection.execute(
        select(events.c.seq, events.c.batch, events.c.logged_s)
        .where(events.c.kind == "reward", events.c.logged_s >= at_s)
        .order_by(events.c.seq.desc())
        .limit(limit)
    ).fetchall()
    if not heads:
        return []
    found = _read_rewards(connection, lambda seq: seq >= heads[-1].seq, {head.seq: head.batch for head in heads})
    return [(head.logged_s, found[head.seq]) for head in reversed(heads)]


def read_rollbacks(connection: Connection, after: int) -> list[OperatorEvent]:
    """The rollbacks in the log after that place, in order."""
    rows = connection.execute(
        select(operator_actions)
        .where(operator_actions.c.seq > after, operator_actions.c.action == Action.ROLLBACK.value)
        .order_by(operator_actions.c.seq)
    )
    return [codec.operator_of(row, row.seq) for row in rows]


def _embeddings(connection: Connection, where: Where) -> dict[int, bytes | None]:
    of_decisions = (
        select(rewards.c.seq, decisions.c.embedding)
        .join(decisions, decisions.c.id == rewards.c.decision_id)
        .where(where(rewards.c.seq), rewards.c.position == 0)
    )
    of_messages = select(message_embeddings.c.seq, message_embeddings.c.embedding).where(
        where(message_embeddings.c.seq)
    )
    return {seq: stored for query in (of_decisions, of_messages) for seq, stored in connection.execute(query)}


def _read_resyncs(connection: Connection, where: Where, batch_of: dict[int, int]) -> dict[int, Event]:
    rows = connection.execute(select(resyncs).where(where(resyncs.c.seq)))
    return {row.seq: codec.resync_of(row, batch_of[row.seq]) for row in rows}


def _read_operator_actions(connection: Connection, where: Where, batch_of: dict[int, int]) -> dict[int, Event]:
    rows = connection.execute(select(operator_actions).where(where(operator_actions.c.seq)))
    return {row.seq: codec.operator_of(row, batch_of[row.seq]) for row in rows}


_READ: dict[str, Callable[[Connection, Where, dict[int, int]], dict[int, Any]]] = {
    "reward": _read_rewards,
    "resync": _read_resyncs,
    "operator": _read_operator_actions,
}
