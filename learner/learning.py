"""What events do to the state. Live learning and replay are this one class, so they cannot differ.

An event is applied in the place that the log gave it, in the batch that the log gave it. Rewards that arrive
while learning is frozen are held; so are those of an author who is not trusted, those whose step led to numbers
that are not finite, and those that a rollback has taken back. A held event is learned when, and if, an operator's
event says so, and then only for uids that have not changed hands since.

Shadow rules learn exactly what the rule that serves has learned. What one of them cannot learn it goes without.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from gating.metagraph import MetagraphView

from .drift import DriftAlarm
from .errors import UnknownVersionError
from .event_log import EventLog
from .events import Action, Event, OperatorEvent, Outcome, ResyncEvent, RewardEvent
from .ranges import from_ranges
from .resync import apply_resync
from .rules import LearnBatch, Rule, RuleBook
from .standings import follow_standing
from .state import Held, LearnerState, RuleIdentity, RuleState, Shadow, UidStatistics

logger = logging.getLogger(__name__)

_MOVING_WINDOW = 500
_READMIT_CHUNK = 1024

Rebuild = Callable[[int, dict[str, Any] | None], LearnerState]
"""The state at an earlier version; as the rule with these settings alone would have it, where there are any."""


@dataclass(slots=True)
class Progress:
    """Figures of what was learned lately; no part of the state."""

    rewards: deque[float] = field(default_factory=lambda: deque(maxlen=_MOVING_WINDOW))
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=_MOVING_WINDOW))
    shadow_losses: dict[str, deque[float]] = field(default_factory=dict)
    refused_by_shadows: Counter[str] = field(default_factory=Counter)
    drift: DriftAlarm = field(default_factory=DriftAlarm)
    erased: int = 0

    def describe(self) -> dict[str, float | None]:
        """Moving means, None before the first reward."""
        return {"moving_reward": _mean(self.rewards), "moving_loss": _mean(self.losses)}

    def add_losses(self, losses: Sequence[float], version: int) -> None:
        """The losses of what was just learned by the rule that serves."""
        self.losses.extend(losses)
        self.drift.update(losses, version)

    def moving_loss_of(self, label: str) -> float | None:
        """A shadow's moving loss, None before the first reward."""
        return _mean(self.shadow_losses.get(label, self._no_losses()))

    def promoted(self, label: str, former: str) -> None:
        """A shadow serves now: the losses change places."""
        losses = self.shadow_losses.pop(label, self._no_losses())
        self.shadow_losses[former], self.losses = self.losses, losses
        self.drift.reset()

    def add_shadow_losses(self, label: str, losses: Iterable[float]) -> None:
        """A shadow's losses of what it has just learned."""
        self.shadow_losses.setdefault(label, self._no_losses()).extend(losses)

    def begin_anew(self) -> None:
        """Another rule serves, and there are no shadows: their losses are no longer of interest."""
        self.losses.clear()
        self.drift.reset()
        self.keep_shadows(())

    def keep_shadows(self, labels: Container[str]) -> None:
        """Forget the figures of all shadows but these."""
        for figures in (self.shadow_losses, self.refused_by_shadows):
            for label in [label for label in figures if label not in labels]:
                del figures[label]

    @staticmethod
    def _no_losses() -> deque[float]:
        return deque(maxlen=_MOVING_WINDOW)


