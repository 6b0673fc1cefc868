"""What the tests of logs put into them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gating import MetagraphView
from learner.event_log import Commit, EventLog
from learner.events import Decision, Event, Outcome, RewardEvent
from learner.sql import SqlEventLog, open_sql_log

DIM = 4
VIEW = MetagraphView.from_hotkeys(["a", "b", "c", "d"], netuid=7, block=12)


def open_log(url: str, **settings: object) -> SqlEventLog:
    """Open a log for writing, without waiting for another writer unless told to."""
    given = {
        "application": "app",
        "fingerprint": "tiny",
        "dim": DIM,
        "holder": "first",
        "lease_s": 5.0,
        "patience_s": 0.0,
    }
    return open_sql_log(url, **{**given, **settings})


def embedding(seed: int) -> NDArray[np.float16]:
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float16)


def decision(decision_id: str, uids: tuple[int, ...] = (2, 0), **given: object) -> Decision:
    values = {
        "id": decision_id,
        "time_s": 12.25,
        "epoch": 3,
        "version": 40,
        "embedding": embedding(len(decision_id)),
        "uids": uids,
        "scores": tuple(0.1 * uid for uid in uids),
        "propensities": (1.0,) * len(uids),
        "hotkeys": tuple(VIEW.hotkeys[uid] for uid in uids),
        "candidates": 4,
        "candidates_digest": "00ff",
    }
    return Decision(**{**values, **given})


def reward(seq: int, decision_id: str | None = None, *, batch: int | None = None, **given: object) -> RewardEvent:
    """A reward event; for a message unless there is a decision."""
    values = {
        "uids": (2, 0),
        "rewards": (0.75, 0.1),
        "outcome": Outcome.LEARNED,
        "embedding": embedding(seq) if decision_id is None else None,
        "decision_id": decision_id,
        "reward_id": f"r-{seq}" if decision_id is None else None,
        "seq": seq,
        "batch": batch or seq,
    }
    return RewardEvent(**{**values, **given})


def commit(log: EventLog, *entries: Decision | Event, at_s: float = 1.0, **given: object) -> None:
    """Commit decisions and events."""
    log.commit(
        Commit(
            at_s,
            decisions=[entry for entry in entries if isinstance(entry, Decision)],
            events=[entry for entry in entries if not isinstance(entry, Decision)],
            **given,
        )
    )


def prune_all(log: EventLog, *, upto: int, before_s: float = 9.0, keep: Sequence[int] = ()) -> list[int]:
    """Prune to the end; how many rows each step took."""
    steps = []
    while rows := log.prune(upto=upto, before_s=before_s, keep=keep):
        steps.append(rows)
    return steps


def comparable(value: Decision | Event) -> object:
    """The same for equal values: arrays, which compare element by element, as bytes."""
    fields = [getattr(value, name) for name in type(value).__dataclass_fields__]
    return type(value), [field.tobytes() if isinstance(field, np.ndarray) else field for field in fields]


def batches(log: EventLog, after: int = 0, upto: int | None = None) -> list[list[object]]:
    return [[comparable(event) for event in batch] for batch in log.batches(after, upto)]


def places(log: EventLog, after: int = 0, upto: int | None = None) -> list[list[int]]:
    """The sequence numbers of each batch."""
    return [[event.seq for event in batch] for batch in log.batches(after, upto)]
