"""The whole learner as a plain class: ingest -> log -> learn -> snapshot, and resync.

Two locks, always taken in the order ingest, state. *Ingest* guards what reports pass through (join index, log,
queue, the view that reports are judged by), *state* guards what learning changes. Events are learned by one
thread in the order of the log; a resync is one of them, so a row is never reset beside the update of a reward
that was earned before.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gating.metagraph import MetagraphView, plan_resync

from .config import LearnerConfig
from .errors import EncoderMismatchError, StaleViewError
from .event_log import EventLog
from .events import (
    Decision,
    DecisionBatch,
    Event,
    Outcome,
    ResyncEvent,
    RewardEvent,
    RewardItem,
    RewardReport,
)
from .resync import apply_resync
from .rewards import RewardJoin
from .rules import LearnBatch, Rule
from .state import HeadSnapshot, LearnerState, UidStatistics, build_snapshot

logger = logging.getLogger(__name__)

_MOVING_WINDOW = 500


@dataclass(frozen=True, slots=True)
class ResyncSummary:
    """What a resync did: the uids whose rows changed and the version that shows it."""

    block: int
    n: int
    reset: tuple[int, ...]
    added: tuple[int, ...]
    removed: tuple[int, ...]
    seq: int


@dataclass(frozen=True, slots=True)
class ExplainedDecision:
    """A decision, and the rewards reported for it so far and their authors, by uid."""

    decision: Decision
    rewards: dict[int, float]
    authors: dict[int, str]


class Learner:
    """Takes decisions and rewards, learns from them in log order, follows the network.

    Args:
        config: how to learn.
        rule: the learning rule.
        view: the network at the start.
        dim: width of the embeddings.
        fingerprint: the encoder that they come from; others are refused.
        log: where events are kept before they are acknowledged.
        clock: seconds on a clock that never goes back.
        on_hotkey_swap: whether an owner that exchanged its own hotkey keeps its row.
    """

    def __init__(
        self,
        *,
        config: LearnerConfig,
        rule: Rule,
        view: MetagraphView,
        dim: int,
        fingerprint: str,
        log: EventLog,
        clock: Callable[[], float],
        on_hotkey_swap: Literal["keep", "reset"] = "keep",
    ) -> None:
        self.config = config
        self.rule = rule
        self.dim = dim
        self.fingerprint = fingerprint
        self.log = log
        self._clock = clock
        self._on_hotkey_swap = on_hotkey_swap
        self._ingest_lock = threading.Lock()
        self._join = RewardJoin(
            window_s=config.reward_window_s,
            reward_range=config.reward_range,
            epoch=log.epoch,
            embedding_of=self._embedding_of,
        )
        self._view = view
        self._queue: deque[Event] = deque()
        # The last decision that came from each replica; a replica sends its decisions in order.
        self._latest: dict[str, int] = {}
        self.counters: Counter[str] = Counter()

        self._state_lock = threading.Lock()
        generator = torch.Generator().manual_seed(config.seed)
        self._state = LearnerState(
            view=view,
            rule=rule.initial_state(view.n, dim, generator),
            statistics=UidStatistics.empty(view.n),
            version=log.last_seq,
        )
        self._recent_rewards: deque[float] = deque(maxlen=_MOVING_WINDOW)
        self._recent_losses: deque[float] = deque(maxlen=_MOVING_WINDOW)

    @property
    def view(self) -> MetagraphView:
        """The network that reports are judged by: the latest one logged."""
        return self._view

    @property
    def version(self) -> int:
        """The last log sequence number that has been learned."""
        return self._state.version

    @property
    def has_work(self) -> bool:
        """Whether events wait to be learned."""
        return bool(self._queue)

    def add_decisions(self, batch: DecisionBatch) -> None:
        """Take decisions in; known ones are ignored, so a batch may be sent again.

        Raises:
            EncoderMismatchError: the embeddings come from another encoder.
        """
        if batch.fingerprint != self.fingerprint:
            raise EncoderMismatchError(
                f"decisions of encoder {batch.fingerprint[:12]} were sent to a learner of encoder "
                f"{self.fingerprint[:12]}; another encoder is another application with its own state"
            )
        self._check_width(decision.embedding for decision in batch.decisions)
        now_s = self._clock()
        with self._ingest_lock:
            self.log.forget_decisions(self._join.expire(now_s))
            new = self._join.add_decisions(batch.decisions, now_s)
            self.log.append_decisions(new)
            for decision in new:
                incarnation, counter = _split_id(decision.id)
                self._latest[incarnation] = max(counter, self._latest.get(incarnation, 0))
            self.counters["decisions"] += len(new)
        with self._state_lock:
            self._count_selections(new)

    def add_rewards(self, items: Sequence[RewardItem], live: Sequence[str] = ()) -> RewardReport:
        """Log a report of rewards. When this returns, what was accepted is in the log.

        Args:
            items: what was reported.
            live: incarnations of replicas whose decisions may still be on their way.

        Raises:
            UnknownUidError, RepeatedUidError, DecisionPendingError: see `RewardJoin.join`; nothing was changed.
            EncoderMismatchError: an embedding has another width; nothing was changed.
        """
        self._check_width(item.embedding for item in items)
        now_s = self._clock()
        with self._ingest_lock:
            self.log.forget_decisions(self._join.expire(now_s))
            result = self._join.join(
                items, self._view, now_s, lambda decision_id: self._may_still_arrive(decision_id, live)
            )
            self._queue.extend(self.log.append(result.events))
            self.counters["rewards_accepted"] += result.accepted
            self.counters["rewards_duplicate"] += result.duplicates
            for rejection in result.rejected:
                # An item rejected as a whole takes all of its rewards with it.
                count = 1 if rejection.uid is not None else len(items[rejection.index].uids)
                self.counters[f"rewards_{rejection.code}"] += count
            return RewardReport(result.accepted, result.duplicates, tuple(result.rejected), self.log.last_seq)

    def resync(self, view: MetagraphView) -> ResyncSummary:
        """Log that the network is now `view`; the learning thread applies it in its turn.

        Raises:
            StaleViewError: the view is older than the one in use.
        """
        with self._ingest_lock:
            if view.block < self._view.block:
                raise StaleViewError(
                    f"the view of block {view.block} is older than that of block {self._view.block} in use"
                )
            plan = plan_resync(self._view, view, on_hotkey_swap=self._on_hotkey_swap)
            seq = self.log.last_seq
            if view != self._view:
                seed = self.config.seed + self.log.last_seq + 1
                placed = self.log.append([ResyncEvent(view=view, seed=seed, on_hotkey_swap=self._on_hotkey_swap)])
                self._queue.extend(placed)
                seq = placed[-1].seq
                self._join.follow(plan, self._view, seq)
                self._view = view
            self.counters["resyncs"] += 1
        logger.info("resync block=%d n=%d reset=%d", view.block, view.n, len(plan.reset))
        return ResyncSummary(view.block, view.n, plan.reset, plan.added, plan.removed, seq)

    def learn(self) -> int:
        """Learn the next batch of events, for the learning thread only. Returns how many events it took."""
        with self._ingest_lock:
            events = _next_batch(self._queue, self.config.batch_rewards)
            for _ in events:
                self._queue.popleft()
        if not events:
            return 0
        with self._state_lock:
            self._apply(events)
            self._state.version = events[-1].seq
        return len(events)

    def snapshot(self) -> HeadSnapshot:
        """The weights as learned so far, ready to be published."""
        with self._state_lock:
            head = self.rule.head(self._state.rule)
            return build_snapshot(self._state, head, epoch=self.log.epoch, fingerprint=self.fingerprint)

    def explain(self, decision_id: str) -> ExplainedDecision | None:
        """A decision and its rewards so far, or None if it is not known."""
        with self._ingest_lock:
            decision = self.log.decision(decision_id)
            if decision is None:
                return None
            return ExplainedDecision(decision, self._join.rewards_of(decision_id), self._join.authors_of(decision_id))

    def erase_embedding(self, decision_id: str) -> bool:
        """Forget a decision's embedding; rewards that come later are rejected. Whether it was known."""
        with self._ingest_lock:
            return self.log.erase_embedding(decision_id)

    def describe(self) -> dict[str, object]:
        """Figures for people and monitoring, as `/v1/state` shows them under `learner`."""
        with self._ingest_lock, self._state_lock:
            decisions = self.counters["decisions"]
            return {
                "epoch": self.log.epoch,
                "version": self._state.version,
                "events_logged": self.log.last_seq,
                "events_applied": self._state.version,
                "rule": self.rule.name,
                "durable": self.log.durable,
                "log_id": self.log.id,
                "moving_reward": _mean(self._recent_rewards),
                "moving_loss": _mean(self._recent_losses),
                "decisions": decisions,
                "join_rate": self._join.joined_decisions / decisions if decisions else None,
                "counters": dict(self.counters),
                "checkpoint": None,
                "fingerprint": self.fingerprint,
            }

    def uid_table(self) -> list[dict[str, object]]:
        """One row per uid: its owner, whether it may be selected, and what it has earned."""
        with self._state_lock:
            view, statistics = self._state.view, self._state.statistics
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

    def _check_width(self, embeddings: Iterable[NDArray[np.float16] | None]) -> None:
        wrong = [
            embedding.shape for embedding in embeddings if embedding is not None and embedding.shape != (self.dim,)
        ]
        if wrong:
            raise EncoderMismatchError(f"an embedding has shape {wrong[0]}; this learner's encoder makes ({self.dim},)")

    def _may_still_arrive(self, decision_id: str, live: Sequence[str]) -> bool:
        incarnation, counter = _split_id(decision_id)
        return incarnation in live and counter > self._latest.get(incarnation, 0)

    def _embedding_of(self, decision_id: str) -> NDArray[np.float16] | None:
        decision = self.log.decision(decision_id)
        return decision.embedding if decision else None

    def _count_selections(self, decisions: Sequence[Decision]) -> None:
        view, selections = self._state.view, self._state.statistics.selections
        for decision in decisions:
            for uid, hotkey in zip(decision.uids, decision.hotkeys, strict=True):
                if uid < view.n and view.hotkeys[uid] == hotkey:
                    selections[uid] += 1

    def _apply(self, events: Sequence[Event]) -> None:
        match events[0]:
            case ResyncEvent(view=view, seed=seed, on_hotkey_swap=on_hotkey_swap):
                apply_resync(self._state, view, self.rule, seed=seed, on_hotkey_swap=on_hotkey_swap)
            case RewardEvent():
                learned = [e for e in events if isinstance(e, RewardEvent) and e.outcome is Outcome.LEARNED]
                if learned:
                    self._learn_rewards(learned)

    def _learn_rewards(self, events: Sequence[RewardEvent]) -> None:
        batch = _learn_batch(events)
        losses = _update_or_restore(self.rule, self._state, batch)
        if losses is None:
            self._learn_one_by_one(events, batch)
            return
        self._count_rewards(events)
        self._recent_losses.extend(losses.tolist())

    def _learn_one_by_one(self, events: Sequence[RewardEvent], batch: LearnBatch) -> None:
        """A batch led to numbers that are not finite: learn what can be learned, quarantine the rest."""
        for index, event in enumerate(events):
            losses = _update_or_restore(self.rule, self._state, batch.only(index))
            if losses is None:
                self.counters["events_quarantined"] += 1
                logger.error("quarantined seq=%d decision_id=%s", event.seq, event.decision_id)
            else:
                self._count_rewards([event])
                self._recent_losses.extend(losses.tolist())

    def _count_rewards(self, events: Sequence[RewardEvent]) -> None:
        statistics = self._state.statistics
        for event in events:
            for uid, reward in zip(event.uids, event.rewards, strict=True):
                statistics.rewards[uid] += 1
                statistics.reward_sum[uid] += reward
            self._recent_rewards.append(sum(event.rewards) / len(event.rewards))


