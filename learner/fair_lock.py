"""A lock for threads of which one hardly ever lets go of it."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A lock that is had in the order in which it was asked for.

    With `threading.Lock`, a thread that takes the lock again as soon as it has released it, as one that learns batch
    after batch does, may keep others waiting for as long as it is busy.
    """

    def __init__(self) -> None:
        self._inner = threading.Lock()
        self._held = False
        self._queue: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._inner:
            if not self._held:
                self._held = True
                return
            my_turn = threading.Lock()
            my_turn.acquire()
            self._queue.append(my_turn)
        my_turn.acquire()

    def __exit__(self, *_exc_info: object) -> None:
        with self._inner:
            if self._queue:
                # It stays held, by the next.
                self._queue.popleft().release()
            else:
                self._held = False
