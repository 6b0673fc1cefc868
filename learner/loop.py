"""The learning thread: learns whatever waits, and publishes at most once an interval."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .core import Learner
from .report_traces import ReportTraces
from .state import HeadSnapshot

logger = logging.getLogger(__name__)


class LearningLoop(threading.Thread):
    """Runs a learner until it is stopped. Publishes once at the start, then whenever something was learned.

    Args:
        learner: what to run.
        publish: takes each new version; called from this thread.
        interval_s: least time between two publishes, asked anew each time.
        on_learned: called from this thread after each batch.
        on_crash: called from this thread, as the last thing that it does, if anything goes wrong.
        traces: the reports that are followed.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        publish: Callable[[HeadSnapshot], None],
        interval_s: Callable[[], float],
        on_learned: Callable[[], None],
        on_crash: Callable[[], None],
        traces: ReportTraces | None = None,
    ) -> None:
        super().__init__(name="learning", daemon=True)
        self._learner = learner
        self._publish = publish
        self._interval_s = interval_s
        self._on_learned = on_learned
        self._on_crash = on_crash
        self._traces = traces or ReportTraces()
        self._wake = threading.Event()
        self._stopping = False

    def wake(self) -> None:
        """Say that there is something to learn."""
        self._wake.set()

    def stop(self) -> None:
        """Learn and publish what waits, then end; returns when that is done."""
        self._stopping = True
        self._wake.set()
        self.join()

    def run(self) -> None:
        """The thread's body."""
        try:
            self._learn_until_stopped()
        except Exception:
            # Whatever it was, nothing is learned any more; what that means is for the owner to say.
            logger.exception("learning_crashed version=%d", self._learner.version)
            self._on_crash()

    def _learn_until_stopped(self) -> None:
        self._publish(self._learner.snapshot())
        published, published_at = self._learner.version, time.monotonic()
        while True:
            started_ns = time.time_ns()
            if self._learner.learn():
                self._traces.learned(self._learner.version, started_ns)
                self._on_learned()
            unpublished = self._learner.version != published
            due_in_s = published_at + self._interval_s() - time.monotonic()
            if unpublished and (due_in_s <= 0 or (self._stopping and not self._learner.has_work)):
                started_ns = time.time_ns()
                self._publish(self._learner.snapshot())
                published, published_at = self._learner.version, time.monotonic()
                self._traces.published(published, started_ns)
            elif self._stopping and not self._learner.has_work:
                return
            elif not self._learner.has_work:
                self._wake.wait(due_in_s if unpublished else None)
                self._wake.clear()
