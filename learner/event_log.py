"""The event log: what was decided and what it earned, in the order that learning follows."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from .events import Decision, Event


@runtime_checkable
class EventLog(Protocol):
    """Append-only. Sequence numbers order everything that changes weights; decisions need none."""

    @property
    def id(self) -> str:
        """The log's own UUID."""
        ...

    @property
    def epoch(self) -> int:
        """The writer's epoch: greater than that of every writer before it."""
        ...

    @property
    def durable(self) -> bool:
        """Whether what is appended outlives this process."""
        ...

    @property
    def last_seq(self) -> int:
        """The last sequence number given; 0 for an empty log."""
        ...

    def append_decisions(self, decisions: Sequence[Decision]) -> None:
        """Keep decisions; one whose id is known already is kept as it was."""
        ...

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Give events their places and keep them. When this returns they may be acknowledged."""
        ...

    def decision(self, decision_id: str) -> Decision | None:
        """The decision of that id, or None."""
        ...

    def erase_embedding(self, decision_id: str) -> bool:
        """Forget a decision's embedding for good, in its events too; whether the decision was known."""
        ...

    def forget_decisions(self, decision_ids: Sequence[str]) -> None:
        """Drop decisions that are past their retention."""
        ...

    def events_after(self, seq: int) -> list[Event]:
        """The events after `seq` that the log still has, in order."""
        ...


class MemoryEventLog:
    """A log that lives as long as its process: for first steps and tests.

    Args:
        started_at_ms: the start time in ms since 1970. It is the epoch, so that replicas accept the fresh
            weights of a learner that was born again.
        max_events: the oldest events beyond this many are dropped.
    """

    durable = False

    def __init__(self, *, started_at_ms: int, max_events: int = 100_000) -> None:
        self.id = str(uuid.uuid4())
        self.epoch = started_at_ms
        self.last_seq = 0
        self._decisions: dict[str, Decision] = {}
        self._events: deque[Event] = deque(maxlen=max_events)

    def append_decisions(self, decisions: Sequence[Decision]) -> None:
        """See `EventLog`."""
        for decision in decisions:
            self._decisions.setdefault(decision.id, decision)

    def append(self, events: Sequence[Event]) -> list[Event]:
        """See `EventLog`."""
        placed = [replace(event, seq=self.last_seq + 1 + offset) for offset, event in enumerate(events)]
        self._events.extend(placed)
        self.last_seq += len(placed)
        return placed

    def decision(self, decision_id: str) -> Decision | None:
        """See `EventLog`."""
        return self._decisions.get(decision_id)

    def erase_embedding(self, decision_id: str) -> bool:
        """See `EventLog`."""
        decision = self._decisions.get(decision_id)
        if decision is None:
            return False
        self._decisions[decision_id] = replace(decision, embedding=None)
        # An event without its embedding could not be replayed, so it goes as a whole.
        kept = [event for event in self._events if getattr(event, "decision_id", None) != decision_id]
        self._events = deque(kept, maxlen=self._events.maxlen)
        return True

    def forget_decisions(self, decision_ids: Sequence[str]) -> None:
        """See `EventLog`."""
        for decision_id in decision_ids:
            self._decisions.pop(decision_id, None)

    def events_after(self, seq: int) -> list[Event]:
        """See `EventLog`."""
        return [event for event in self._events if event.seq > seq]
