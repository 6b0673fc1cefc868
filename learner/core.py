"""The whole learner as a plain class: ingest -> log -> learn -> snapshot, resync, and what operators may do.

Two locks, and nobody waits for one of them with the other in hand. *Ingest* guards what reports pass through (join
index, log, queue, the network that reports are judged by), *state* guards what learning changes. Learning may keep
the second for minutes, where an operator lets it go on with all that was held; what is reported goes on into the log
meanwhile, and the claim on the log is renewed. Events are learned by one thread in the order of the log; a resync is
one of them, so a row is never reset beside the update of a reward that was earned before.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from gating.message import message
from gating.policies import Policy, TailExploration

from .baselines import Baselines
from .comparison import Comparison, Heads
from .config import LearnerConfig, label_of, settings_of
from .draft import Stage
from .errors import (
    UnknownEventError,
    UnknownRuleError,
    UnknownVersionError,
)
from .event_log import EventLog
from .events import Action, Decision, Reported, RewardEvent
from .fair_lock import FairLock
from .ingest import Ingest, ResyncSummary
from .learning import Learning, Progress, free_to_settle
from .ranges import to_ranges
from .restore import Restored, Restorer
from .rules import Rule
from .selections import Selections
from .state import HeadSnapshot, Held, LearnerState, build_snapshot

logger = logging.getLogger(__name__)

__all__ = ["Captured", "ExplainedDecision", "HeldEvent", "Learner", "ResyncSummary", "RollbackSummary"]


@message
class ExplainedDecision:
    """A decision, and the rewards reported for it so far and their authors, by uid."""

    decision: Decision
    rewards: dict[int, float]
    authors: dict[int, str]


@message
class HeldEvent:
    """A reward event that is in the log and not in the weights."""

    event: RewardEvent
    reason: Held


@dataclass(frozen=True, slots=True)
class RollbackSummary:
    """Which version a rollback goes back to, and the version that shows it."""

    restored: int
    seq: int


@dataclass(frozen=True, slots=True)
class Captured:
    """A copy of the state, and how many of the log's decisions its statistics have counted."""

    state: LearnerState
    decisions: int


