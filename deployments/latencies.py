"""How long texts take, by length: a mean over all would hide what happens to the few long ones."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

LENGTHS = {"short": 64, "medium": 256, "long": None}
"""Classes of texts, and the most tokens of each."""
_KEPT = 1024
_UNREPORTED = 4096
_REFRESH_S = 1.0


class Latencies:
    """Waiting and total times of the last texts of each class. Noted under a lock of the caller's, read by any thread.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, deque[tuple[float, float]]] = {name: deque(maxlen=_KEPT) for name in LENGTHS}
        self._counts = dict.fromkeys(LENGTHS, 0)
        self._unreported: deque[tuple[str, float, float]] = deque(maxlen=_UNREPORTED)
        self._described: dict[str, Any] = {}
        self._described_s = -_REFRESH_S

    def note(self, tokens: int, wait_s: float, total_s: float) -> None:
        """A text of that many tokens began to be computed after `wait_s`, and was done after `total_s`."""
        name = length_class(tokens)
        self._last[name].append((wait_s, total_s))
        self._counts[name] += 1
        self._unreported.append((name, wait_s, total_s))

    def take_unreported(self) -> list[tuple[str, float, float]]:
        """Class, and seconds of waiting and in all, of the texts since the last call, of the last 4,096 at most."""
        return [self._unreported.popleft() for _ in range(len(self._unreported))]

    def describe(self) -> dict[str, Any]:
        """By class: how many texts there were; of the last 1,024 the p50 and p99 of waiting and in all, in ms.

        A second old at most.
        """
        now_s = self._clock()
        if now_s - self._described_s >= _REFRESH_S:
            self._described_s = now_s
            self._described = {name: self._describe(name) for name in LENGTHS}
        return self._described

    def _describe(self, name: str) -> dict[str, Any]:
        last = list(self._last[name])
        if not last:
            return {"texts": 0, "wait_p50": None, "wait_p99": None, "p50": None, "p99": None}
        (wait_p50, p50), (wait_p99, p99) = np.quantile(np.array(last) * 1000, (0.5, 0.99), axis=0).round(3).tolist()
        return {"texts": self._counts[name], "wait_p50": wait_p50, "wait_p99": wait_p99, "p50": p50, "p99": p99}


def length_class(tokens: int) -> str:
    """The class of a text with that many tokens."""
    return next(name for name, most in LENGTHS.items() if most is None or tokens <= most)
