"""The replicas of an application, by what each last told the learner."""

from __future__ import annotations

import time
from collections.abc import Callable

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
        """A replica polls."""
        self.last_poll_s = self._clock()
        self._told[status.id] = (self.last_poll_s, status)

    def live(self) -> list[tuple[float, ReplicaStatus]]:
        """Who is there, with the time at which it polled; forgets who is gone. Called by the learner's calls only."""
        oldest_s = self._clock() - self._patience_s
        self._told = {key: entry for key, entry in self._told.items() if entry[0] >= oldest_s}
        return list(self._told.values())

    def told_lately(self) -> list[ReplicaStatus]:
        """What those who are there have told; for a thread of its own, and so changes nothing."""
        oldest_s = self._clock() - self._patience_s
        return [status for at_s, status in list(self._told.values()) if at_s >= oldest_s]

    def incarnations(self, *, takes_over: bool) -> list[str] | None:
        """Whose decisions may still be on their way; None: whose, a learner that takes over cannot know yet."""
        if takes_over and self._clock() < self._started_s + self._patience_s:
            return None
        return [status.incarnation for _, status in self.live()]
