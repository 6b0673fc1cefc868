"""Waking coroutines from threads: the learner's thread learns and publishes, coroutines wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


class Signal:
    """Tells everyone who waits that something changed, on whatever event loop they wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def notify(self) -> None:
        """Wake everyone who waits; callable from any thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for future, loop in waiting.items():
            # Nobody waits on a loop that was closed since.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_complete, future)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds, looking again at every notification.

        Returns:
            Whether it held before the time was up.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            future: asyncio.Future[None] = loop.create_future()
            # In this order, so that a notification between the two is not missed.
            with self._lock:
                self._waiting[future] = loop
            try:
                if condition():
                    return True
                async with asyncio.timeout_at(deadline_s):
                    await future
            except TimeoutError:
                return condition()
            finally:
                with self._lock:
                    self._waiting.pop(future, None)


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
