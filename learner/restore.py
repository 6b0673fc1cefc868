"""The state at a version, from the newest checkpoint before it and the log after that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from .checkpoint import CheckpointStore, Expected, Manifest
from .errors import RuleMismatchError, UnknownVersionError, WrongLogError
from .event_log import EventLog, Genesis
from .events import Action, Event, OperatorEvent
from .learning import Learning, Progress, initial_state
from .rules import Rule, RuleBook, rule_of
from .state import LearnerState, RuleIdentity

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
        expected: what a checkpoint must be of; its rule is the configured one.
        checkpoints: where replaying may begin; None: at the beginning.
        only_this_rule: this rule learns all of it and no other does, whatever the log says of shadows and promotions.
    """

    def __init__(
        self,
        log: EventLog,
        rule: Rule,
        expected: Expected,
        checkpoints: CheckpointStore | None = None,
        *,
        only_this_rule: bool = False,
    ) -> None:
        self.log = log
        self.rule = rule
        assert expected.rule is not None, "a restorer has a rule of its own"
        self._settings = expected.rule
        self.book = None if only_this_rule else RuleBook([(self._settings, rule)], rule_of)
        self._expected = expected
        self._checkpoints = checkpoints

    def rule_that_serves(self, state: LearnerState) -> Rule:
        """The rule that serves with that state."""
        return self.rule if self.book is None else self.book.of(state.identity.settings)

    def newest(self, on_batch: OnBatch | None = None) -> Restored:
        """The state as of the end of the log.

        Raises:
            CheckpointMismatchError: the newest checkpoint is of another encoder or log.
            RuleMismatchError: the rule that serves is not among the expected ones.
            WrongLogError: the checkpoint knows more than the log.
            UnknownVersionError: the log's beginning is gone and no checkpoint stands in for it.
        """
        restored = self.replay(self._checked(self._base(None, self._of_any_rule())), None, on_batch)
        identity = restored.state.identity
        if self.book is not None and identity.settings not in (self._settings, *self._expected.shadows):
            raise RuleMismatchError(
                f"rule {identity.label} serves in this log, with {identity.settings}, and the configuration has it "
                "neither as `rule` nor in `shadow`; set it as the rule, or stop the learner and rebuild the weights "
                f"from the log with `tidegate replay --rule {self._settings['name']} --write-checkpoint`"
            )
        return restored

    def _of_any_rule(self) -> Expected:
        """What a checkpoint must be of where another rule may have served: which one does the end of the log tells."""
        return self._expected if self.book is None else replace(self._expected, rule=None)

    def newest_saved(self) -> Restored:
        """The state of the newest checkpoint, or before the first event: what a start goes on from.

        Raises:
            CheckpointMismatchError, WrongLogError, UnknownVersionError: see `newest`; the first for another rule too.
        """
        return self._checked(self._base(None))

    def _checked(self, base: Restored) -> Restored:
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

    def rebuilt(self, version: int, settings: dict[str, Any] | None = None) -> LearnerState:
        """The state at an earlier version; as the rule with these settings alone would have it, where there are any.

        Raises:
            UnknownVersionError: it cannot be rebuilt any more.
        """
        if settings is None:
            return self.at(version).state
        expected = replace(self._expected, rule=settings)
        return Restorer(self.log, rule_of(settings), expected, only_this_rule=True).at(version).state

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

    def _base(self, at_most: int | None, expected: Expected | None = None) -> Restored:
        wanted = expected or self._expected
        found = self._checkpoints.newest(wanted, at_most=at_most) if self._checkpoints else None
        if found is None:
            return self.beginning()
        state, manifest = found
        return Restored(self._wanted_of(state), manifest.decisions, saved=manifest.version)

    def _wanted_of(self, state: LearnerState) -> LearnerState:
        """Of a saved state, what this restorer goes on from."""
        if self.book is None:
            shadows, state.shadows = state.shadows, {}
            for shadow in shadows.values():
                if shadow.identity.settings == self._settings:
                    state.identity, state.rule = shadow.identity, shadow.rule
        return state

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
        return Restored(self._unlearned(genesis))

    def _unlearned(self, genesis: Genesis) -> LearnerState:
        settings = self._settings
        if self.book is not None and genesis.rule is not None:
            settings = genesis.rule
        rule = self.rule if self.book is None else self.book.of(settings)
        state = initial_state(rule, genesis.view, self._expected.dim, genesis.seed)
        state.identity = RuleIdentity(settings["name"], settings)
        return state

    def saved(self, store: CheckpointStore, manifest: Manifest) -> Restored:
        """The state of a checkpoint.

        Raises:
            CheckpointError: it cannot be used.
        """
        state = self._wanted_of(store.load(manifest, self._of_any_rule()))
        return Restored(state, manifest.decisions, saved=manifest.version)

    def afresh_in(self, store: CheckpointStore, manifest: Manifest) -> Restored:
        """A state of this rule that has learned nothing yet, in the network of another rule's checkpoint.

        Raises:
            CheckpointError: it cannot be used.
        """
        state = store.load(manifest, replace(self._expected, rule=manifest.rule))
        genesis = self.log.genesis
        seed = genesis.seed if genesis else 0
        state.rule = initial_state(self.rule, state.view, self._expected.dim, seed).rule
        state.identity = RuleIdentity(self._settings["name"], self._settings, state.version)
        state.served_since, state.shadows = state.version, {}
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
        def rebuild(version: int, settings: dict[str, Any] | None) -> LearnerState:
            if settings is not None:
                return self.rebuilt(version, settings)
            if version not in rebuilt:
                rebuilt[version] = self._replay(self._base(version), version, None, rebuilt).state
            return rebuilt[version].copy()

        return Learning(self.rule_that_serves(base.state), base.state, self.log, rebuild, self.book)

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
