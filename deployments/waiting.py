"""Texts that wait for the engine, and which of them go next. Pure: no threads, no clock.

A batch begins with the oldest text, then takes those that have waited for longer than `max_overtaken_s`, in order of
arrival, and is filled with the shortest. So short texts need not wait for long ones, texts of like length share a
pass, and yet nobody starves: the oldest is in every batch, and once a text has waited for `max_overtaken_s`, none that
came after it is taken before it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from learner.tracing import Parent

Deliver = Callable[["Job", "Tensor | Exception"], None]
"""Takes a job's embedding, or why there is none, on the event loop that it came from."""

_DEAD_ENTRIES = 64


@dataclass(slots=True, eq=False)
class Job:
    """One text on its way through the engine.

    Attributes:
        text: what to embed.
        tokens: estimated, and once it is tokenized counted.
        arrived_s: when it came, in the batcher's seconds.
        loop: where to deliver.
        deliver: takes the outcome.
        asked_by: the spans of those requests for it that are traced.
        tokenized: the text as the engine reads it, None before.
        waits: whether the engine has neither taken it, nor anyone dropped it.
    """

    text: str
    tokens: int
    arrived_s: float
    loop: asyncio.AbstractEventLoop
    deliver: Deliver
    asked_by: tuple[Parent, ...] = ()
    tokenized: Any = None
    waits: bool = True


class WaitingTexts:
    """Tokenized texts in two orders, by age and by length.

    Args:
        max_overtaken_s: how long later texts may be taken before one.
    """

    def __init__(self, max_overtaken_s: float) -> None:
        self._max_overtaken_s = max_overtaken_s
        self._by_age: deque[Job] = deque()
        self._by_length: list[tuple[int, int, Job]] = []
        self._added = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Job]:
        """Those that wait, oldest first."""
        return (job for job in self._by_age if job.waits)

    def add(self, job: Job) -> None:
        """Let a text wait; texts come in order of arrival."""
        self._by_age.append(job)
        heapq.heappush(self._by_length, (job.tokens, self._added, job))
        self._added += 1
        self._count += 1

    def remove(self, job: Job) -> None:
        """Let a text that waits here no longer do so."""
        job.waits = False
        self._count -= 1
        # Removing it from the middle of either order would cost a search; what no longer waits is passed over there.
        if len(self._by_length) > 2 * self._count + _DEAD_ENTRIES:
            self._by_length = [entry for entry in self._by_length if entry[2].waits]
            heapq.heapify(self._by_length)
            self._by_age = deque(self)

    def take(self, budget: int, now_s: float) -> list[Job]:
        """The next batch: texts of at most `budget` tokens together, or one that has more.

        Args:
            budget: tokens.
            now_s: the time, by the clock of `Job.arrived_s`.
        """
        batch: list[Job] = []
        while oldest := self._oldest():
            is_overdue = now_s - oldest.arrived_s >= self._max_overtaken_s
            if batch and not is_overdue:
                break
            if batch and oldest.tokens > budget:
                return batch
            budget -= oldest.tokens
            batch.append(oldest)
            self.remove(oldest)
        while (shortest := self._shortest()) and shortest.tokens <= budget:
            budget -= shortest.tokens
            batch.append(shortest)
            self.remove(shortest)
        return batch

    def _oldest(self) -> Job | None:
        while self._by_age and not self._by_age[0].waits:
            self._by_age.popleft()
        return self._by_age[0] if self._by_age else None

    def _shortest(self) -> Job | None:
        while self._by_length and not self._by_length[0][2].waits:
            heapq.heappop(self._by_length)
        return self._by_length[0][2] if self._by_length else None