class Learning:
    """Applies batches of events to a state.

    Args:
        rule: the learning rule that serves.
        state: what is mutated, and replaced by a rollback.
        log: where held events are read again.
        rebuild: see `Rebuild`.
        book: the rules of shadows; None: this rule alone learns, whatever the log says of others.
    """

    def __init__(
        self, rule: Rule, state: LearnerState, log: EventLog, rebuild: Rebuild, book: RuleBook | None = None
    ) -> None:
        self.rule = rule
        self.state = state
        self._book = book
        self.progress = Progress()
        self.on_learning: Callable[[Sequence[RewardEvent]], None] = lambda events: None
        """Told of rewards just before they are learned."""
        self._log = log
        self._rebuild = rebuild

    def apply(self, batch: Sequence[Event]) -> None:
        """Apply one batch, as the log gave it."""
        match batch[0]:
            case ResyncEvent() as event:
                self._follow(self.state, event)
            case OperatorEvent() as event:
                self._obey(event)
            case _:
                self._take_rewards([event for event in batch if isinstance(event, RewardEvent)])
        self.state.version = batch[-1].batch

    def _take_rewards(self, events: Sequence[RewardEvent]) -> None:
        # In the order of their places, which is that of `held`.
        for event in events:
            if event.outcome is Outcome.QUARANTINED:
                self.state.held[event.seq] = Held.AUTHOR
            elif event.outcome.is_learned and self.state.frozen:
                self.state.held[event.seq] = Held.FROZEN
        if not self.state.frozen:
            self._learn([event for event in events if event.outcome.is_learned])

    def _obey(self, event: OperatorEvent) -> None:
        state = self.state
        match event.action:
            case Action.FREEZE:
                state.frozen = True
            case Action.THAW:
                state.frozen = False
                self._learn_held([seq for seq, why in state.held.items() if why is Held.FROZEN])
            case Action.READMIT | Action.DROP:
                self._settle(event)
            case Action.ROLLBACK:
                self.state = self._rolled_back(event)
            case Action.SHADOW | Action.PROMOTE | Action.REBUILD:
                self._change_rules(event)
            case Action.STANDING:
                follow_standing(state.standings, event)
            # The others are told of, and change nothing.

    def _change_rules(self, event: OperatorEvent) -> None:
        if self._book is None:
            return
        if event.action is Action.SHADOW:
            _set_shadows(self.state, event, self._book)
            self.progress.keep_shadows(self.state.shadows)
        elif event.action is Action.PROMOTE:
            self._promote(event, self._book)
        else:
            self._replace_rule(event, self._book)

    def _replace_rule(self, event: OperatorEvent, book: RuleBook) -> None:
        """A rule serves that an operator has let learn the whole log, without a service."""
        settings, start = event.arguments["rule"], event.arguments["from"]
        if start is not None:
            raise UnknownVersionError(
                f"at event {event.seq} the weights were rebuilt from checkpoint {start}, which the log does not tell "
                "again; begin with a later checkpoint"
            )
        state = self._rebuild(event.seq - 1, settings)
        state.served_since = event.seq
        state.statistics.selections = self.state.statistics.selections
        self.state, self.rule = state, book.of(settings)
        self.progress.begin_anew()

    def _promote(self, event: OperatorEvent, book: RuleBook) -> None:
        """A shadow and the rule that served change places."""
        state, label = self.state, event.arguments["label"]
        shadow = state.shadows.pop(label, None)
        if shadow is None:
            # Another promotion came first.
            return
        former = state.identity.label
        state.shadows[former] = Shadow(state.identity, state.rule)
        state.shadows = dict(sorted(state.shadows.items()))
        state.identity, state.rule, state.served_since = shadow.identity, shadow.rule, event.seq
        self.rule = book.of(state.identity.settings)
        self.progress.promoted(label, former)

    def _follow(self, state: LearnerState, event: ResyncEvent) -> None:
        previous = state.view
        plan = apply_resync(
            state,
            event.view,
            self.rule,
            seed=event.seed,
            on_hotkey_swap=event.on_hotkey_swap,
            shadow_rules=self.shadow_rules(state),
        )
        state.tenures.follow(plan, previous, event.seq)

    def shadow_rules(self, state: LearnerState) -> dict[str, Rule]:
        """The rules of a state's shadows, by label."""
        assert self._book is not None or not state.shadows, "a state with shadows is learned with their rules"
        return {label: self._book.of(shadow.identity.settings) for label, shadow in state.shadows.items() if self._book}

    def _settle(self, event: OperatorEvent) -> None:
        settled = settled_by(event, self.state)
        if event.action is Action.READMIT:
            self._learn_held(settled)
            return
        for seq in settled:
            del self.state.held[seq]

    def _learn_held(self, seqs: Iterable[int]) -> None:
        remaining = iter(seqs)
        while chunk := list(islice(remaining, _READMIT_CHUNK)):
            events = self._log.reward_events(chunk)
            for seq in chunk:
                del self.state.held[seq]
            still_owned = (_still_owned(event, self.state) for event in events)
            self._learn([event for event in still_owned if event.uids])

    def _rolled_back(self, event: OperatorEvent) -> LearnerState:
        """The state at the earlier version, in the network of now; what was learned since is held."""
        version, now = int(event.arguments["version"]), self.state
        if version < now.served_since:
            logger.error("rollback_ignored version=%d reason=rule_promoted_since", version)
            return now
        state = self._rebuild(version, None)
        dropped: set[int] = set()
        for batch in self._log.batches(version, upto=event.seq - 1):
            match batch[0]:
                case ResyncEvent() as resync:
                    self._follow(state, resync)
                case OperatorEvent(action=Action.DROP) as drop:
                    dropped.update(from_ranges(drop.arguments["ranges"]))
                case OperatorEvent(action=Action.SHADOW) as shadow if self._book is not None:
                    _set_shadows(state, shadow, self._book)
                case OperatorEvent():
                    pass
                case _:
                    state.held.update(_held_again(batch))
        state.held = {seq: now.held.get(seq, Held.ROLLED_BACK) for seq in sorted(state.held) if seq not in dropped}
        state.frozen, state.standings = now.frozen, now.standings
        state.statistics.selections = now.statistics.selections
        return state

    def _learn(self, events: Sequence[RewardEvent]) -> None:
        whole = [event for event in events if event.embedding is not None]
        if len(whole) < len(events):
            self.progress.erased += len(events) - len(whole)
            logger.warning("not_learned events=%d reason=embedding_erased", len(events) - len(whole))
        if not whole:
            return
        self.on_learning(whole)
        batch = learn_batch(whole)
        losses = _update_or_restore(self.rule, self.state.rule, batch)
        if losses is None:
            self._learn_one_by_one(whole, batch)
            return
        self._count(whole, batch)
        self.progress.add_losses(losses.tolist(), whole[-1].seq)
        self._learn_in_shadows(batch)

    def _learn_one_by_one(self, events: Sequence[RewardEvent], batch: LearnBatch) -> None:
        """A batch led to numbers that are not finite: learn what can be learned, hold the rest."""
        for index, event in enumerate(events):
            losses = _update_or_restore(self.rule, self.state.rule, batch.only(index))
            if losses is None:
                self.state.held[event.seq] = Held.NON_FINITE
                logger.error("quarantined seq=%d decision_id=%s", event.seq, event.decision_id)
            else:
                self._count([event], batch.only(index))
                self.progress.add_losses(losses.tolist(), event.seq)
                self._learn_in_shadows(batch.only(index))
        self.state.held = dict(sorted(self.state.held.items()))

    def _learn_in_shadows(self, batch: LearnBatch) -> None:
        for label, rule in self.shadow_rules(self.state).items():
            state = self.state.shadows[label].rule
            at_once = _update_or_restore(rule, state, batch)
            one_by_one = (_update_or_restore(rule, state, batch.only(index)) for index in range(batch.size))
            for losses in one_by_one if at_once is None else [at_once]:
                if losses is None:
                    self.progress.refused_by_shadows[label] += 1
                else:
                    self.progress.add_shadow_losses(label, losses.tolist())

    def _count(self, events: Sequence[RewardEvent], batch: LearnBatch) -> None:
        """Count rewards that were learned; `batch` is what the rule was given of the events."""
        statistics, uids = self.state.statistics, batch.uids.numpy()
        np.add.at(statistics.rewards, uids, 1)
        np.add.at(statistics.reward_sum, uids, [reward for event in events for reward in event.rewards])
        self.progress.rewards.extend(sum(event.rewards) / len(event.rewards) for event in events)