def _next_batch(queue: deque[Event], limit: int) -> list[Event]:
    """The next resync alone, or the reward events before the next resync."""
    if queue and isinstance(queue[0], ResyncEvent):
        return [queue[0]]
    return list(takewhile(lambda event: isinstance(event, RewardEvent), islice(queue, limit)))


def _learn_batch(events: Sequence[RewardEvent]) -> LearnBatch:
    lengths = torch.tensor([len(event.uids) for event in events])
    return LearnBatch(
        embedding=torch.from_numpy(np.stack([event.embedding for event in events]).astype(np.float32)),
        event=torch.repeat_interleave(torch.arange(len(events)), lengths),
        uids=torch.tensor([uid for event in events for uid in event.uids]),
        rewards=torch.tensor([reward for event in events for reward in event.rewards], dtype=torch.float32),
    )


def _update_or_restore(rule: Rule, state: LearnerState, batch: LearnBatch) -> torch.Tensor | None:
    """Update the state; if a number in it is no longer finite, put it back as it was and return None."""
    uids = torch.unique(batch.uids)
    rows = {name: tensor[uids].clone() for name, tensor in state.rule.rows.items()}
    shared = {name: tensor.clone() for name, tensor in state.rule.shared.items()}
    losses = rule.update(state.rule, batch)
    touched = [losses, *(tensor[uids] for tensor in state.rule.rows.values()), *state.rule.shared.values()]
    if all(bool(tensor.isfinite().all()) for tensor in touched):
        return losses
    for name, tensor in rows.items():
        state.rule.rows[name][uids] = tensor
    state.rule.shared = shared
    return None


def _split_id(decision_id: str) -> tuple[str, int]:
    """The replica's incarnation and its counter, 0 for an id that no replica gives."""
    incarnation, _, counter = decision_id.partition("-")
    return incarnation, int(counter) if counter.isdecimal() else 0


def _mean(values: deque[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None
