"""What one commit will write, while it is put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .event_log import Commit
from .events import Decision, Event, Publish, RewardEvent, placed

T = TypeVar("T")


@dataclass(slots=True)
class Draft:
    """A commit that is not yet written.

    Attributes:
        at_s: the time, on the log's clock.
        after_seq: the last sequence number of the log before it.
        defaults_until: see `Commit`.
        embeddings: of its own decisions, which are not in the log yet.
        counters: what will have happened once it is written, by name.
    """

    at_s: float
    after_seq: int
    decisions: list[Decision] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    publishes: list[Publish] = field(default_factory=list)
    defaults_until: int | None = None
    embeddings: dict[str, NDArray[np.float16] | None] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)

    @property
    def last_seq(self) -> int:
        """The last sequence number of the log with what is in the draft so far."""
        return self.after_seq + len(self.events)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.decisions or self.events or self.publishes) and self.defaults_until is None

    def add_decisions(self, decisions: Iterable[Decision]) -> None:
        """Add decisions that the log does not have."""
        for decision in decisions:
            self.decisions.append(decision)
            self.embeddings[decision.id] = decision.embedding

    def finish(self, batch_limit: int) -> Commit:
        """Give every event its place and its batch.

        Args:
            batch_limit: most events that are learned in one step.
        """
        events: list[Event] = []
        for batch in _batches(self.events, batch_limit):
            first = self.after_seq + len(events) + 1
            last = first + len(batch) - 1
            events += [placed(event, first + offset, last) for offset, event in enumerate(batch)]
        return Commit(
            at_s=self.at_s,
            decisions=self.decisions,
            events=events,
            publishes=self.publishes,
            defaults_until=self.defaults_until,
        )


Stage = Callable[[Draft], T]
"""A part of a commit: adds to the draft and returns what to answer once it is written, or raises LearnerError and
has added nothing."""


def _batches(events: Sequence[Event], limit: int) -> Iterable[list[Event]]:
    """Reward events that follow each other are learned together; everything else by itself."""
    batch: list[Event] = []
    for event in events:
        is_reward = isinstance(event, RewardEvent)
        if batch and (not is_reward or len(batch) == limit):
            yield batch
            batch = []
        if is_reward:
            batch.append(event)
        else:
            yield [event]
    if batch:
        yield batch
