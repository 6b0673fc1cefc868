"""Following the network while the learner runs: a thread that reads the source when the schedule says so."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from gating.metagraph import MetagraphView

from .chain import MetagraphSource
from .config import BittensorChain, ChainConfig
from .core import ResyncSummary
from .errors import ChainUnavailableError, LearnerError, StaleViewError
from .schedule import BLOCK_S, Backoff, FollowSchedule, Step

logger = logging.getLogger(__name__)

Resync = Callable[[MetagraphView, str | None], ResyncSummary]
"""Takes a view, and who asked for it: None where it was due by itself."""


class ChainFollower:
    """Keeps the learner's view of the network fresh. The last good view stays in use whatever happens.

    Args:
        source: what is read, one call at a time.
        schedule: when.
        on_crash: called from the thread, as the last thing that it does, if following the network goes wrong in a
            way that is nobody's but ours.
        clock: seconds on a clock that never goes back.
        sleep: waits that long, in seconds.
    """

    def __init__(
        self,
        source: MetagraphSource,
        schedule: FollowSchedule,
        *,
        on_crash: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._source = source
        self._schedule = schedule
        self._on_crash = on_crash
        self._clock = clock
        self._sleep = sleep
        self._resync: Resync | None = None
        # Held while the source is read and the learner follows, so that views reach it in the order of reading.
        self._reading = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="following", daemon=True)
        self._counts: Counter[str] = Counter()
        self._last_error: str | None = None
        self._last_cause: str | None = None
        self._good: tuple[int, float] | None = None

    def first_view(self, patience_s: float) -> MetagraphView:
        """Read the network for the first time, trying again while no node answers.

        Args:
            patience_s: how long to go on trying.

        Raises:
            LearnerError: it cannot be read; what is not for want of an answer is not tried again.
        """
        deadline_s = self._clock() + patience_s
        backoff = Backoff(random.random)
        while True:
            try:
                with self._reading:
                    view = self._source.fetch_view()
                    self._succeeded(view.block)
                    return view
            except ChainUnavailableError as error:
                self._failed(error)
                delay_s = backoff.failed()
                if self._clock() + delay_s >= deadline_s:
                    raise
                self._sleep(delay_s)

    def start(self, resync: Resync) -> None:
        """Follow from now on.

        Args:
            resync: takes each view that is read, and raises StaleViewError for one that is too old.
        """
        self._resync = resync
        self._thread.start()

    def stop(self) -> None:
        """Stop following; returns when that is done."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._reading:
            self._source.close()

    def refresh(self, author: str) -> ResyncSummary:
        """Read the network now, because `author` asked for it, and follow it.

        Raises:
            LearnerError: it cannot be read or is older than what is in use; nothing was changed.
        """
        try:
            return self._follow(author)
        finally:
            # The schedule has changed.
            self._wake.set()

    def describe(self) -> dict[str, Any]:
        """What is read, when it was last read well, and what went wrong since, for `/v1/state`."""
        good = self._good
        return {
            **self._source.describe(),
            "block": good[0] if good else None,
            "block_age_s": round(self._clock() - good[1], 3) if good else None,
            "last_error": self._last_error,
            "last_cause": self._last_cause,
            "failures": self._counts["failures"],
            "stale_views": self._counts["stale_views"],
        }

    def step(self) -> float | None:
        """Do what is due. Returns how long there is nothing to do, None for until `refresh` or `stop`."""
        match self._schedule.step(self._clock()):
            case Step.LOOK:
                self._try(self._look)
            case Step.FETCH:
                self._try(self._follow)
        return self._schedule.due_in_s(self._clock())

    def _run(self) -> None:
        try:
            while not self._stopping:
                due_in_s = self.step()
                self._wake.wait(due_in_s)
                self._wake.clear()
        except Exception:
            # Nobody follows the network any more; what that means is for the owner to say.
            logger.exception("following_crashed")
            self._on_crash()

    def _try(self, read: Callable[[], object]) -> None:
        try:
            read()
        except LearnerError as error:
            logger.warning("chain_read_failed failures=%d error=%s", self._counts["failures"], error)

    def _follow(self, author: str | None = None) -> ResyncSummary:
        assert self._resync is not None, "start() says who follows"
        with self._reading:
            try:
                summary = self._resync(self._source.fetch_view(), author)
            except LearnerError as error:
                self._failed(error)
                raise
            self._succeeded(summary.block)
            return summary

    def _look(self) -> None:
        with self._reading:
            try:
                block = self._source.fetch_block()
                self._check_not_older(block)
            except LearnerError as error:
                self._failed(error)
                raise
            self._schedule.looked(self._clock(), block)

    def _check_not_older(self, block: int) -> None:
        if self._good is not None and block < self._good[0]:
            raise StaleViewError(f"the chain is at block {block}, before block {self._good[0]} in use")

    def _succeeded(self, block: int) -> None:
        if self._last_error is not None:
            logger.info("chain_read_again block=%d", block)
        self._last_error, self._last_cause = None, None
        self._good = (block, self._clock())
        self._schedule.fetched(self._clock(), block)

    def _failed(self, error: LearnerError) -> None:
        self._counts["failures"] += 1
        self._last_error, self._last_cause = str(error), type(error).__name__
        self._schedule.failed(self._clock())
        if isinstance(error, StaleViewError):
            self._counts["stale_views"] += 1
            # A node that lags is not waited for while there may be another.
            self._source.disconnect()


def longest_age_s(config: BittensorChain) -> float:
    """How old a view may become while all is well: between two reads of it, and as long as one takes."""
    interval_s = config.resync_interval_s or config.resync_interval_blocks * BLOCK_S
    return interval_s + config.longest_read_s


def build_schedule(config: ChainConfig) -> FollowSchedule:
    """The schedule that a configuration asks for: a roster is read only on request."""
    if not isinstance(config, BittensorChain):
        return FollowSchedule(chance=random.random)
    blocks = config.resync_interval_blocks if config.resync_interval_s is None else None
    return FollowSchedule(interval_blocks=blocks, interval_s=config.resync_interval_s, chance=random.random)
