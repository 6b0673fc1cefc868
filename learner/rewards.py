"""Joining rewards to decisions: every reported reward is accepted, a duplicate, or rejected with a reason.

Pure: time comes in as an argument, and what is to be logged goes out as events. The index holds ids and
outcomes; embeddings stay in the event log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gating.metagraph import MetagraphView, ResyncPlan

from .errors import DecisionPendingError, RepeatedUidError, UnknownUidError
from .events import Decision, Outcome, Rejection, RewardEvent, RewardItem

RETENTION_WINDOWS = 6
"""Decisions are kept for this many reward windows, so that a late reward is known to be late."""


@dataclass(slots=True)
class Reported:
    """What is known of one decision's (or one reward id's) rewards so far: uid -> reward, uid -> author.

    `version` is that of the weights that decided, 0 where they were of another epoch.
    """

    at_s: float
    version: int = 0
    uids: tuple[int, ...] = ()
    hotkeys: tuple[str, ...] = ()
    rewards: dict[int, float] = field(default_factory=dict)
    authors: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class JoinResult:
    """Events to log, and the account of every reported reward."""

    events: list[RewardEvent] = field(default_factory=list)
    accepted: int = 0
    duplicates: int = 0
    rejected: list[Rejection] = field(default_factory=list)


class RewardJoin:
    """The index of decisions that may still earn rewards.

    Args:
        window_s: how long after a decision its rewards are learned.
        reward_range: least and greatest reward.
        epoch: the epoch that versions and sequence numbers belong to.
        embedding_of: the embedding of a decision, None once it is erased.
    """

    def __init__(
        self,
        *,
        window_s: float,
        reward_range: tuple[float, float],
        epoch: int,
        embedding_of: Callable[[str], NDArray[np.float16] | None],
    ) -> None:
        self.window_s = window_s
        self.reward_range = reward_range
        self._epoch = epoch
        self._embedding_of = embedding_of
        # Both in order of time, so that what is past its retention stands in front.
        self._decisions: dict[str, Reported] = {}
        self._reward_ids: dict[str, Reported] = {}
        # uid -> the resync at which its row last changed hands, and the hotkeys that its owner has had since.
        self._owned_since: dict[int, int] = {}
        self._former_hotkeys: dict[int, set[str]] = {}
        self.joined_decisions = 0

    def add_decisions(self, decisions: Iterable[Decision], now_s: float) -> list[Decision]:
        """Take in decisions; returns those that were not known yet."""
        new = []
        for decision in decisions:
            if decision.id in self._decisions:
                continue
            new.append(decision)
            version = decision.version if decision.epoch == self._epoch else 0
            self._decisions[decision.id] = Reported(now_s, version, decision.uids, decision.hotkeys)
        return new

    def follow(self, plan: ResyncPlan, previous: MetagraphView, seq: int) -> None:
        """Take note of a resync.

        Args:
            plan: no decision made before it has rewards for the rows that changed hands there.
            previous: the network before it; an owner that has swapped its hotkey since is still the same.
            seq: the resync's place in the log.
        """
        for uid, row in enumerate(plan.source):
            if row != uid:
                self._owned_since[uid] = seq
                self._former_hotkeys.pop(uid, None)
        for uid in plan.swapped:
            self._former_hotkeys.setdefault(uid, set()).add(previous.hotkeys[uid])

    def expire(self, now_s: float) -> list[str]:
        """Drop what is past its retention; returns the ids of the decisions dropped."""
        before = now_s - RETENTION_WINDOWS * self.window_s
        _drop_older(self._reward_ids, before)
        return _drop_older(self._decisions, before)

    def rewards_of(self, decision_id: str) -> dict[int, float]:
        """The rewards reported for a decision so far, by uid."""
        known = self._decisions.get(decision_id)
        return dict(known.rewards) if known else {}

    def authors_of(self, decision_id: str) -> dict[int, str]:
        """Who reported the rewards of a decision so far, by uid."""
        known = self._decisions.get(decision_id)
        return dict(known.authors) if known else {}

    def join(
        self, items: Sequence[RewardItem], view: MetagraphView, now_s: float, is_pending: Callable[[str], bool]
    ) -> JoinResult:
        """Account for every reward of a report.

        Args:
            items: what was reported.
            view: who holds which uid now.
            now_s: the time, on the clock that `add_decisions` was given.
            is_pending: whether a decision that is not known may still arrive.

        Raises:
            UnknownUidError: a reward names a uid that the network does not have.
            RepeatedUidError: an item names a uid twice.
            DecisionPendingError: a decision may still arrive. Whichever is raised, nothing was changed.
        """
        for index, item in enumerate(items):
            self._check_uids(index, item, view)
        for item in items:
            unknown = item.decision_id is not None and item.decision_id not in self._decisions
            if unknown and is_pending(str(item.decision_id)):
                raise DecisionPendingError(f"decision {item.decision_id} has not arrived yet; send the request again")
        result = JoinResult()
        for index, item in enumerate(items):
            self._join_item(index, item, view, now_s, result)
        return result

    def _check_uids(self, index: int, item: RewardItem, view: MetagraphView) -> None:
        if len(set(item.uids)) != len(item.uids):
            raise RepeatedUidError(f"rewards[{index}] names a uid twice; report each uid once")
        known = self._decisions.get(item.decision_id or "")
        for uid in item.uids:
            # A uid that the decision chose and the network has since lost is stale, not unknown.
            if not 0 <= uid < view.n and not (known and uid in known.uids):
                raise UnknownUidError(f"rewards[{index}] names uid {uid}; the network has uids 0 to {view.n - 1}")

    def _join_item(self, index: int, item: RewardItem, view: MetagraphView, now_s: float, result: JoinResult) -> None:
        refusal = self._refuse(item)
        if refusal is not None:
            result.rejected.append(Rejection(index, *refusal))
            return
        reported = self._reported(item, now_s)
        late = now_s - reported.at_s > self.window_s
        fresh: list[tuple[int, float]] = []
        for uid, reward in zip(item.uids, item.rewards, strict=True):
            if uid in reported.rewards:
                result.duplicates += 1
            elif self._owner_changed(reported, uid, view):
                detail = f"uid {uid} has changed its owner since the decision"
                result.rejected.append(Rejection(index, "stale_hotkey", detail, uid))
            else:
                fresh.append((uid, reward))
                if late:
                    detail = f"the reward came more than {self.window_s:g} s after the decision: logged, not learned"
                    result.rejected.append(Rejection(index, "late", detail, uid))
        if fresh:
            self._take(item, reported, fresh, late, result)

    def _take(
        self,
        item: RewardItem,
        reported: Reported,
        fresh: list[tuple[int, float]],
        late: bool,
        result: JoinResult,
    ) -> None:
        embedding = item.embedding if item.decision_id is None else self._embedding_of(item.decision_id)
        if embedding is None:
            raise LookupError(f"an item without an embedding passed _refuse: {item}")
        if item.decision_id is not None and not reported.rewards:
            self.joined_decisions += 1
        reported.rewards.update(fresh)
        reported.authors.update((uid, item.author) for uid, _ in fresh)
        result.accepted += 0 if late else len(fresh)
        result.events.append(
            RewardEvent(
                uids=tuple(uid for uid, _ in fresh),
                rewards=tuple(reward for _, reward in fresh),
                outcome=Outcome.LATE if late else Outcome.LEARNED,
                embedding=embedding,
                decision_id=item.decision_id,
                reward_id=item.reward_id,
                author=item.author,
            )
        )

    def _refuse(self, item: RewardItem) -> tuple[str, str] | None:
        """Code and detail if the item as a whole cannot be taken."""
        if item.decision_id is not None:
            known = self._decisions.get(item.decision_id)
            if known is None:
                return "unknown_decision", f"there is no decision {item.decision_id}, or it is too old"
            strangers = [uid for uid in item.uids if uid not in known.uids]
            if strangers:
                chosen = list(known.uids)
                return "uid_not_in_decision", f"uids {strangers} were not chosen by this decision, which chose {chosen}"
        low, high = self.reward_range
        outside = [reward for reward in item.rewards if not low <= reward <= high]
        if outside:
            return "out_of_range", f"rewards {outside} lie outside [{low:g}, {high:g}]"
        if item.decision_id is not None and self._embedding_of(item.decision_id) is None:
            return "embedding_erased", f"the embedding of decision {item.decision_id} was erased on request"
        return None

    def _reported(self, item: RewardItem, now_s: float) -> Reported:
        if item.decision_id is not None:
            return self._decisions[item.decision_id]
        return self._reward_ids.setdefault(str(item.reward_id), Reported(at_s=now_s))

    def _owner_changed(self, reported: Reported, uid: int, view: MetagraphView) -> bool:
        if not reported.hotkeys:
            return False
        # The hotkey alone would miss an owner that lost the uid and came back.
        if uid >= view.n or reported.version < self._owned_since.get(uid, 0):
            return True
        then = reported.hotkeys[reported.uids.index(uid)]
        return then != view.hotkeys[uid] and then not in self._former_hotkeys.get(uid, ())


def _drop_older(entries: dict[str, Reported], before_s: float) -> list[str]:
    dropped = []
    for key, entry in entries.items():
        if entry.at_s >= before_s:
            break
        dropped.append(key)
    for key in dropped:
        del entries[key]
    return dropped
