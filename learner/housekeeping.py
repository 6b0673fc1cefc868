"""Checkpoints when they are due, and what has become old goes from the log, whether or not anything is learned."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .checkpoint import CheckpointStore, Manifest
from .core import Learner
from .errors import CheckpointError, FencedError, LogUnavailableError
from .memory import release_freed_memory
from .ranges import from_ranges

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_RETRY_S = 5.0
_PRUNE_EVERY_S = 60.0
_DAY_S = 86_400.0


class Housekeeper(threading.Thread):
    """A thread that saves and prunes.

    Args:
        learner: what is saved.
        store: where to; None: nothing is saved.
        application: the application's name, for the manifest.
        clock: seconds on the log's clock.
        on_crash: called from this thread, as the last thing that it does, if anything goes wrong that is nobody's
            but ours.
    """

    def __init__(
        self,
        learner: Learner,
        store: CheckpointStore | None,
        *,
        application: str,
        clock: Callable[[], float],
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__(name="housekeeping", daemon=True)
        self._learner = learner
        self._store = store
        self._application = application
        self._clock = clock
        self._on_crash = on_crash
        self._saving = threading.Lock()
        self._looking = threading.Lock()
        self._pauses = 0
        self._stopping = threading.Event()
        # What learning starts from needs no checkpoint.
        self._saved_version = max(learner.saved_version, 0)
        self._saved_at_s = time.monotonic()
        self._last: Manifest | None = None
        self._save_error: str | None = None
        self._prune_error: str | None = None
        self._pruned = 0
        self._pruned_at_s = time.monotonic()

    def save(self) -> Manifest | None:
        """Write a checkpoint now; None if there is no place for them.

        Raises:
            CheckpointError, LogUnavailableError: it could not be written; the ones before are as they were.
        """
        if self._store is None:
            self._saved_version, self._saved_at_s = self._learner.version, time.monotonic()
            return None
        with self._saving:
            started_s = time.monotonic()
            captured = self._learner.capture()
            manifest = self._store.save(
                captured.state,
                application=self._application,
                log_id=self._learner.log.id,
                epoch=self._learner.log.epoch,
                decisions=captured.decisions,
                fingerprint=self._learner.fingerprint,
                dim=self._learner.dim,
            )
            self._saved_version, self._saved_at_s = manifest.version, time.monotonic()
            self._last, self._save_error = manifest, None
            logger.info("checkpoint name=%s took_s=%.3f", manifest.name, time.monotonic() - started_s)
            return manifest

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is due while the body runs, so no checkpoint goes and no event; waits for what is being done."""
        with self._looking:
            self._pauses += 1
        try:
            yield
        finally:
            with self._looking:
                self._pauses -= 1

    def stop(self) -> None:
        """Save what was learned since the last checkpoint, and end; returns when that is done."""
        self._stopping.set()
        if self.ident is not None:
            self.join()
        if self._learner.version != self._saved_version:
            self._try_to_save()

    @property
    def saves(self) -> bool:
        """Whether there is a place for checkpoints."""
        return self._store is not None

    @property
    def unsaved_for_s(self) -> float:
        """Seconds since the last checkpoint, or since the start without one."""
        return time.monotonic() - self._saved_at_s

    @property
    def unsaved_events(self) -> int:
        """How many events were learned since the last checkpoint."""
        return self._learner.version - self._saved_version

    def describe(self) -> dict[str, Any]:
        """The newest checkpoint of this learner, and what went wrong since, for `/v1/state`."""
        last = self._last
        return {
            "name": last.name if last else None,
            "version": last.version if last else None,
            "age_s": round(time.monotonic() - self._saved_at_s, 3) if last else None,
            "digest": last.digest if last else None,
            "last_error": self._save_error or self._prune_error,
            "pruned_rows": self._pruned,
        }

    def run(self) -> None:
        """The thread's body."""
        try:
            while not self._stopping.wait(_LOOK_EVERY_S):
                if not self._look():
                    self._stopping.wait(_RETRY_S)
        except FencedError:
            # The committing thread will find out as well, and it is the one that says so.
            logger.warning("housekeeping_ended reason=fenced")
        except Exception:
            logger.exception("housekeeping_crashed")
            self._on_crash()

    def _look(self) -> bool:
        """Do what is due; False if some of it failed."""
        with self._looking:
            if self._pauses:
                return True
            is_due = self._is_due()
            is_saved = not is_due or self._try_to_save()
            # What is old goes although nothing new is learned, or nothing can be saved.
            if (is_due and is_saved) or time.monotonic() - self._pruned_at_s >= _PRUNE_EVERY_S:
                return self._try_to_prune() and is_saved
            return is_saved

    def _is_due(self) -> bool:
        """Whether to save."""
        config = self._learner.config.checkpoints
        fresh = self._learner.version - self._saved_version
        return fresh >= config.interval_events or (
            fresh > 0 and time.monotonic() - self._saved_at_s >= config.interval_s
        )

    def prune(self) -> None:
        """Drop from the log what is older than its retention and not needed by any checkpoint that is kept."""
        config = self._learner.config
        upto, keep = self._learner.version, set(self._learner.held_places())
        if self._store is not None:
            # A held event may yet be learned by a restart from any of them.
            checkpoints = self._store.list()
            upto = min((manifest.version for manifest in checkpoints), default=0)
            keep.update(seq for manifest in checkpoints for held in manifest.held.values() for seq in from_ranges(held))
        before_s = self._clock() - max(config.log.retention_days * _DAY_S, config.reward_window_s)
        while rows := self._learner.log.prune(upto=upto, before_s=before_s, keep=sorted(keep)):
            self._pruned += rows
            if self._stopping.is_set():
                return

    def _try_to_save(self) -> bool:
        try:
            self.save()
        except (CheckpointError, LogUnavailableError) as error:
            self._save_error = str(error)
            logger.error("checkpoint_failed error=%s", error)
            return False
        # The state was copied, and written from another copy.
        release_freed_memory()
        return True

    def _try_to_prune(self) -> bool:
        # Once it has failed it is due again at the next look.
        self._pruned_at_s -= _PRUNE_EVERY_S
        try:
            self.prune()
        except (CheckpointError, LogUnavailableError) as error:
            self._prune_error = str(error)
            logger.error("prune_failed error=%s", error)
            return False
        self._pruned_at_s, self._prune_error = time.monotonic(), None
        return True
