"""A log that lives as long as its process: for first steps and tests."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .event_log import Chosen, Commit, Genesis, LogSize, Observed
from .events import Decision, Event, Outcome, Reported, RewardEvent


class MemoryEventLog:
    """See `EventLog`, for what each method means.

    What is read at length is copied first: whoever reads on in the copy keeps nobody from committing.

    Args:
        started_at_ms: the start time in ms since 1970. It is the epoch, so that replicas accept the fresh
            weights of a learner that was born again.
        max_events: the oldest events beyond this many are dropped; so are decisions.
    """

    durable = False
    last_time_s = 0.0

    def __init__(self, *, started_at_ms: int, max_events: int = 100_000) -> None:
        self.id = str(uuid.uuid4())
        self.epoch = started_at_ms
        self.last_seq = 0
        self.genesis: Genesis | None = None
        self._max = max_events
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=max_events)
        self._logged_s: dict[int, float] = {}
        self._decisions: dict[str, Decision] = {}
        self._rows: dict[str, tuple[int, float]] = {}
        self._reports: dict[str, Reported] = {}
        self._reward_ids: dict[str, Reported] = {}
        self._count = 0
        self._defaults_until = 0

    def begin(self, genesis: Genesis) -> None:
        """See `EventLog`."""
        self.genesis = genesis

    def commit(self, commit: Commit) -> None:
        """See `EventLog`."""
        with self._lock:
            for decision in commit.decisions:
                self._keep(decision, commit.at_s)
            for event in commit.events:
                self._append(event, commit.at_s)
            if commit.defaults_until is not None:
                self._defaults_until = commit.defaults_until

    def _append(self, event: Event, at_s: float) -> None:
        if event.seq != self.last_seq + 1:
            raise ValueError(f"the next event's place is {self.last_seq + 1}, got {event.seq}")
        self.last_seq = event.seq
        self._events.append(event)
        self._logged_s[event.seq] = at_s
        self._logged_s.pop(event.seq - self._max, None)
        if isinstance(event, RewardEvent):
            self._note(event, at_s)

    def _keep(self, decision: Decision, at_s: float) -> None:
        if decision.id in self._decisions:
            return
        self._count += 1
        self._decisions[decision.id] = decision
        self._rows[decision.id] = (self._count, at_s)
        self._reports[decision.id] = Reported(at_s, decision.epoch, decision.version, decision.uids, decision.hotkeys)
        while len(self._decisions) > self._max:
            self._forget(next(iter(self._decisions)))

    def _forget(self, decision_id: str) -> None:
        for known in (self._decisions, self._rows, self._reports):
            known.pop(decision_id, None)

    def _note(self, event: RewardEvent, at_s: float) -> None:
        if event.reward_id is not None:
            reported = self._reward_ids.setdefault(event.reward_id, Reported(at_s))
            while len(self._reward_ids) > self._max:
                del self._reward_ids[next(iter(self._reward_ids))]
        else:
            reported = self._reports.setdefault(str(event.decision_id), Reported(at_s))
        reported.note(event.uids, event.rewards, event.author, assumed=event.outcome is Outcome.DEFAULT)

    def refresh(self) -> None:
        """See `EventLog`."""

    def renew(self) -> None:
        """See `EventLog`."""

    def find(
        self, decision_ids: Sequence[str], reward_ids: Sequence[str]
    ) -> tuple[dict[str, Reported], dict[str, Reported]]:
        """See `EventLog`."""
        with self._lock:
            decisions = {key: _copy(self._reports[key]) for key in decision_ids if key in self._decisions}
            return decisions, {key: _copy(self._reward_ids[key]) for key in reward_ids if key in self._reward_ids}

    def embeddings(self, decision_ids: Sequence[str]) -> dict[str, NDArray[np.float16] | None]:
        """See `EventLog`."""
        with self._lock:
            return {key: self._decisions[key].embedding for key in decision_ids if key in self._decisions}

    def decision(self, decision_id: str) -> Decision | None:
        """See `EventLog`."""
        return self._decisions.get(decision_id)

    def decisions_count(self) -> int:
        """See `EventLog`."""
        return self._count

    def chosen_after(self, row: int) -> Iterator[Chosen]:
        """See `EventLog`."""
        for number, _, decision in self._received():
            if number > row:
                yield _chosen(number, decision)

    def observed(self) -> Iterator[Observed]:
        """Every decision that it still has, with its learned rewards, in the order of their arrival."""
        learned: dict[str | None, dict[int, float]] = {}
        for event in self._copied():
            if isinstance(event, RewardEvent) and event.outcome.is_learned:
                learned.setdefault(event.decision_id, {}).update(zip(event.uids, event.rewards, strict=True))
        for _, at_s, decision in self._received():
            yield Observed(decision, at_s, learned.get(decision.id, {}))

    def unrewarded(self, received_before_s: float, limit: int) -> list[Chosen]:
        """See `EventLog`."""
        due = (
            _chosen(number, decision)
            for number, at_s, decision in self._received()
            if number > self._defaults_until and at_s < received_before_s
        )
        return list(itertools.islice(due, limit))

    def batches(self, after: int, upto: int | None = None) -> Iterator[list[Event]]:
        """See `EventLog`."""
        wanted = [event for event in self._copied() if event.batch > after and (upto is None or event.batch <= upto)]
        for _, events in itertools.groupby(wanted, key=lambda event: event.batch):
            yield [self._as_logged(event) for event in events]

    def reward_events(self, seqs: Sequence[int]) -> list[RewardEvent]:
        """See `EventLog`."""
        wanted = set(seqs)
        found = (self._as_logged(event) for event in self._copied() if event.seq in wanted)
        return [event for event in found if isinstance(event, RewardEvent)]

    def reported_since(self, at_s: float, limit: int) -> list[tuple[float, RewardEvent]]:
        """See `EventLog`."""
        found: list[tuple[float, Event]] = []
        with self._lock:
            for event in reversed(self._events):
                logged_s = self._logged_s[event.seq]
                if logged_s < at_s or len(found) == limit:
                    break
                if isinstance(event, RewardEvent):
                    found.append((logged_s, event))
        wanted = [(logged_s, self._as_logged(event)) for logged_s, event in reversed(found)]
        return [(logged_s, event) for logged_s, event in wanted if isinstance(event, RewardEvent)]

    def erase_embedding(self, decision_id: str) -> bool:
        """See `EventLog`."""
        with self._lock:
            decision = self._decisions.get(decision_id)
            if decision is None:
                return False
            self._decisions[decision_id] = replace(decision, embedding=None)
            return True

    def prune(self, *, upto: int, before_s: float, keep: Sequence[int]) -> int:
        """Drop old decisions; events go by number."""
        with self._lock:
            # Times never go back in a log, so what is old comes first.
            old = list(itertools.takewhile(lambda decision_id: self._rows[decision_id][1] < before_s, self._rows))
            for decision_id in old:
                self._forget(decision_id)
        return len(old)

    def first_seq(self) -> int:
        """See `EventLog`."""
        with self._lock:
            return self._events[0].seq if self._events else self.last_seq + 1

    def size(self) -> LogSize:
        """See `EventLog`."""
        return LogSize({"events": len(self._events), "decisions": len(self._decisions)}, None)

    def close(self) -> None:
        """See `EventLog`."""

    def _copied(self) -> list[Event]:
        """The events as of now."""
        with self._lock:
            return list(self._events)

    def _received(self) -> Iterator[tuple[int, float, Decision]]:
        """The decisions as of now, in the order of their arrival, each after its row and when it arrived."""
        with self._lock:
            rows, decisions = list(self._rows.values()), list(self._decisions.values())
        for (number, at_s), decision in zip(rows, decisions, strict=True):
            yield number, at_s, decision

    def _as_logged(self, event: Event) -> Event:
        """The event with the embedding that its decision still has."""
        if not isinstance(event, RewardEvent) or event.decision_id is None:
            return event
        decision = self._decisions.get(event.decision_id)
        return event if decision is None else replace(event, embedding=decision.embedding)


def _chosen(row: int, decision: Decision) -> Chosen:
    return Chosen(row, decision.id, decision.uids, decision.hotkeys, decision.epoch, decision.version)


def _copy(reported: Reported) -> Reported:
    return Reported(
        reported.at_s,
        reported.epoch,
        reported.version,
        reported.uids,
        reported.hotkeys,
        dict(reported.rewards),
        dict(reported.authors),
        set(reported.assumed),
    )