def initial_state(rule: Rule, view: MetagraphView, dim: int, seed: int) -> LearnerState:
    """The state before the first event.

    Args:
        rule: makes the rows.
        view: the network.
        dim: width of the embeddings.
        seed: of the rows' random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    return LearnerState(
        view=view, rule=rule.initial_state(view.n, dim, generator), statistics=UidStatistics.empty(view.n)
    )


def _set_shadows(state: LearnerState, event: OperatorEvent, book: RuleBook) -> None:
    """From here on there are these shadows: those that there were go on, by their settings, the others begin."""
    known, arguments = list(state.shadows.values()), event.arguments
    state.identity = replace(state.identity, label=arguments["label"])
    state.shadows = {}
    for label, settings in sorted(arguments["shadows"].items()):
        before = next((shadow for shadow in known if shadow.identity.settings == settings), None)
        if before is not None:
            state.shadows[label] = Shadow(replace(before.identity, label=label), before.rule)
            continue
        generator = torch.Generator().manual_seed(arguments["seed"])
        rule_state = book.of(settings).initial_state(state.view.n, arguments["dim"], generator)
        state.shadows[label] = Shadow(RuleIdentity(label, settings, event.seq), rule_state)


def settled_by(event: OperatorEvent, state: LearnerState) -> list[int]:
    """Which of the state's held events a READMIT or DROP is about. Those that wait for the thaw are left to it."""
    wanted = set(from_ranges(event.arguments["ranges"]))
    return [seq for seq in free_to_settle(state) if seq in wanted]


