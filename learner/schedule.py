"""When a source is looked at: decisions only, with the time and the chance given from outside."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

BLOCK_S = 12.0
"""About how long a block takes: nothing is new on the chain before."""
FIRST_DELAY_S = 1.0
"""Longest time from the first failure to the next try; it doubles with every further one."""
LONGEST_DELAY_S = 60.0
"""Longest time from a failure to the next try."""


class Step(Enum):
    """What to do now."""

    WAIT = "wait"
    LOOK = "look"
    FETCH = "fetch"


class Backoff:
    """How long to wait after a failure: 1 s, doubled each time up to 60 s, of which chance takes up to a half.

    Args:
        chance: a number in [0, 1), so that many learners do not all come back at once.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self.failures = 0

    def succeeded(self) -> None:
        """Start anew."""
        self.failures = 0

    def failed(self) -> float:
        """How long to wait now, in seconds."""
        # Beyond 2**10 the longest delay has long been reached; a float overflows at 2**1024.
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self.failures, 10))
        self.failures += 1
        return delay_s * (0.5 + 0.5 * self._chance())


class FollowSchedule:
    """When to look for a new block, and when to fetch.

    Without an interval nothing is ever due by itself.

    Args:
        interval_blocks: fetch again when the chain is this many blocks further; it is looked at once a block.
        interval_s: fetch again after this long.
        chance: see `Backoff`.
    """

    def __init__(
        self, *, interval_blocks: int | None = None, interval_s: float | None = None, chance: Callable[[], float]
    ) -> None:
        self._interval_blocks = interval_blocks
        self._interval_s = interval_s
        self._backoff = Backoff(chance)
        self._block = 0
        self._next = Step.WAIT
        self._at_s = 0.0

    def step(self, now_s: float) -> Step:
        """What to do now."""
        return self._next if now_s >= self._at_s else Step.WAIT

    def due_in_s(self, now_s: float) -> float | None:
        """How long there is nothing to do; None if that is until something else happens."""
        return None if self._next is Step.WAIT else max(0.0, self._at_s - now_s)

    def fetched(self, now_s: float, block: int) -> None:
        """The view of `block` is in use."""
        self._block = block
        self._backoff.succeeded()
        if self._interval_s is not None:
            self._plan(Step.FETCH, now_s + self._interval_s)
        elif self._interval_blocks is not None:
            self._plan(Step.LOOK, now_s + BLOCK_S)
        else:
            self._plan(Step.WAIT, now_s)

    def looked(self, now_s: float, block: int) -> None:
        """The chain is at `block`."""
        if self._interval_blocks is not None and block >= self._block + self._interval_blocks:
            self._plan(Step.FETCH, now_s)
        else:
            self._plan(Step.LOOK, now_s + BLOCK_S)

    def failed(self, now_s: float) -> None:
        """Looking or fetching failed. What nothing is ever due for is not tried again either."""
        if self._interval_s is not None or self._interval_blocks is not None:
            self._plan(Step.FETCH, now_s + self._backoff.failed())

    def _plan(self, step: Step, at_s: float) -> None:
        self._next, self._at_s = step, at_s
