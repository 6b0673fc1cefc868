"""Group commit: whatever waits to be logged goes into one transaction, so that throughput does not hang on fsync."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from typing import Any, TypeVar

from .core import Learner
from .draft import Stage
from .errors import FencedError, LearnerError, LogUnavailableError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_AT_ONCE = 512
_GATHER_S = 0.05
_FEW = 100
"""While no more events than these wait to be learned nothing is gathered: what is rewarded counts the sooner."""


class GroupCommitter(threading.Thread):
    """The one thread that commits. Between commits it keeps the claim on the log, and logs default rewards.

    However many of those are due, callers are served between one part of them and the next.

    What is logged while many other events wait to be learned is learned no sooner for it. It is gathered for a moment
    then, because few large batches are learned in much less time than many small ones.

    Args:
        learner: what is committed to.
        tick_s: how often the claim is renewed.
        on_commit: called from this thread after each commit.
        on_fenced: called from this thread, as the last thing that it does, if another learner has the log now.
        on_crash: the same if anything else goes wrong that is nobody's but ours.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        tick_s: float,
        on_commit: Callable[[], None],
        on_fenced: Callable[[], None],
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__(name="committing", daemon=True)
        self._learner = learner
        self._tick_s = tick_s
        self._on_commit = on_commit
        self._on_fenced = on_fenced
        self._on_crash = on_crash
        self._waiting: deque[tuple[Stage[Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._more_defaults = False
        self.last_error: str | None = None
        """Why nothing can be written at the moment; None if it can."""

    def submit(self, stage: Stage[T]) -> Future[T]:
        """Have something logged. The future has the stage's answer once it is in the log, or what it raised."""
        future: Future[T] = Future()
        with self._changed:
            if not self._stopping:
                self._waiting.append((stage, future))
                self._changed.notify()
                return future
        future.set_exception(LogUnavailableError("the learner is stopping; send the request again"))
        return future

    def stop(self) -> None:
        """Commit what waits, then end; returns when that is done."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        """The thread's body."""
        try:
            self._commit_until_stopped()
        except FencedError as error:
            logger.error("fenced epoch=%d error=%s", self._learner.log.epoch, error)
            self._refuse_all(error)
            self._on_fenced()
        except Exception:
            # Whatever it was, nothing is logged any more; what that means is for the owner to say.
            logger.exception("committing_crashed")
            self._refuse_all(LogUnavailableError("the learner has failed; send the request again"))
            self._on_crash()

    def _refuse_all(self, error: LearnerError) -> None:
        """Leave nobody waiting, and take nothing more."""
        with self._changed:
            self._stopping = True
            left, self._waiting = list(self._waiting), deque()
        for _, future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _commit_until_stopped(self) -> None:
        next_tick_s = time.monotonic() + self._tick_s
        while (group := self._take(None if self._more_defaults else next_tick_s)) is not None:
            futures = [(stage, future) for stage, future in group if future.set_running_or_notify_cancel()]
            if futures:
                self._commit(futures)
            if time.monotonic() >= next_tick_s:
                self._tick()
                next_tick_s = time.monotonic() + self._tick_s
            elif self._more_defaults:
                self._try(self._log_defaults)

    def _take(self, until_s: float | None) -> list[tuple[Stage[Any], Future[Any]]] | None:
        """What waits now, or nothing once the time has come, None for at once; None when stopped and done."""
        with self._changed:
            while not self._waiting and not self._stopping and until_s is not None:
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            if not self._waiting:
                return None if self._stopping else []
        self._learner.backlog.wait_until_taken(_FEW, _GATHER_S)
        with self._changed:
            group = list(islice(self._waiting, _MOST_AT_ONCE))
            for _ in group:
                self._waiting.popleft()
            return group

    def _commit(self, group: list[tuple[Stage[Any], Future[Any]]]) -> None:
        try:
            answers = self._learner.commit([stage for stage, _ in group])
        except Exception as error:
            for _, future in group:
                future.set_exception(error)
            if not isinstance(error, LogUnavailableError):
                raise
            self._failed(error)
            return
        # It is no sign that the log is back: there may have been nothing to write. That the next tick tells.
        for (_, future), answer in zip(group, answers, strict=True):
            if isinstance(answer, LearnerError):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._on_commit()

    def _tick(self) -> None:
        def renew() -> None:
            self._learner.renew()
            self._log_defaults()

        if self._try(renew):
            self.last_error = None

    def _log_defaults(self) -> None:
        """A part of the default rewards that are due."""
        self._more_defaults = False
        self._more_defaults = self._learner.commit_one(self._learner.stage_default_rewards())

    def _try(self, write: Callable[[], None]) -> bool:
        """Whether it could be written."""
        try:
            write()
        except LogUnavailableError as error:
            self._failed(error)
            written = False
        else:
            written = True
        # A commit that had failed may have left events to learn.
        self._on_commit()
        return written

    def _failed(self, error: LogUnavailableError) -> None:
        if self.last_error is None:
            logger.error("log_unavailable error=%s", error)
        self.last_error = str(error)