def free_to_settle(state: LearnerState) -> list[int]:
    """The held events that an operator may readmit or drop now, ascending."""
    return [seq for seq, why in state.held.items() if not (state.frozen and why is Held.FROZEN)]


def _held_again(batch: Sequence[Event]) -> dict[int, Held]:
    return {
        event.seq: Held.ROLLED_BACK
        for event in batch
        if isinstance(event, RewardEvent) and event.outcome.may_be_learned
    }


def _still_owned(event: RewardEvent, state: LearnerState) -> RewardEvent:
    """The event without the uids that have changed hands since it was logged."""
    kept = [
        place
        for place, uid in enumerate(event.uids)
        if uid < state.view.n and state.tenures.held_through(uid, event.seq)
    ]
    return replace(
        event,
        uids=tuple(event.uids[place] for place in kept),
        rewards=tuple(event.rewards[place] for place in kept),
        weights=tuple(event.weights[place] for place in kept) if event.weights else (),
        expected=(),
    )


def learn_batch(events: Sequence[RewardEvent]) -> LearnBatch:
    """What a rule is given of events, all of which have their embedding."""
    lengths = torch.tensor([len(event.uids) for event in events])
    embeddings = [event.embedding for event in events if event.embedding is not None]
    return LearnBatch(
        embedding=torch.from_numpy(np.stack(embeddings).astype(np.float32)),
        event=torch.repeat_interleave(torch.arange(len(events)), lengths),
        uids=torch.tensor([uid for event in events for uid in event.uids]),
        rewards=torch.tensor([reward for event in events for reward in event.rewards], dtype=torch.float32),
        weights=_weights(events),
    )


def _weights(events: Sequence[RewardEvent]) -> torch.Tensor:
    if not any(event.weights for event in events):
        return torch.ones(sum(len(event.uids) for event in events))
    return torch.tensor(
        [weight for event in events for weight in event.weights or (1.0,) * len(event.uids)], dtype=torch.float32
    )


def _update_or_restore(rule: Rule, state: RuleState, batch: LearnBatch) -> torch.Tensor | None:
    """Update the state; if a number in it is no longer finite, put it back as it was and return None."""
    uids = torch.unique(batch.uids)
    rows = {name: tensor.index_select(0, uids) for name, tensor in state.rows.items()}
    shared = {name: tensor.clone() for name, tensor in state.shared.items()}
    losses = rule.update(state, batch)
    touched = (tensor.index_select(0, uids) for tensor in state.rows.values())
    if all(map(is_finite, (losses, *state.shared.values(), *touched))):
        return losses
    for name, tensor in rows.items():
        state.rows[name][uids] = tensor
    state.shared = shared
    return None


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are finite."""
    # A sum is finite only if all its terms are, and is much faster to have; it may overflow where they all are.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _mean(values: deque[float]) -> float | None:
    return sum(values) / len(values) if values else None
