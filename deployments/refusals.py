"""Requests that the service did not take, in the log: at most a line a second for each reason, with how many."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from .errors import Problem

logger = logging.getLogger(__name__)

_STATUSES = (429, 500, 503)
_EVERY_S = 1.0


class Seldom:
    """Says when what happens often may be logged: at once, and then once a second.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._unlogged: Counter[str] = Counter()
        self._next_s: dict[str, float] = {}

    def count(self, what: str) -> int:
        """It has happened: how often since it was last to be logged, 0 if it is not to be logged now."""
        self._unlogged[what] += 1
        now_s = self._clock()
        if now_s < self._next_s.get(what, now_s):
            return 0
        self._next_s[what] = now_s + _EVERY_S
        return self._unlogged.pop(what)


class Refusals:
    """Logs refusals for which the service is the reason; what is wrong with a request is told to its caller alone.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._seldom = Seldom(clock)

    def note(self, problem: Problem) -> None:
        """Count a problem that is about to be answered."""
        if problem.status not in _STATUSES:
            return
        code = problem.code
        count = self._seldom.count(code)
        if count:
            logger.warning(
                "refused_requests code=%s status=%d count=%d detail=%s", code, problem.status, count, problem.detail
            )
