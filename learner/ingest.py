"""What passes into the log: decisions, rewards, views and actions, many callers' in one transaction.

Whoever wants something logged brings a `Stage`; `commit` writes many of them at once. What an answer acknowledges
is in the log before the answer exists, and waits in a queue for being learned.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import ChainMap, Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gating.message import message
from gating.metagraph import MetagraphView, plan_resync

from .backlog import Backlog
from .config import LearnerConfig
from .draft import Draft, Stage
from .errors import (
    EncoderMismatchError,
    LearnerError,
    LogError,
    LogUnavailableError,
    OverloadedError,
    StaleViewError,
)
from .event_log import EventLog
from .events import (
    Action,
    Decision,
    OperatorEvent,
    Outcome,
    Publish,
    ResyncEvent,
    RewardEvent,
    Standing,
    split_decision_id,
)
from .protocol import DecisionBatch, RewardItem, RewardReport
from .remembered_trust import remembered_trust
from .rewards import Network, RewardJoin
from .state import LearnerState
from .trust import AuthorView

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_WAITING = 100_000
_DEFAULTS_AT_ONCE = 1_000
_DEFAULTS_BEFORE = 10_000
"""With so many events waiting to be learned there is no hurry to add what nobody has reported."""


@message
class ResyncSummary:
    """What a resync did: the uids whose rows changed and the version that shows it."""

    block: int
    n: int
    reset: tuple[int, ...]
    added: tuple[int, ...]
    removed: tuple[int, ...]
    seq: int


class Ingest:
    """Logs what passes through, and queues it for being learned. One lock guards all of it.

    Args:
        config: how to learn.
        dim: width of the embeddings.
        fingerprint: the encoder that they come from; others are refused.
        log: where events are kept before they are acknowledged.
        clock: seconds on the log's clock.
        on_hotkey_swap: whether an owner that exchanged its own hotkey keeps its row.
        state: what has been learned up to the end of the log.
        on_decisions: told of decisions that are in the log now, with the lock held.
    """

    def __init__(
        self,
        *,
        config: LearnerConfig,
        dim: int,
        fingerprint: str,
        log: EventLog,
        clock: Callable[[], float],
        on_hotkey_swap: Literal["keep", "reset"],
        state: LearnerState,
        on_decisions: Callable[[Sequence[Decision]], None],
    ) -> None:
        self.backlog = Backlog(state.version)
        self.config = config
        self.dim = dim
        self.fingerprint = fingerprint
        self.log = log
        self.counters: Counter[str] = Counter()
        self._clock = clock
        self._on_hotkey_swap = on_hotkey_swap
        self._on_decisions = on_decisions
        self._trust = remembered_trust(config.trust, state, log, dim=dim, now_s=clock())
        self._ingest_lock = threading.Lock()
        self._join = RewardJoin(
            window_s=config.reward_window_s,
            reward_range=config.reward_range,
            lookup=log,
            comparable=self._is_comparable,
            # Decisions are counted from the start, and so are those that are joined: else it were more than all.
            counted_after_s=log.last_time_s or -math.inf,
        )
        self._network = Network(state.view, state.tenures.copy())
        # The last decision that came from each replica; a replica sends its decisions in order.
        self._latest: dict[str, int] = {}
        # Decisions whose embedding is being erased: no more rewards are joined to them.
        self._erasing: dict[str, NDArray[np.float16] | None] = {}
        # What a failed commit may have written after all; None if the last one succeeded.
        self._doubtful: Draft | None = None

    def _is_comparable(self, epoch: int) -> bool:
        """Whether versions of that epoch can be compared with the places of this log's resyncs."""
        return self.log.durable or epoch == self.log.epoch

    @property
    def view(self) -> MetagraphView:
        """The network that reports are judged by: the latest one logged."""
        return self._network.view

    @property
    def has_work(self) -> bool:
        """Whether events wait to be learned."""
        return len(self.backlog) > 0

    def commit(self, stages: Sequence[Stage[Any]]) -> list[Any]:
        """Log what many callers want in one transaction.

        Returns:
            For each stage what it returned, or the LearnerError that it raised.

        Raises:
            LogUnavailableError: nothing may be acknowledged; what was written all the same will be learned.
            FencedError: another learner has taken over.
        """
        with self._ingest_lock:
            self._settle_doubt()
            self._join.trim()
            network, erasing = self._network, self._erasing
            try:
                draft = Draft(self._clock(), self.log.last_seq)
                self._add_verdicts(draft)
                answers = [_run(stage, draft) for stage in stages]
                if not draft.is_empty:
                    self._write(draft)
            except LogUnavailableError:
                # What was staged may never be in the log, so nothing of it may be known.
                self._join.clear()
                self._network, self._erasing = network, erasing
                raise
            self.counters.update(+draft.counters)
        return answers

    def stage_decisions(self, batch: DecisionBatch) -> Stage[None]:
        """Take decisions in; known ones are ignored, so a batch may be sent again.

        A replica sends one batch at a time, in the order of its counter, and first of all again what was not
        answered: so a counter beyond all that came is known to be new without asking the log.

        Raises:
            EncoderMismatchError: the embeddings come from another encoder.
        """
        if batch.fingerprint != self.fingerprint:
            raise EncoderMismatchError(
                f"decisions of encoder {batch.fingerprint[:12]} were sent to a learner of encoder "
                f"{self.fingerprint[:12]}; another encoder is another application with its own state"
            )
        if batch.embedding.shape[1] != self.dim:
            raise self._wrong_width(batch.embedding.shape[1:])
        decisions = batch.decisions

        def stage(draft: Draft) -> None:
            self._join.load([decision.id for decision in decisions if not self._is_new(decision.id)])
            new = self._join.add_decisions(decisions, draft.at_s)
            draft.add_decisions(new)
            draft.counters["decisions"] += len(new)

        return stage

    def stage_rewards(self, items: Sequence[RewardItem], expected: Collection[str] = ()) -> Stage[RewardReport]:
        """Log a report of rewards.

        Args:
            items: what was reported.
            expected: ids of decisions that may still be on their way.

        Raises:
            EncoderMismatchError: an embedding has another width; nothing was changed.

        The stage raises UnknownUidError, RepeatedUidError, DecisionPendingError, see `RewardJoin.join`, and
        OverloadedError.
        """
        self._check_width(item.embedding for item in items)

        def stage(draft: Draft) -> RewardReport:
            if len(self.backlog) + len(draft.events) > _MOST_WAITING:
                raise OverloadedError(f"{len(self.backlog)} events wait to be learned; send the request again later")
            result = self._join.join(
                items,
                self._network,
                draft.at_s,
                is_pending=lambda decision_id: decision_id in expected and not self._is_past(decision_id),
                staged=ChainMap(self._erasing, draft.embeddings),
            )
            draft.events += result.events
            draft.counters["rewards_accepted"] += result.accepted
            draft.counters["rewards_duplicate"] += result.duplicates
            draft.counters["decisions_joined"] += result.joined_decisions
            for rejection in result.rejected:
                # An item rejected as a whole takes all of its rewards with it.
                count = 1 if rejection.uid is not None else len(items[rejection.index].uids)
                draft.counters[f"rewards_{rejection.code}"] += count
            return RewardReport(result.accepted, result.duplicates, tuple(result.rejected), draft.last_seq)

        return stage

    def stage_resync(self, view: MetagraphView, author: str | None = None) -> Stage[ResyncSummary]:
        """Log that the network is now `view`; the learning thread applies it in its turn.

        Args:
            view: the network.
            author: the operator who asked for it, None if it was due by itself.

        The stage raises StaleViewError: the view is older than the one in use.
        """

        def stage(draft: Draft) -> ResyncSummary:
            used = self._network.view
            if view.netuid == used.netuid and view.block < used.block:
                raise StaleViewError(f"the view of block {view.block} is older than that of block {used.block} in use")
            if author is not None:
                draft.events.append(OperatorEvent(Action.RESYNC, author))
            plan = plan_resync(used, view, on_hotkey_swap=self._on_hotkey_swap)
            if view != used:
                seq = draft.last_seq + 1
                draft.events.append(
                    ResyncEvent(view=view, seed=self.config.seed + seq, on_hotkey_swap=self._on_hotkey_swap)
                )
                self._network = self._network.after(view, plan, seq)
            draft.counters["resyncs"] += 1
            draft.counters["rows_reset"] += len(plan.reset)
            logger.info("resync block=%d n=%d reset=%d", view.block, view.n, len(plan.reset))
            return ResyncSummary(view.block, view.n, plan.reset, plan.added, plan.removed, draft.last_seq)

        return stage

    def stage_erasure(self, decision_id: str, author: str) -> Stage[int]:
        """Log that a decision's embedding is to be erased; rewards that come after are rejected as `embedding_erased`.

        The answer is its place in the log.
        """
        log_it = self.stage_action(Action.ERASE, author, {"decision_id": decision_id})

        def stage(draft: Draft) -> int:
            self._erasing = {**self._erasing, decision_id: None}
            return log_it(draft)

        return stage

    def finish_erasure(self, decision_id: str) -> bool:
        """Forget the embedding of a decision whose erasure is in the log, for good; whether it was known.

        Raises:
            LogUnavailableError: it may still be there, and the decision takes no more rewards all the same.
            FencedError: see `commit`.
        """
        known = self.log.erase_embedding(decision_id)
        with self._ingest_lock:
            # From here on the log itself says that there is none.
            self._erasing = {key: nothing for key, nothing in self._erasing.items() if key != decision_id}
        return known

    def stage_action(self, action: Action, author: str, arguments: dict[str, Any] | None = None) -> Stage[int]:
        """Log an operator's action; the answer is its place in the log."""

        def stage(draft: Draft) -> int:
            draft.events.append(OperatorEvent(action, author, arguments or {}))
            logger.info("operator_action action=%s author=%s seq=%d", action.value, author, draft.last_seq)
            return draft.last_seq

        return stage

    def stage_standing(self, subject: str, standing: Standing, author: str) -> Stage[int]:
        """Log what an operator says of an author; the answer is its place in the log.

        Args:
            subject: the author that it is about.
            standing: trusted: nothing holds or weakens its rewards; distrusted: all are held; auto: neither, and what
                reward trust has found so far is forgotten.
            author: who says so.
        """
        return self.stage_action(Action.STANDING, author, {"author": subject, "standing": standing.value})

    def authors(self) -> list[AuthorView]:
        """Every author that reward trust remembers."""
        with self._ingest_lock:
            return self._trust.authors(self._clock())

    def stage_publish(self, version: int) -> Stage[None]:
        """Note that a version was published."""

        def stage(draft: Draft) -> None:
            draft.publishes.append(Publish(version, draft.at_s))

        return stage

    def stage_default_rewards(self) -> Stage[bool]:
        """Log the default reward of decisions whose window has passed, a part of them at a time.

        The answer is whether there may be more to log at once. While a great deal waits to be learned, nothing is
        added to it: reports come first, and would be refused for the sake of what is merely assumed.
        """

        def stage(draft: Draft) -> bool:
            reward = self.config.default_reward
            if reward is None or len(self.backlog) + len(draft.events) >= _DEFAULTS_BEFORE:
                return False
            due = self.log.unrewarded(draft.at_s - self.config.reward_window_s, _DEFAULTS_AT_ONCE)
            ids = [chosen.decision_id for chosen in due]
            self._join.load(ids)
            embeddings = {**self.log.embeddings(ids), **self._erasing}
            for decision_id in ids:
                event = self._join.default_rewards(decision_id, reward, self._network, embeddings.get(decision_id))
                if event is not None:
                    draft.events.append(event)
                    draft.counters["rewards_default"] += len(event.uids)
            if due:
                draft.defaults_until = due[-1].row
            return len(due) == _DEFAULTS_AT_ONCE

        return stage

    def add_decisions(self, batch: DecisionBatch) -> None:
        """Log decisions by themselves, see `stage_decisions`."""
        self.commit_one(self.stage_decisions(batch))

    def add_rewards(self, items: Sequence[RewardItem], expected: Collection[str] = ()) -> RewardReport:
        """Log a report by itself, see `stage_rewards`."""
        return self.commit_one(self.stage_rewards(items, expected))

    def resync(self, view: MetagraphView, author: str | None = None) -> ResyncSummary:
        """Log a view by itself, see `stage_resync`."""
        return self.commit_one(self.stage_resync(view, author))

    def commit_one(self, stage: Stage[T]) -> T:
        """Log by itself what one caller wants, and raise what its stage raises."""
        [answer] = self.commit([stage])
        if isinstance(answer, LearnerError):
            raise answer
        result: T = answer
        return result

    def renew(self) -> None:
        """Renew the claim on the log while there is nothing to write.

        Raises:
            LogUnavailableError, FencedError: see `commit`.
        """
        with self._ingest_lock:
            self._settle_doubt()
            self.log.renew()

    def _add_verdicts(self, draft: Draft) -> None:
        """What reward trust has found since the last commit comes before all that this one brings."""
        for event in self._trust.verdicts(draft.at_s):
            draft.events.append(event)
            draft.counters[f"authors_{event.arguments['standing']}"] += 1
            logger.warning("author_%s author=%s", event.arguments["standing"], event.arguments["author"])

    def _judge(self, draft: Draft) -> None:
        draft.events = self._trust.judge(draft.events, draft.at_s)
        for event in draft.events:
            if isinstance(event, RewardEvent) and event.outcome is Outcome.QUARANTINED:
                draft.counters["rewards_quarantined"] += len(event.uids)

    def _write(self, draft: Draft) -> None:
        self._judge(draft)
        commit = draft.finish(self.config.batch_rewards)
        try:
            self.log.commit(commit)
        except LogUnavailableError:
            # It may have been written: the log is asked before anything else is.
            self._doubtful = draft
            raise
        self._trust.observe(commit.events, draft.at_s)
        self._took(draft.decisions)
        self.backlog.add(commit.events)

    def _settle_doubt(self) -> None:
        """After a commit that failed: learn what it has written all the same."""
        draft = self._doubtful
        if draft is None:
            return
        self.log.refresh()
        was_written = self.log.last_seq > draft.after_seq
        written, _ = self.log.find([decision.id for decision in draft.decisions], [])
        self._took([decision for decision in draft.decisions if decision.id in written])
        for batch in self.log.batches(self.backlog.until):
            for event in batch:
                if isinstance(event, ResyncEvent):
                    plan = plan_resync(self._network.view, event.view, on_hotkey_swap=event.on_hotkey_swap)
                    self._network = self._network.after(event.view, plan, event.seq)
            self._trust.observe(batch, draft.at_s)
            self.backlog.add(batch)
        if was_written or written:
            self.counters.update(+draft.counters)
        self._doubtful = None

    def _took(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            incarnation, counter = split_decision_id(decision.id)
            self._latest[incarnation] = max(counter, self._latest.get(incarnation, 0))
        self._on_decisions(decisions)

    def _check_width(self, embeddings: Iterable[NDArray[np.float16] | None]) -> None:
        for embedding in embeddings:
            if embedding is not None and embedding.shape != (self.dim,):
                raise self._wrong_width(embedding.shape)

    def _wrong_width(self, shape: tuple[int, ...]) -> EncoderMismatchError:
        return EncoderMismatchError(f"an embedding has shape {shape}; this learner's encoder makes ({self.dim},)")

    def _is_new(self, decision_id: str) -> bool:
        """Whether the log cannot have it: its replica sends in order, and has not come so far."""
        incarnation, counter = split_decision_id(decision_id)
        return incarnation in self._latest and counter > self._latest[incarnation]

    def _is_past(self, decision_id: str) -> bool:
        """Whether its replica has sent later ones already."""
        incarnation, counter = split_decision_id(decision_id)
        return counter <= self._latest.get(incarnation, 0)


def _run(stage: Stage[Any], draft: Draft) -> Any:
    try:
        return stage(draft)
    except LogError:
        raise
    except LearnerError as error:
        return error
