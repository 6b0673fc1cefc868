"""The threads that learn and publish: one learns whatever waits, the other publishes it, at most once an interval."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from .core import Learner
from .report_traces import ReportTraces
from .state import HeadSnapshot

logger = logging.getLogger(__name__)

_UNREPORTED = 4096


class _Thread(threading.Thread, ABC):
    """A thread that is woken and stopped by others.

    Args:
        name: the thread's.
        learner: what it works on.
        on_crash: called from this thread, as the last thing that it does, if anything goes wrong.
    """

    def __init__(self, name: str, learner: Learner, on_crash: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._learner = learner
        self._on_crash = on_crash
        self._wake = threading.Event()
        self._stopping = False

    def wake(self) -> None:
        """Say that there is something to do."""
        self._wake.set()

    def stop(self) -> None:
        """Do what waits, then end; returns when that is done."""
        self._stopping = True
        self._wake.set()
        self.join()

    def run(self) -> None:
        """The thread's body."""
        try:
            self._work_until_stopped()
        except Exception:
            # Whatever it was, nothing is done any more; what that means is for the owner to say.
            logger.exception("%s_crashed version=%d", self.name, self._learner.version)
            self._on_crash()

    @abstractmethod
    def _work_until_stopped(self) -> None: ...

    def _sleep(self, at_most_s: float | None) -> None:
        self._wake.wait(at_most_s)
        self._wake.clear()


class LearningLoop(_Thread):
    """Learns until it is stopped.

    Args:
        learner: what to run.
        on_learned: called from this thread after each batch.
        on_crash: called from this thread, as the last thing that it does, if anything goes wrong.
        traces: the reports that are followed.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        on_learned: Callable[[], None],
        on_crash: Callable[[], None],
        traces: ReportTraces | None = None,
    ) -> None:
        super().__init__("learning", learner, on_crash)
        self._on_learned = on_learned
        self._traces = traces or ReportTraces()

    def _work_until_stopped(self) -> None:
        while True:
            started_ns = time.time_ns()
            if self._learner.learn():
                self._traces.learned(self._learner.version, started_ns)
                self._on_learned()
            elif self._stopping and not self._learner.has_work:
                return
            elif not self._learner.has_work:
                self._sleep(None)


class Publisher(_Thread):
    """Publishes once at the start, then whenever it is woken and there is a newer version.

    Working the weights out takes long where there are many uids, and is no business of the learning thread.

    Args:
        learner: what is published.
        publish: takes each new version; called from this thread.
        interval_s: least time between two publishes, asked anew each time.
        on_crash: called from this thread, as the last thing that it does, if anything goes wrong.
        traces: the reports that are followed.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        publish: Callable[[HeadSnapshot], None],
        interval_s: Callable[[], float],
        on_crash: Callable[[], None],
        traces: ReportTraces | None = None,
    ) -> None:
        super().__init__("publishing", learner, on_crash)
        self._publish = publish
        self._interval_s = interval_s
        self._traces = traces or ReportTraces()
        self._durations_s: deque[float] = deque(maxlen=_UNREPORTED)

    def take_durations_s(self) -> list[float]:
        """How long it took to publish each time since the last call, of the last 4,096 times at most."""
        return [self._durations_s.popleft() for _ in range(len(self._durations_s))]

    def _work_until_stopped(self) -> None:
        published = self._publish_newest()
        published_at = time.monotonic()
        while True:
            # Asked before the version: what is learned after that is published by whoever stops later.
            stopping = self._stopping
            if self._learner.version == published:
                if stopping:
                    return
                self._sleep(None)
                continue
            due_in_s = published_at + self._interval_s() - time.monotonic()
            if due_in_s > 0 and not stopping:
                self._sleep(due_in_s)
                continue
            published = self._publish_newest()
            published_at = time.monotonic()

    def _publish_newest(self) -> int:
        started_s, started_ns = time.monotonic(), time.time_ns()
        snapshot = self._learner.snapshot()
        self._publish(snapshot)
        self._durations_s.append(time.monotonic() - started_s)
        self._traces.published(snapshot.version, started_ns)
        return snapshot.version
