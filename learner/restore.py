"""The state at a version, from the newest checkpoint before it and the log after that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from .checkpoint import CheckpointStore, Expected, Manifest
from .errors import UnknownVersionError, WrongLogError
from .event_log import EventLog
from .events import Action, Event, OperatorEvent
from .learning import Learning, Progress, initial_state
from .rules import Rule
from .state import LearnerState

OnBatch = Callable[[int], None]
"""Told the version after each batch that was replayed."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A state that was rebuilt.

    Attributes:
        decisions: how many of the log's decisions its statistics have counted.
        progress: figures of what was replayed.
        saved: the version of the checkpoint that it was rebuilt from, -1 for none.
    """

    state: LearnerState
    decisions: int = 0
    progress: Progress = field(default_factory=Progress)
    saved: int = -1


class Restorer:
    """Rebuilds states. Replaying gives the same bits as learning did.

    Args:
        log: the events.
        rule: the learning rule.
        expected: what a checkpoint must be of.
        checkpoints: where replaying may begin; None: at the beginning.
    """

    def __init__(
        self, log: EventLog, rule: Rule, expected: Expected, checkpoints: CheckpointStore | None = None
    ) -> None:
        self.log = log
        self.rule = rule
        self._expected = expected
        self._checkpoints = checkpoints

    def newest(self, on_batch: OnBatch | None = None) -> Restored:
        """The state as of the end of the log.

        Raises:
            CheckpointMismatchError: the newest checkpoint is of another rule, encoder or log.
            WrongLogError: the checkpoint knows more than the log.
            UnknownVersionError: the log's beginning is gone and no checkpoint stands in for it.
        """
        return self.replay(self.newest_saved(), None, on_batch)

    def newest_saved(self) -> Restored:
        """The state of the newest checkpoint, or before the first event: what a start goes on from.

        Raises:
            CheckpointMismatchError, WrongLogError, UnknownVersionError: see `newest`.
        """
        base = self._base(None)
        if base.state.version > self.log.last_seq:
            raise WrongLogError(
                f"the newest checkpoint has learned up to event {base.state.version}, the log ends at "
                f"{self.log.last_seq}: it is an older copy; bring the log back, or start with --reset"
            )
        return base

    def at(self, version: int, on_batch: OnBatch | None = None) -> Restored:
        """The state at an earlier version: that of the last batch that ends at or before it.

        Raises:
            UnknownVersionError: it cannot be rebuilt any more.
        """
        return self.replay(self._base(version), version, on_batch)

    def batch_at(self, version: int) -> int:
        """The last version at or before this one whose state can be had.

        Raises:
            UnknownVersionError: it cannot be rebuilt any more.
        """
        base = target = self._base(version).state.version
        for batch in self._batches(base, version):
            target = batch[-1].batch
            match batch[0]:
                case OperatorEvent(action=Action.ROLLBACK) as rollback if int(rollback.arguments["version"]) < base:
                    self.batch_at(int(rollback.arguments["version"]))
        # What follows tells that nothing is missing between.
        next(self._batches(target, None), None)
        return target

    def _base(self, at_most: int | None) -> Restored:
        found = self._checkpoints.newest(self._expected, at_most=at_most) if self._checkpoints else None
        if found is None:
            return self.beginning()
        state, manifest = found
        return Restored(state, manifest.decisions, saved=manifest.version)

    def beginning(self) -> Restored:
        """The state before the first event.

        Raises:
            UnknownVersionError: the log's beginning has been pruned.
        """
        genesis = self.log.genesis
        if genesis is None:
            raise UnknownVersionError("the log has not begun")
        if self.log.first_seq() > 1 and self.log.last_seq > 0:
            raise UnknownVersionError(
                f"the log begins at event {self.log.first_seq()}, and there is no checkpoint to go on from: what "
                "was learned before cannot be rebuilt"
            )
        return Restored(initial_state(self.rule, genesis.view, self._expected.dim, genesis.seed))

    def saved(self, store: CheckpointStore, manifest: Manifest) -> Restored:
        """The state of a checkpoint.

        Raises:
            CheckpointError: it cannot be used.
        """
        return Restored(store.load(manifest, self._expected), manifest.decisions, saved=manifest.version)

    def afresh_in(self, store: CheckpointStore, manifest: Manifest) -> Restored:
        """A state of this rule that has learned nothing yet, in the network of another rule's checkpoint.

        Raises:
            CheckpointError: it cannot be used.
        """
        state = store.load(manifest, replace(self._expected, rule=manifest.rule))
        genesis = self.log.genesis
        seed = genesis.seed if genesis else 0
        state.rule = initial_state(self.rule, state.view, self._expected.dim, seed).rule
        return Restored(state, manifest.decisions)

    def replay(self, base: Restored, upto: int | None, on_batch: OnBatch | None = None) -> Restored:
        """Learn what follows a state. It is mutated.

        Args:
            base: the state.
            upto: the last version; None: the end of the log.
            on_batch: see `OnBatch`.

        Raises:
            UnknownVersionError: an event is missing.
        """
        return self._replay(base, upto, on_batch)

    def _replay(
        self, base: Restored, upto: int | None, on_batch: OnBatch | None, known: dict[int, LearnerState] | None = None
    ) -> Restored:
        learning = self._learning(base, {} if known is None else known)
        for batch in self._batches(base.state.version, upto):
            learning.apply(batch)
            if on_batch is not None:
                on_batch(learning.state.version)
        return replace(base, state=learning.state, progress=learning.progress)

    def walk(self, base: Restored, upto: int | None = None) -> Iterator[LearnerState]:
        """Replay as `replay` does, and give the state at its start and after every batch.

        It is the one that goes on learning: copy what shall stay.

        Raises:
            UnknownVersionError: an event is missing.
        """
        learning = self._learning(base, {})
        yield learning.state
        for batch in self._batches(base.state.version, upto):
            learning.apply(batch)
            yield learning.state

    def _learning(self, base: Restored, rebuilt: dict[int, LearnerState]) -> Learning:
        # Without what is known already, each rollback would replay all those before it, and they those before them.
        def rebuild(version: int) -> LearnerState:
            if version not in rebuilt:
                rebuilt[version] = self._replay(self._base(version), version, None, rebuilt).state
            return rebuilt[version].copy()

        return Learning(self.rule, base.state, self.log, rebuild)

    def _batches(self, after: int, upto: int | None) -> Iterator[list[Event]]:
        """The log's batches. Held events outlive those around them, so there may be gaps.

        Raises:
            UnknownVersionError: there is a gap.
        """
        for batch in self.log.batches(after, upto):
            if batch[0].seq != after + 1 or len(batch) != batch[-1].batch - after:
                raise UnknownVersionError(
                    f"events after {after} are gone from the log, and there is no checkpoint to go on from: what was "
                    "learned until then cannot be rebuilt"
                )
            after = batch[-1].batch
            yield batch
