"""What is in the log and waits to be learned."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import groupby

from .events import Event


class Backlog:
    """Batches of events, in the order of the log: one thread adds them, another takes them.

    The lock is its own, so that the thread that learns never waits for one that is busy with a commit.

    Args:
        until: the last sequence number that has been learned already.

    Attributes:
        until: the last sequence number that was added.
    """

    def __init__(self, until: int) -> None:
        self.until = until
        self._changed = threading.Condition()
        self._batches: deque[list[Event]] = deque()
        self._events = 0

    def __len__(self) -> int:
        """How many events wait."""
        return self._events

    def add(self, events: Sequence[Event]) -> None:
        """Events that are in the log now, each with its place and its batch."""
        batches = [list(batch) for _, batch in groupby(events, key=lambda event: event.batch)]
        with self._changed:
            self._batches.extend(batches)
            self._events += len(events)
            self.until += len(events)

    def take(self) -> list[Event] | None:
        """The next batch to learn, None if there is none."""
        with self._changed:
            if not self._batches:
                return None
            batch = self._batches.popleft()
            self._events -= len(batch)
            self._changed.notify_all()
            return batch

    def wait_until_taken(self, but: int, at_most_s: float) -> None:
        """Wait until all that waits has been taken but for so many events, and no longer than that."""
        with self._changed:
            self._changed.wait_for(lambda: self._events <= but, at_most_s)
