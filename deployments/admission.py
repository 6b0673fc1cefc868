"""Whether a request may join the queue: by how long it would wait, at the speed that was measured."""

from __future__ import annotations

import math
from collections import Counter

_NEWEST = 0.2
"""How much the newest batch counts in the speed."""
_TELLING = 0.25
"""A batch tells the speed under load if it fills this much of the budget: below that, what a pass costs before its
first token counts for too much."""


class QueueFullError(Exception):
    """The request would wait for too long, or the queue has no room for it.

    Args:
        text: why.
        retry_after_s: when it would be let in, if nothing else comes.
    """

    def __init__(self, text: str, retry_after_s: int) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Speed:
    """Tokens per second that the engine does under load, as an exponentially weighted mean over batches.

    Idle time and the small batches of a quiet service leave it as it is.

    Attributes:
        tokens_per_s: None before the first batch.
    """

    def __init__(self) -> None:
        self.tokens_per_s: float | None = None

    def note(self, tokens: int, seconds: float, *, budget: int) -> None:
        """Learn from a batch.

        Args:
            tokens: of its texts.
            seconds: how long the engine took.
            budget: tokens that it could have had.
        """
        measured = tokens / max(seconds, 1e-6)
        if self.tokens_per_s is None:
            self.tokens_per_s = measured
        elif tokens >= _TELLING * budget:
            self.tokens_per_s += _NEWEST * (measured - self.tokens_per_s)


class Admission:
    """Bounds what waits, in time and in tokens. Only what waits already counts, so large requests fare as small ones.

    Args:
        max_delay_s: requests that would wait for longer are refused.
        max_tokens: so are those that come while this many wait, which bounds memory: by one request more.

    Attributes:
        refused: requests that were not let in, by what they would have exceeded, `delay` or `tokens`.
    """

    def __init__(self, *, max_delay_s: float, max_tokens: int) -> None:
        self._max_delay_s = max_delay_s
        self._max_tokens = max_tokens
        self.refused: Counter[str] = Counter()

    def delay_limit_s(self, tokens_per_s: float | None) -> float:
        """The delay from which on nothing is let in, by whichever of the bounds is the narrower at that speed."""
        return self._max_delay_s if tokens_per_s is None else min(self._max_delay_s, self._max_tokens / tokens_per_s)

    def check(self, queued: int, in_work: float, tokens_per_s: float | None) -> None:
        """Let a request in, or not; if nothing waits, whatever the engine is at: it shall not run dry.

        Args:
            queued: tokens that wait.
            in_work: those that are left of the batches in work: of a long text far more than of a batch of many.
            tokens_per_s: the engine's speed, None if not known yet.

        Raises:
            QueueFullError: it is not let in.
        """
        too_slow = 0.0 if tokens_per_s is None else queued + in_work - self._max_delay_s * tokens_per_s
        # There is room again once fewer wait: hence the one.
        too_many = queued + 1 - self._max_tokens
        if queued == 0 or (too_slow <= 0 and too_many <= 0):
            return
        reason = f"; with {self._max_tokens} the queue is full"
        if tokens_per_s is not None and too_slow > 0:
            work_s = (queued + in_work) / tokens_per_s
            reason = f", {work_s:.1f} s of work with what it does now; {self._max_delay_s:g} s are allowed"
        self.refused["delay" if too_slow > 0 else "tokens"] += 1
        # What waits gets less only as batches begin, the next one once those in work are done.
        too_much = max(too_slow, too_many + in_work if too_many > 0 else 0)
        retry_after_s = 1 if tokens_per_s is None else math.ceil(too_much / tokens_per_s)
        raise QueueFullError(f"{queued} tokens wait for the engine{reason}", max(retry_after_s, 1))
