"""Following a report of rewards through the learner: log -> learn -> publish, each a span within the one before.

The three happen in three threads, for many reports at a time. What leads from one to the next is the place in the log:
a version has learned everything up to its own number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .draft import Draft, Stage
from .protocol import RewardReport
from .tracing import NO_TRACER, Carried, Parent, Tracer

Follow = Callable[[Stage[RewardReport]], Stage[RewardReport]]


class ReportTraces:
    """The reports that are on their way from the log to a published version, of those that are traced.

    Args:
        tracer: where the spans go.
    """

    def __init__(self, tracer: Tracer = NO_TRACER) -> None:
        self._tracer = tracer
        self._lock = threading.Lock()
        self._logged: list[tuple[int, Parent]] = []
        self._learned: list[tuple[int, Parent]] = []
        self._published = (-1, 0)

    @contextmanager
    def logging(self, carried: Carried | None) -> Iterator[Follow]:
        """A report is logged while the body runs.

        Args:
            carried: the span of whoever reports, None where it is not traced.

        Yields:
            What the report's stage must go through, so that its place in the log is known before it is learned.
        """
        parent = None if carried is None else self._tracer.resume(carried)
        if parent is None:
            yield _untraced
            return
        with self._tracer.span("tidegate.log", parent=parent) as span:
            # What goes on is this very span: asked for here, on the caller's side of the threads.
            here = self._tracer.current()

            def follow(stage: Stage[RewardReport]) -> Stage[RewardReport]:
                def traced(draft: Draft) -> RewardReport:
                    report = stage(draft)
                    span.tell(seq=report.seq, accepted=report.accepted, duplicates=report.duplicates)
                    if here is not None and report.accepted:
                        with self._lock:
                            self._logged.append((report.seq, here))
                    return report

                return traced

            try:
                yield follow
            except BaseException:
                # Its place in the log may yet become another's.
                with self._lock:
                    self._logged = [entry for entry in self._logged if entry[1] is not here]
                raise

    def learned(self, version: int, started_ns: int) -> None:
        """Everything up to `version` has been learned, the last of it since `started_ns`. For the learning thread."""
        if not self._logged:
            return
        with self._lock:
            done = [span for seq, span in self._logged if seq <= version]
            self._logged = [entry for entry in self._logged if entry[0] > version]
            for span in done:
                learned = self._tracer.record("tidegate.learn", parent=span, started_ns=started_ns, version=version)
                self._learned.append((version, learned))
            self._tell_published()

    def published(self, version: int, started_ns: int) -> None:
        """What was learned has been published as `version`, since `started_ns`. For the publishing thread."""
        with self._lock:
            self._published = (version, started_ns)
            self._tell_published()

    def _tell_published(self) -> None:
        """The publishing thread may be done with a version before the learning thread has told of it, or after that."""
        version, started_ns = self._published
        for learned, span in self._learned:
            if learned <= version:
                self._tracer.record("tidegate.publish", parent=span, started_ns=started_ns, version=version)
        self._learned = [entry for entry in self._learned if entry[0] > version]

    def close(self) -> None:
        """Hand over what was not exported yet."""
        self._tracer.flush()


def _untraced(stage: Stage[RewardReport]) -> Stage[RewardReport]:
    return stage
