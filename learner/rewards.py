"""Joining rewards to decisions: every reported reward is accepted, a duplicate, or rejected with a reason.

Time comes in as an argument, and what is to be logged goes out as events. The log knows every decision and every
reward; the index here only spares it the questions about recent ones, holds no embeddings, and may be cleared at
any time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gating.metagraph import MetagraphView, ResyncPlan

from .errors import DecisionPendingError, RepeatedUidError, UnknownUidError
from .events import Decision, Outcome, Reported, RewardEvent
from .protocol import Rejection, RewardItem
from .tenures import Tenures

DEFAULT_AUTHOR = "default"
"""The author of the rewards that are assumed where none came."""
CAPACITY = 50_000
"""So many decisions, and reward ids, are known without asking the log."""


@runtime_checkable
class Lookup(Protocol):
    """What is asked of the log. See `EventLog`."""

    def find(
        self, decision_ids: Sequence[str], reward_ids: Sequence[str]
    ) -> tuple[dict[str, Reported], dict[str, Reported]]:
        """What is known of decisions and of reward ids."""
        ...

    def embeddings(self, decision_ids: Sequence[str]) -> dict[str, NDArray[np.float16] | None]:
        """The embeddings of decisions."""
        ...


@dataclass(frozen=True, slots=True)
class Network:
    """Who holds which uid, and since when: what reports are judged by. Replaced as a whole."""

    view: MetagraphView
    tenures: Tenures

    def after(self, view: MetagraphView, plan: ResyncPlan, seq: int) -> Network:
        """The network after a resync."""
        tenures = self.tenures.copy()
        tenures.follow(plan, self.view, seq)
        return Network(view, tenures)

    def still_has(self, uid: int, hotkey: str, version: int) -> bool:
        """Whether the uid has the owner that this hotkey was at that version."""
        # The hotkey alone would miss an owner that lost the uid and came back.
        return (
            uid < self.view.n and self.tenures.held_through(uid, version) and self.tenures.owns(uid, hotkey, self.view)
        )


@dataclass(slots=True)
class JoinResult:
    """Events to log, and the account of every reported reward.

    `joined_decisions` are those which had none before, see `RewardJoin`.
    """

    events: list[RewardEvent] = field(default_factory=list)
    accepted: int = 0
    duplicates: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    joined_decisions: int = 0


class RewardJoin:
    """The index of decisions that may still earn rewards.

    Args:
        window_s: how long after a decision its rewards are learned.
        reward_range: least and greatest reward.
        lookup: the log.
        comparable: whether versions of that epoch can be compared with the places of this log's resyncs.
        counted_after_s: of the decisions that arrived later than this, the joined ones are counted.
        capacity: how many decisions, and how many reward ids, the index holds.
    """

    def __init__(
        self,
        *,
        window_s: float,
        reward_range: tuple[float, float],
        lookup: Lookup,
        comparable: Callable[[int], bool],
        counted_after_s: float = -math.inf,
        capacity: int = CAPACITY,
    ) -> None:
        self.window_s = window_s
        self.reward_range = reward_range
        self._lookup = lookup
        self._comparable = comparable
        self._counted_after_s = counted_after_s
        self._capacity = capacity
        self._decisions: dict[str, Reported] = {}
        self._reward_ids: dict[str, Reported] = {}

    def clear(self) -> None:
        """Forget everything: what has been written is not known, and the log will be asked."""
        self._decisions.clear()
        self._reward_ids.clear()

    def trim(self) -> None:
        """Forget the oldest beyond the capacity. Not while a commit is put together: it may not be in the log yet."""
        for known in (self._decisions, self._reward_ids):
            for key in list(islice(known, max(0, len(known) - self._capacity))):
                del known[key]

    def add_decisions(self, decisions: Iterable[Decision], now_s: float) -> list[Decision]:
        """Take in decisions; returns those that the index did not have."""
        new = []
        for decision in decisions:
            if decision.id not in self._decisions:
                new.append(decision)
                self._decisions[decision.id] = Reported(
                    now_s, decision.epoch, decision.version, decision.uids, decision.hotkeys
                )
        return new

    def load(self, decision_ids: Sequence[str], reward_ids: Sequence[str] = ()) -> None:
        """Ask the log about what the index does not have."""
        decisions = [key for key in dict.fromkeys(decision_ids) if key not in self._decisions]
        rewards = [key for key in dict.fromkeys(reward_ids) if key not in self._reward_ids]
        if decisions or rewards:
            found_decisions, found_rewards = self._lookup.find(decisions, rewards)
            self._decisions.update(found_decisions)
            self._reward_ids.update(found_rewards)

    def knows(self, decision_id: str) -> bool:
        """Whether the index has the decision."""
        return decision_id in self._decisions

    def join(
        self,
        items: Sequence[RewardItem],
        network: Network,
        now_s: float,
        *,
        is_pending: Callable[[str], bool],
        staged: Mapping[str, NDArray[np.float16] | None] | None = None,
    ) -> JoinResult:
        """Account for every reward of a report.

        Args:
            items: what was reported.
            network: who holds which uid now.
            now_s: the time, on the log's clock.
            is_pending: whether a decision that is not known may still arrive.
            staged: embeddings of decisions that the log is about to get.

        Raises:
            UnknownUidError: a reward names a uid that the network does not have.
            RepeatedUidError: an item names a uid twice.
            DecisionPendingError: a decision may still arrive. Whichever is raised, nothing was changed.
        """
        decision_ids = [item.decision_id for item in items if item.decision_id is not None]
        self.load(decision_ids, [item.reward_id for item in items if item.reward_id is not None])
        for decision_id in decision_ids:
            # First: its uids may have left the network since, and only the decision tells that they were there.
            if not self.knows(decision_id) and is_pending(decision_id):
                raise DecisionPendingError(f"decision {decision_id} has not arrived yet; send the request again")
        for index, item in enumerate(items):
            self._check_uids(index, item, network.view)
        known = [key for key in dict.fromkeys(decision_ids) if self.knows(key)]
        embeddings = {key: staged[key] for key in known if key in staged} if staged else {}
        embeddings.update(self._lookup.embeddings([key for key in known if key not in embeddings]))
        joining = _Joining(self, network, now_s, embeddings)
        for index, item in enumerate(items):
            joining.join_item(index, item)
        return joining.result

    def default_rewards(
        self, decision_id: str, reward: float, network: Network, embedding: NDArray[np.float16] | None
    ) -> RewardEvent | None:
        """What is learned of a decision whose window has passed: the default for every uid without a reward.

        Returns:
            The event; None if there is nothing to learn.
        """
        reported = self._decisions.get(decision_id)
        if reported is None or embedding is None:
            return None
        missing = [
            uid
            for uid in reported.uids
            if uid not in reported.rewards and not self.owner_changed(reported, uid, network)
        ]
        if not missing:
            return None
        rewards = (reward,) * len(missing)
        reported.note(missing, rewards, DEFAULT_AUTHOR, assumed=True)
        return RewardEvent(
            uids=tuple(missing),
            rewards=rewards,
            outcome=Outcome.DEFAULT,
            embedding=embedding,
            decision_id=decision_id,
            author=DEFAULT_AUTHOR,
        )

    def _check_uids(self, index: int, item: RewardItem, view: MetagraphView) -> None:
        if len(set(item.uids)) != len(item.uids):
            raise RepeatedUidError(f"rewards[{index}] names a uid twice; report each uid once")
        known = self._decisions.get(item.decision_id or "")
        for uid in item.uids:
            # A uid that the decision chose and the network has since lost is stale, not unknown.
            if not 0 <= uid < view.n and not (known and uid in known.uids):
                raise UnknownUidError(f"rewards[{index}] names uid {uid}; the network has uids 0 to {view.n - 1}")

    def owner_changed(self, reported: Reported, uid: int, network: Network) -> bool:
        """Whether what a uid earned would go to another than it was asked of."""
        if not reported.hotkeys:
            return False
        version = reported.version if self._comparable(reported.epoch) else 0
        return not network.still_has(uid, reported.hotkeys[reported.uids.index(uid)], version)


class _Joining:
    """One report on its way through the join."""

    def __init__(
        self, join: RewardJoin, network: Network, now_s: float, embeddings: Mapping[str, NDArray[np.float16] | None]
    ) -> None:
        self._join = join
        self._network = network
        self._now_s = now_s
        self._embeddings = embeddings
        self.result = JoinResult()

    def join_item(self, index: int, item: RewardItem) -> None:
        """Account for one item."""
        refusal = self._refuse(item)
        if refusal is not None:
            self.result.rejected.append(Rejection(index, *refusal))
            return
        reported = self._reported(item)
        fresh: dict[Outcome, list[tuple[int, float]]] = {}
        for uid, reward in zip(item.uids, item.rewards, strict=True):
            outcome = self._outcome(reported, uid)
            if outcome is None:
                self.result.duplicates += 1
                continue
            fresh.setdefault(outcome, []).append((uid, reward))
            if outcome is Outcome.STALE:
                self._reject(index, "stale_hotkey", f"uid {uid} has changed its owner since the decision", uid)
            elif outcome is Outcome.LATE:
                after = f"more than {self._join.window_s:g} s after the decision"
                self._reject(index, "late", f"the reward came {after}: logged, not learned", uid)
        in_time = len(fresh.get(Outcome.LEARNED, ()))
        self.result.accepted += in_time
        counts = item.decision_id is not None and reported.at_s > self._join._counted_after_s
        if in_time and counts and not reported.rewards:
            self.result.joined_decisions += 1
        for outcome, rewards in fresh.items():
            self._take(item, reported, outcome, rewards)

    def _outcome(self, reported: Reported, uid: int) -> Outcome | None:
        """What becomes of a uid's reward; None for one that was reported before."""
        was_assumed = uid in reported.assumed
        # What was assumed is no report: the first real one is still to come.
        if uid in reported.rewards and not was_assumed:
            return None
        if self._join.owner_changed(reported, uid, self._network):
            return Outcome.STALE
        is_late = was_assumed or self._now_s - reported.at_s > self._join.window_s
        return Outcome.LATE if is_late else Outcome.LEARNED

    def _take(self, item: RewardItem, reported: Reported, outcome: Outcome, fresh: list[tuple[int, float]]) -> None:
        uids, rewards = zip(*fresh, strict=True)
        reported.note(uids, rewards, item.author, assumed=False)
        embedding = item.embedding if item.decision_id is None else self._embeddings[item.decision_id]
        self.result.events.append(
            RewardEvent(
                uids=uids,
                rewards=rewards,
                outcome=outcome,
                embedding=embedding,
                decision_id=item.decision_id,
                reward_id=item.reward_id,
                author=item.author,
            )
        )

    def _refuse(self, item: RewardItem) -> tuple[str, str] | None:
        """Code and detail if the item as a whole cannot be taken."""
        if item.decision_id is not None:
            known = self._join._decisions.get(item.decision_id)
            if known is None:
                return "unknown_decision", f"there is no decision {item.decision_id}, or it is too old"
            strangers = [uid for uid in item.uids if uid not in known.uids]
            if strangers:
                chosen = list(known.uids)
                return "uid_not_in_decision", f"uids {strangers} were not chosen by this decision, which chose {chosen}"
        low, high = self._join.reward_range
        outside = [reward for reward in item.rewards if not low <= reward <= high]
        if outside:
            return "out_of_range", f"rewards {outside} lie outside [{low:g}, {high:g}]"
        if item.decision_id is not None and self._embeddings.get(item.decision_id) is None:
            return "embedding_erased", f"the embedding of decision {item.decision_id} was erased on request"
        return None

    def _reported(self, item: RewardItem) -> Reported:
        if item.decision_id is not None:
            return self._join._decisions[item.decision_id]
        return self._join._reward_ids.setdefault(str(item.reward_id), Reported(self._now_s))

    def _reject(self, index: int, code: str, detail: str, uid: int) -> None:
        self.result.rejected.append(Rejection(index, code, detail, uid))
