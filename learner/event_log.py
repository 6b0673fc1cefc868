"""The event log as a protocol: what was decided and what it earned, in the order that learning follows.

`memory_log` and `sql` implement it. Sequence numbers order everything that changes weights; they are given by
the one writer, which is the learner, before an event is committed. Times are on the log's own clock, which never
goes back and orders nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gating.metagraph import MetagraphView

from .events import Decision, Event, Publish, Reported, RewardEvent


@dataclass(frozen=True, slots=True)
class Genesis:
    """What learning started from: the network before the first event, the seed of its rows, and the rule that served.

    `rule` is its settings; None in a log whose beginning does not say: the configured one.
    """

    view: MetagraphView
    seed: int
    rule: dict[str, Any] | None = None


@dataclass(slots=True)
class Commit:
    """What is written in one transaction, or not at all.

    Attributes:
        at_s: the time, on the log's clock.
        events: with their places, which follow the log's `last_seq` without a gap.
        defaults_until: if set: decisions up to this row have had their default rewards.
    """

    at_s: float
    decisions: list[Decision] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    publishes: list[Publish] = field(default_factory=list)
    defaults_until: int | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which uids a decision chose, and who held them in the weights that chose.

    `row` counts decisions in the order of their arrival, from 1.
    """

    row: int
    decision_id: str
    uids: tuple[int, ...]
    hotkeys: tuple[str, ...]
    epoch: int
    version: int


@dataclass(frozen=True, slots=True)
class Observed:
    """A decision, when it reached the log, and the rewards of it that were learned, by uid, defaults among them."""

    decision: Decision
    received_s: float
    rewards: dict[int, float]


@dataclass(frozen=True, slots=True)
class LogSize:
    """How large a log is.

    Attributes:
        rows: by table, from the first row to the last: a row that was dropped from between them counts.
        bytes: of all tables with their indexes; None where that is not known.
    """

    rows: dict[str, int]
    bytes: int | None


@runtime_checkable
class EventLog(Protocol):
    """One application's log. Commits come from one thread, reads from any.

    Every method but the attributes may raise LogUnavailableError, which changes nothing but leaves open whether a
    commit took place: `refresh` tells.
    """

    @property
    def id(self) -> str:
        """The log's own UUID."""
        ...

    @property
    def epoch(self) -> int:
        """This writer's epoch: greater than that of every writer before it."""
        ...

    @property
    def durable(self) -> bool:
        """Whether what is committed outlives this process."""
        ...

    @property
    def last_seq(self) -> int:
        """The last sequence number given, 0 for an empty log, as of the last commit or refresh."""
        ...

    @property
    def last_time_s(self) -> float:
        """The latest time in the log when it was opened, 0.0 for an empty one: its clock must not start before."""
        ...

    @property
    def genesis(self) -> Genesis | None:
        """What learning started from; None before `begin`."""
        ...

    def begin(self, genesis: Genesis) -> None:
        """Say what learning starts from, once, on an empty log."""
        ...

    def commit(self, commit: Commit) -> None:
        """Write all of it. When this returns it may be acknowledged.

        A decision whose id is known already is kept as it was.

        Raises:
            FencedError: another learner has taken the log over; nothing was written.
        """
        ...

    def refresh(self) -> None:
        """After a commit that failed: connect anew, and find out what is in the log.

        Raises:
            FencedError: see `commit`.
        """
        ...

    def renew(self) -> None:
        """Renew the claim on the log, which a commit does as well.

        Raises:
            FencedError: see `commit`.
        """
        ...

    def find(
        self, decision_ids: Sequence[str], reward_ids: Sequence[str]
    ) -> tuple[dict[str, Reported], dict[str, Reported]]:
        """What is known of decisions and of reward ids; unknown ones are missing."""
        ...

    def embeddings(self, decision_ids: Sequence[str]) -> dict[str, NDArray[np.float16] | None]:
        """The embeddings of decisions: float16 [D], None once erased; unknown ones are missing."""
        ...

    def decision(self, decision_id: str) -> Decision | None:
        """The decision of that id, or None."""
        ...

    def decisions_count(self) -> int:
        """How many decisions were ever taken in: the `row` of the newest."""
        ...

    def chosen_after(self, row: int) -> Iterator[Chosen]:
        """What the decisions after that row chose, in order."""
        ...

    def unrewarded(self, received_before_s: float, limit: int) -> list[Chosen]:
        """The oldest decisions, at most `limit`, that were received before that time and whose default is not settled.

        Whether rewards came for them does not matter; `Commit.defaults_until` says which are settled.
        """
        ...

    def batches(self, after: int, upto: int | None = None) -> Iterator[list[Event]]:
        """The events with a batch number in (after, upto], a list per batch, in order, with embeddings as logged."""
        ...

    def reward_events(self, seqs: Sequence[int]) -> list[RewardEvent]:
        """The reward events at those places, in order; those that were pruned are missing."""
        ...

    def reported_since(self, at_s: float, limit: int) -> list[tuple[float, RewardEvent]]:
        """The newest reward events that were logged at that time or later, at most `limit`, oldest first.

        Each with when it was logged.
        """
        ...

    def erase_embedding(self, decision_id: str) -> bool:
        """Forget a decision's embedding for good; whether the decision was known.

        Raises:
            FencedError: see `commit`.
        """
        ...

    def prune(self, *, upto: int, before_s: float, keep: Sequence[int]) -> int:
        """Drop what is old, a little at a time.

        Args:
            upto: events of later batches stay.
            before_s: so does what was logged at this time or later.
            keep: so do the events at these places, which ascend.

        Returns:
            How many rows went; 0 once all of the log was gone through. A decision stays as long as an event of it.

        Raises:
            FencedError: see `commit`.
        """
        ...

    def first_seq(self) -> int:
        """The oldest event's place, `last_seq` + 1 if there is none."""
        ...

    def size(self) -> LogSize:
        """How large the log is."""
        ...

    def close(self) -> None:
        """Hand the log over to whoever comes next, and disconnect."""
        ...
