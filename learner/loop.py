"""The learning thread: learns whatever waits, and publishes at most once an interval."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from .core import Learner
from .state import HeadSnapshot

logger = logging.getLogger(__name__)

_UNREPORTED = 4096


class LearningLoop(threading.Thread):
    """Runs a learner until it is stopped. Publishes once at the start, then whenever something was learned.

    Args:
        learner: what to run.
        publish: takes each new version; called from this thread.
        interval_s: least time between two publishes, asked anew each time.
        on_learned: called from this thread after each batch.
        on_crash: called from this thread, as the last thing that it does, if anything goes wrong.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        publish: Callable[[HeadSnapshot], None],
        interval_s: Callable[[], float],
        on_learned: Callable[[], None],
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__(name="learning", daemon=True)
        self._learner = learner
        self._publish = publish
        self._interval_s = interval_s
        self._on_learned = on_learned
        self._on_crash = on_crash
        self._wake = threading.Event()
        self._stopping = False
        self._durations_s: deque[float] = deque(maxlen=_UNREPORTED)

    def wake(self) -> None:
        """Say that there is something to learn."""
        self._wake.set()

    def stop(self) -> None:
        """Learn and publish what waits, then end; returns when that is done."""
        self._stopping = True
        self._wake.set()
        self.join()

    def take_durations_s(self) -> list[float]:
        """How long it took to publish each time since the last call, of the last 4,096 times at most."""
        return [self._durations_s.popleft() for _ in range(len(self._durations_s))]

    def run(self) -> None:
        """The thread's body."""
        try:
            self._learn_until_stopped()
        except Exception:
            # Whatever it was, nothing is learned any more; what that means is for the owner to say.
            logger.exception("learning_crashed version=%d", self._learner.version)
            self._on_crash()

    def _learn_until_stopped(self) -> None:
        published, published_at = self._publish_now()
        while True:
            if self._learner.learn():
                self._on_learned()
            unpublished = self._learner.version != published
            due_in_s = published_at + self._interval_s() - time.monotonic()
            if unpublished and (due_in_s <= 0 or (self._stopping and not self._learner.has_work)):
                published, published_at = self._publish_now()
            elif self._stopping and not self._learner.has_work:
                return
            elif not self._learner.has_work:
                self._wake.wait(due_in_s if unpublished else None)
                self._wake.clear()

    def _publish_now(self) -> tuple[int, float]:
        """Publish what was learned; which version that is, and when it was done."""
        started_s = time.monotonic()
        self._publish(self._learner.snapshot())
        done_s = time.monotonic()
        self._durations_s.append(done_s - started_s)
        return self._learner.version, done_s
