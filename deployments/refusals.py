"""Requests that the service could not take, in the log: at most a line a second for each reason, with how many."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from .errors import Problem

logger = logging.getLogger(__name__)

_STATUSES = (429, 503)
_EVERY_S = 1.0


class Refusals:
    """Logs refusals for which the service is the reason; what is wrong with a request is told to its caller alone.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._unlogged: Counter[str] = Counter()
        self._next_s: dict[str, float] = {}

    def note(self, problem: Problem) -> None:
        """Count a problem that is about to be answered."""
        if problem.status not in _STATUSES:
            return
        code = problem.code
        self._unlogged[code] += 1
        now_s = self._clock()
        if now_s < self._next_s.get(code, now_s):
            return
        self._next_s[code] = now_s + _EVERY_S
        count = self._unlogged.pop(code)
        logger.warning(
            "refused_requests code=%s status=%d count=%d detail=%s", code, problem.status, count, problem.detail
        )
