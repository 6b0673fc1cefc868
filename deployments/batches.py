"""What the engine's batches were like: how many tokens they had and how long they took."""

from __future__ import annotations

from collections import deque

_UNREPORTED = 4096


class Batches:
    """Noted under a lock of the caller's, read by any thread.

    Attributes:
        seconds: that all engine threads together have computed.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._unreported: deque[tuple[int, float]] = deque(maxlen=_UNREPORTED)

    def note(self, tokens: int, seconds: float) -> None:
        """A batch of that many tokens took so long."""
        self.seconds += seconds
        self._unreported.append((tokens, seconds))

    def take_unreported(self) -> list[tuple[int, float]]:
        """Tokens and seconds of the batches since the last call, of the last 4,096 at most."""
        return [self._unreported.popleft() for _ in range(len(self._unreported))]
