"""Which signed requests were seen before. Pure: the clock is given.

A nonce is the time of signing, in ns since 1970. What is forgotten (too old, or too many of one hotkey) raises
that hotkey's floor, and nothing at or below the floor is taken: forgetting never lets a replay through.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

NonceVerdict = Literal["fresh", "seen", "stale", "unsettled"]
"""`fresh`: never seen, and taken. `seen`: a replay. `stale`: at or below the floor. `unsettled`: it may have been
taken before the start, by a caller whose clock is ahead; sign again."""

RETENTION_S = 600.0
MAX_NONCES_PER_HOTKEY = 100_000
_NS = 1_000_000_000


@dataclass(slots=True)
class _Seen:
    floor_ns: int
    nonces: set[int] = field(default_factory=set)
    oldest_first: list[int] = field(default_factory=list)

    def forget_oldest(self) -> None:
        nonce_ns = heapq.heappop(self.oldest_first)
        self.nonces.discard(nonce_ns)
        self.floor_ns = max(self.floor_ns, nonce_ns)


class NonceStore:
    """Takes each (hotkey, nonce) at most once.

    Args:
        clock_ns: the time in ns since 1970.
        started_ns: nothing signed before it is taken: an earlier store may have taken it.
        retention_s: how long nonces are kept. Longer than a request stays valid.
        capacity: how many nonces are kept of one hotkey. Whoever sends more refuses only itself.
    """

    def __init__(
        self,
        *,
        clock_ns: Callable[[], int],
        started_ns: int,
        retention_s: float = RETENTION_S,
        capacity: int = MAX_NONCES_PER_HOTKEY,
    ) -> None:
        self._clock_ns = clock_ns
        self._started_ns = started_ns
        # Of all hotkeys; it stays up also when the clock is set back.
        self._floor_ns = started_ns
        self._retention_ns = int(retention_s * _NS)
        self._capacity = capacity
        self._seen: dict[str, _Seen] = {}
        self._swept_ns = clock_ns()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(len(seen.nonces) for seen in self._seen.values())

    def take(self, hotkey: str, nonce_ns: int, skew_s: float = 0.0) -> NonceVerdict:
        """Take a nonce unless it was, or may have been, taken before.

        Args:
            hotkey: whose it is. Only those of known callers, since each takes memory.
            nonce_ns: the time of signing.
            skew_s: how far a caller's clock may be ahead.
        """
        with self._lock:
            now_ns = self._clock_ns()
            self._sweep(now_ns)
            if nonce_ns <= max(self._floor_ns, now_ns - self._retention_ns):
                return "stale"
            if nonce_ns <= self._started_ns + int(skew_s * _NS):
                return "unsettled"
            seen = self._seen.setdefault(hotkey, _Seen(floor_ns=0))
            if nonce_ns in seen.nonces:
                return "seen"
            if nonce_ns <= seen.floor_ns:
                return "stale"
            seen.nonces.add(nonce_ns)
            heapq.heappush(seen.oldest_first, nonce_ns)
            if len(seen.nonces) > self._capacity:
                seen.forget_oldest()
            return "fresh"

    def _sweep(self, now_ns: int) -> None:
        """Now and then, forget what is past its retention, and whole hotkeys of which nothing is left."""
        if now_ns - self._swept_ns < self._retention_ns // 4:
            return
        self._swept_ns = now_ns
        self._floor_ns = max(self._floor_ns, now_ns - self._retention_ns)
        for seen in self._seen.values():
            while seen.oldest_first and seen.oldest_first[0] <= self._floor_ns:
                seen.forget_oldest()
        self._seen = {hotkey: seen for hotkey, seen in self._seen.items() if seen.nonces}
