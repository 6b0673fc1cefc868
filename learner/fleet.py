"""The replicas of an application, by what each last told the learner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from .events import split_decision_id
from .protocol import ReplicaStatus

_LIVE_HEARTBEATS = 3


class Fleet:
    """Who polls, and what it said of itself. A replica that was not heard of for three heartbeats is gone.

    Args:
        heartbeat_s: how often a replica polls, at least.
        clock: seconds that only go forward.
    """

    def __init__(self, heartbeat_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = _LIVE_HEARTBEATS * heartbeat_s
        self._clock = clock
        self._told: dict[str, tuple[float, ReplicaStatus]] = {}
        self._started_s = self.last_poll_s = clock()

    def __len__(self) -> int:
        return len(self._told)

    def note(self, status: ReplicaStatus) -> None:
        """A replica polls. Called from one thread; forgets who is gone."""
        self.last_poll_s = self._clock()
        oldest_s = self.last_poll_s - self._patience_s
        for key in [key for key, (at_s, _) in self._told.items() if at_s < oldest_s]:
            del self._told[key]
        self._told[status.id] = (self.last_poll_s, status)

    def live(self) -> list[tuple[float, ReplicaStatus]]:
        """Who is there, with the time at which it polled. The learner's calls run in several threads."""
        oldest_s = self._clock() - self._patience_s
        return [entry for entry in list(self._told.values()) if entry[0] >= oldest_s]

    def told_lately(self) -> list[ReplicaStatus]:
        """What those who are there have told."""
        return [status for _, status in self.live()]

    def expected(self, decision_ids: Iterable[str], asked: int, *, takes_over: bool) -> set[str]:
        """Which of these decisions, none of which has come, may be on their way. A replica sends its own in order.

        Args:
            decision_ids: which.
            asked: from this `PollReply.asked` on, what a replica tells is of after somebody asked for the decisions.
                The time at which it was heard would not do: it may have been on its way for long.
            takes_over: whether there was another learner before this one, which replicas may still talk to.
        """
        told = {status.incarnation: status for status in self.told_lately()}
        of_strangers = takes_over and self._clock() < self._started_s + self._patience_s
        expected = set()
        for decision_id in decision_ids:
            incarnation, counter = split_decision_id(decision_id)
            status = told.get(incarnation)
            may_come = of_strangers if status is None else _may_send(status, counter, asked)
            if may_come:
                expected.add(decision_id)
        return expected


def _may_send(status: ReplicaStatus, counter: int, asked: int) -> bool:
    is_made = counter <= status.issued or status.asked < asked
    return is_made and counter > status.issued - status.buffered_decisions