class Learner(Ingest):
    """Takes decisions and rewards, learns from them in log order, follows the network.

    Args:
        config: how to learn.
        restored: what has been learned up to the end of the log.
        restorer: rebuilds earlier states, for rollbacks.
        dim: width of the embeddings.
        fingerprint: the encoder that they come from; others are refused.
        log: where events are kept before they are acknowledged.
        clock: seconds on the log's clock.
        on_hotkey_swap: whether an owner that exchanged its own hotkey keeps its row.
        policy: how uids are chosen by the scores; for the comparison of rules only.
    """

    def __init__(
        self,
        *,
        config: LearnerConfig,
        restored: Restored,
        restorer: Restorer,
        dim: int,
        fingerprint: str,
        log: EventLog,
        clock: Callable[[], float],
        on_hotkey_swap: Literal["keep", "reset"] = "keep",
        policy: Policy | None = None,
    ) -> None:
        self._selections = Selections(self._is_comparable)
        super().__init__(
            config=config,
            dim=dim,
            fingerprint=fingerprint,
            log=log,
            clock=clock,
            on_hotkey_swap=on_hotkey_swap,
            state=restored.state,
            on_decisions=self._selections.add,
        )
        self.saved_version = restored.saved
        """The version of the checkpoint that the state was restored from, -1 for none."""
        self._state_lock = FairLock()
        self._drafting = threading.Lock()
        self._restorer = restorer
        self._learning = Learning(
            restorer.rule_that_serves(restored.state),
            restored.state,
            log,
            restorer.rebuilt,
            restorer.book,
        )
        self._learning.progress = restored.progress
        self._comparison = Comparison(policy or TailExploration())
        self._baselines = Baselines(config.reward_range)
        self._newest: HeadSnapshot | None = None
        self._learning.on_learning = self._note_learned
        for chosen in log.chosen_after(restored.decisions):
            self._selections.add([chosen])
            self._selections.count(restored.state)
        self._selections.counted = log.decisions_count()

    @property
    def version(self) -> int:
        """The last log sequence number that has been learned."""
        return self._learning.state.version

    @property
    def rule(self) -> Rule:
        """The rule that serves."""
        return self._learning.rule

    @property
    def progress(self) -> Progress:
        """Figures of what was learned lately."""
        return self._learning.progress

    @property
    def frozen(self) -> bool:
        """Whether an operator has stopped learning."""
        return self._learning.state.frozen

    def stage_rollback(self, version: int, author: str) -> Stage[RollbackSummary]:
        """Go back to an earlier version: its weights are published as a new one, what was learned since is held.

        Raises:
            UnknownVersionError: there is no such version, or it cannot be rebuilt any more.
        """
        if not 0 <= version <= self.version:
            raise UnknownVersionError(f"there is no version {version}; versions go from 0 to {self.version}")
        state = self._learning.state
        if version < state.served_since:
            raise UnknownVersionError(
                f"version {version} was served by another rule; {state.identity.label} serves since version "
                f"{state.served_since}. Promote the other rule to have it back"
            )
        target = self._restorer.batch_at(version)
        stage_action = self.stage_action(Action.ROLLBACK, author, {"version": target})
        return lambda draft: RollbackSummary(target, stage_action(draft))

    def stage_promotion(self, label: str, author: str) -> Stage[int]:
        """Let a shadow serve; the rule that served becomes a shadow.

        Raises:
            UnknownRuleError: there is no such shadow.
        """
        with self._state_lock:
            labels = list(self._learning.state.shadows)
        if label not in labels:
            raise UnknownRuleError(f"there is no shadow rule {label!r}; there are {', '.join(labels) or 'none'}")
        return self.stage_action(Action.PROMOTE, author, {"label": label})

    def take_configured_shadows(self) -> None:
        """Log which shadows there are from here on, if they are not those of the configuration."""
        with self._state_lock:
            identity = self._learning.state.identity
            present = {label: shadow.identity.settings for label, shadow in self._learning.state.shadows.items()}
        wanted = {label_of(rule): settings_of(rule) for rule in (self.config.rule, *self.config.shadow)}
        # The restorer has seen to it that the rule that serves is one of them.
        label = next(label for label, settings in wanted.items() if settings == identity.settings)
        if label != label_of(self.config.rule):
            logger.warning("rule_promoted serving=%s configured=%s", label, label_of(self.config.rule))
        shadows = {name: settings for name, settings in wanted.items() if name != label}
        if (label, shadows) != (identity.label, present):
            arguments = {"label": label, "shadows": shadows, "dim": self.dim, "seed": self.config.seed}
            self.commit_one(self.stage_action(Action.SHADOW, "configuration", arguments))

    def stage_settlement(
        self, action: Literal[Action.READMIT, Action.DROP], seqs: Sequence[int] | None, author: str
    ) -> Stage[int]:
        """Learn held events after all, or give them up.

        Args:
            action: which of the two.
            seqs: their places in the log; None: all that do not wait for the thaw.
            author: who asks.

        Raises:
            UnknownEventError: an event is not held, or waits for the thaw.
        """
        with self._state_lock:
            free = free_to_settle(self._learning.state)
        strangers = sorted(set(seqs or ()) - set(free))
        if strangers:
            raise UnknownEventError(f"events {strangers[:10]} are not in quarantine, or wait for the thaw")
        return self.stage_action(action, author, {"ranges": to_ranges(free if seqs is None else seqs)})

    # What is learned.

    def learn(self) -> int:
        """Learn the next batch of events, for the learning thread only. Returns how many events it took."""
        batch = self.backlog.take()
        with self._state_lock:
            self._selections.count(self._learning.state)
            if batch is None:
                return 0
            self._learning.apply(batch)
        return len(batch)

    def snapshot(self) -> HeadSnapshot:
        """The weights as learned so far, ready to be published."""
        with self._drafting:
            with self._state_lock:
                state = self._learning.state
                draft, version, view = self.rule.draft(state.rule), state.version, state.view
            head = draft()
        self._newest = build_snapshot(
            head, version=version, view=view, epoch=self.log.epoch, fingerprint=self.fingerprint
        )
        return self._newest

    def compare(self) -> None:
        """Judge what has been learned since the last time: rules side by side, and what to beat. For one thread."""
        self._comparison.look(self._heads, self.log.decision)
        with self._state_lock:
            tenures = self._learning.state.tenures.copy()
        self._baselines.look(self._newest, self.log.decision, tenures.held_through)

    def _note_learned(self, events: Sequence[RewardEvent]) -> None:
        self._comparison.note(events)
        self._baselines.note(events)

    def _heads(self) -> Heads | None:
        with self._drafting, self._state_lock:
            state, learning = self._learning.state, self._learning
            if not state.shadows:
                return None
            heads = {state.identity.label: learning.rule.head(state.rule)}
            for label, rule in learning.shadow_rules(state).items():
                heads[label] = rule.head(state.shadows[label].rule)
            snapshots = {
                label: build_snapshot(head, version=state.version, view=state.view) for label, head in heads.items()
            }
            return Heads(state.identity.label, snapshots)

    def capture(self) -> Captured:
        """What a checkpoint saves: the state as learned so far, in tensors of its own."""
        with self._state_lock:
            self._selections.count(self._learning.state)
            return Captured(self._learning.state.copy(), self._selections.counted)

    # What is told.

    def explain(self, decision_id: str) -> ExplainedDecision | None:
        """A decision and its rewards so far, or None if it is not known."""
        decision = self.log.decision(decision_id)
        if decision is None:
            return None
        found, _ = self.log.find([decision_id], [])
        reported = found.get(decision_id) or Reported(0.0)
        return ExplainedDecision(decision, reported.rewards, reported.authors)

    def held_events(self, after: int, limit: int) -> tuple[int, list[HeldEvent]]:
        """How many events are held, and those after that place, oldest first."""
        with self._state_lock:
            held = dict(self._learning.state.held)
        wanted = list(islice((seq for seq in held if seq > after), limit))
        return len(held), [HeldEvent(event, held[event.seq]) for event in self.log.reward_events(wanted)]

    def held_places(self) -> list[int]:
        """The places of the held events."""
        with self._state_lock:
            return list(self._learning.state.held)

    def describe(self) -> dict[str, object]:
        """Figures for people and monitoring, as `/v1/state` shows them under `learner`."""
        with self._ingest_lock:
            trust = self._trust.describe(self._clock())
        with self._state_lock:
            state = self._learning.state
            held = Counter(why.value for why in state.held.values())
            decisions = self.counters["decisions"]
            return {
                "epoch": self.log.epoch,
                "version": state.version,
                "events_logged": self.log.last_seq,
                "events_applied": state.version,
                "rule": self.rule.name,
                "rules": self._describe_rules(),
                "durable": self.log.durable,
                "log_id": self.log.id,
                "frozen": state.frozen,
                "quarantine": {why.value: held[why.value] for why in Held},
                "trust": trust,
                **self._learning.progress.describe(),
                "drift": self._learning.progress.drift.describe(),
                "baselines": self._baselines.describe(),
                "decisions": decisions,
                "join_rate": self.counters["decisions_joined"] / decisions if decisions else None,
                "counters": dict(self.counters),
                "fingerprint": self.fingerprint,
            }

    def _describe_rules(self) -> dict[str, object]:
        """The rule that serves and the shadows, by label."""
        state, progress = self._learning.state, self._learning.progress
        serving = {
            "serves": True,
            "served_since": state.served_since,
            "learns_since": state.identity.since,
            "moving_loss": progress.describe()["moving_loss"],
            "would_earn": self._comparison.describe(state.identity.label) if state.shadows else None,
        }
        shadows = {
            label: {
                "serves": False,
                "learns_since": shadow.identity.since,
                "moving_loss": progress.moving_loss_of(label),
                "refused": progress.refused_by_shadows[label],
                "would_earn": self._comparison.describe(label),
            }
            for label, shadow in state.shadows.items()
        }
        return {state.identity.label: serving, **shadows}

    def uid_table(self) -> list[dict[str, object]]:
        """One row per uid: its owner, whether it may be selected, and what it has earned."""
        with self._state_lock:
            self._selections.count(self._learning.state)
            view, statistics = self._learning.state.view, self._learning.state.statistics
            return [
                {
                    "uid": uid,
                    "hotkey": view.hotkeys[uid],
                    "available": view.available[uid],
                    "selections": int(statistics.selections[uid]),
                    "rewards": int(statistics.rewards[uid]),
                    "mean_reward": _ratio(float(statistics.reward_sum[uid]), int(statistics.rewards[uid])),
                    "resets": int(statistics.resets[uid]),
                }
                for uid in range(view.n)
            ]


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None
