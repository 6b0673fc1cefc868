"""A real log whose commits can be made to fail, as those of a database do."""

from __future__ import annotations

from typing import Literal

from learner.errors import FencedError, LogUnavailableError
from learner.event_log import Commit
from learner.memory_log import MemoryEventLog

from .builders import EPOCH


class FlakyLog:
    """A log in memory behind a line that breaks.

    `fail_next` breaks it in the next commit, `before` or `after` that is written; `down` lets nothing through, and
    `fenced` refuses to write. What `last_seq` says is as of the last commit that succeeded, or refresh.
    """

    def __init__(self, inner: MemoryEventLog | None = None) -> None:
        self.inner = inner or MemoryEventLog(started_at_ms=EPOCH)
        self.fail_next: Literal["before", "after"] | None = None
        self.down = False
        self.fenced = False
        self.commits = 0
        self.refreshes = 0
        self.last_seq = self.inner.last_seq

    def __getattr__(self, name):
        part = getattr(self.inner, name)
        if not callable(part):
            return part

        def through_the_line(*args, **kwargs):
            self._check_line()
            return part(*args, **kwargs)

        return through_the_line

    def _check_line(self):
        if self.down:
            raise LogUnavailableError("the line is down")

    def commit(self, commit: Commit) -> None:
        self._check_line()
        if self.fenced:
            raise FencedError("another learner has the log")
        fail, self.fail_next = self.fail_next, None
        if fail == "before":
            raise LogUnavailableError("the line broke before anything was written")
        self.inner.commit(commit)
        self.commits += 1
        if fail == "after":
            raise LogUnavailableError("the line broke before the answer came")
        self.last_seq = self.inner.last_seq

    def refresh(self) -> None:
        self._check_line()
        self.refreshes += 1
        self.last_seq = self.inner.last_seq

    def renew(self) -> None:
        self._check_line()
        if self.fenced:
            raise FencedError("another learner has the log")
