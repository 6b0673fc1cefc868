"""What choosing at random, and always the same uids, would have earned lately: what a gate has to beat.

Nobody has seen the rewards of those who were not asked, so both are estimates from what was learned lately.

- *Random* asks k uids of all that are available, each as likely as any other. It is estimated doubly robustly (see
  `evaluation`) from the decisions whose candidates were all available uids. The model is the head that was the newest
  before their rewards were learned. Where the log has no support for that (nothing was left to chance) or too little
  of it, it is the mean over uids of what each has earned where it was asked.
- *Best fixed* are the k uids whose mean reward is highest for sure: those with the greatest lower bounds, so that luck
  with a few rewards does not count. k is how many were asked most often.

Observed means are of the prompts for which the uids were chosen. A gate that chooses well asks uids for what they are
good at, so means are rather too high than too low: by them it looks worse than it is, hardly better.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from .evaluation import Z_95, Estimate, Evidence, Status, evaluate
from .events import Decision, RewardEvent
from .judging import Judged, Table, by_slots, same_candidates
from .state import HeadSnapshot


class Learned(NamedTuple):
    """What is kept of an event; no embedding, which somebody may want to be forgotten."""

    seq: int
    decision_id: str | None
    uids: tuple[int, ...]
    rewards: tuple[float, ...]


DecisionOf = Callable[[str], Decision | None]
IsOwnersOwn = Callable[[int, int], bool]

_WINDOW = 5_000
_MOST_AT_ONCE = 500
_ENOUGH_REWARDS = 20
_ENOUGH_DECISIONS = 50
_PSEUDO_REWARDS = 2


@dataclass(frozen=True, slots=True)
class UidMeans:
    """What single uids have earned where they were asked; one entry a uid that was.

    Attributes:
        uids: ascending.
        counts: how many rewards each has.
        means: of its rewards.
        squares: the mean of its squared rewards.
    """

    uids: Int[np.ndarray, " uid"]
    counts: Int[np.ndarray, " uid"]
    means: Float[np.ndarray, " uid"]
    squares: Float[np.ndarray, " uid"]

    @classmethod
    def of(cls, uids: NDArray[np.int64], rewards: NDArray[np.float64]) -> UidMeans:
        """From single rewards and whose they are."""
        known, place = np.unique(uids, return_inverse=True)
        counts = np.bincount(place, minlength=len(known))
        sums = np.bincount(place, rewards, minlength=len(known))
        squares = np.bincount(place, rewards**2, minlength=len(known))
        return cls(known, counts, sums / counts, squares / counts)


class Baselines:
    """See the module's docstring. `note` is for the thread that learns, `look` for one other.

    Args:
        reward_range: what rewards lie in.
        window: estimates are of so many of the events that were learned last.
    """

    def __init__(self, reward_range: tuple[float, float] = (0.0, 1.0), *, window: int = _WINDOW) -> None:
        self._range = reward_range
        self._most = window
        self._lock = threading.Lock()
        self._window: deque[Learned] = deque(maxlen=window)
        self._fresh: list[Learned] = []
        self._head: HeadSnapshot | None = None
        self._judged: deque[Evidence] = deque()
        self._result: dict[str, object] = _describe(0, Estimate(Status.NO_DATA), _nothing(), _nothing())

    def note(self, events: Sequence[RewardEvent]) -> None:
        """These rewards are about to be learned."""
        learned = [Learned(event.seq, event.decision_id, event.uids, event.rewards) for event in events]
        with self._lock:
            self._window.extend(learned)
            head, room = self._head, _MOST_AT_ONCE - len(self._fresh)
            if head is not None and room > 0:
                # An event that was held may be older than the head, which then may know of it.
                self._fresh += [event for event in learned if event.decision_id and event.seq > head.version][:room]

    def look(self, head: HeadSnapshot | None, decision_of: DecisionOf, is_owners_own: IsOwnersOwn) -> None:
        """Estimate anew from what has come since the last look.

        Args:
            head: the newest weights, None before any. It judges what comes from now on.
            decision_of: the decision of an id, None if it is not known any more.
            is_owners_own: whether a uid's owner of now has had it since before that place in the log.
        """
        with self._lock:
            before, fresh, self._fresh, self._head = self._head, self._fresh, [], head
            window = list(self._window)
        if before is not None:
            self._judge(before, fresh, decision_of)
        if head is None or not window:
            return
        means, asked = _means_of(window, head, is_owners_own)
        rewards = np.array([float(np.mean(event.rewards)) for event in window])
        self._result = _describe(
            len(window), _earned(rewards), self._random(head, means), best_fixed(means, asked, self._range)
        )

    def describe(self) -> dict[str, object]:
        """For `/v1/state`: what was earned, and both estimates, each with its status and 95% interval."""
        return self._result

    def _judge(self, head: HeadSnapshot, events: Sequence[Learned], decision_of: DecisionOf) -> None:
        earned: dict[str, dict[int, float]] = {}
        for event in events:
            earned.setdefault(event.decision_id or "", {}).update(zip(event.uids, event.rewards, strict=True))
        decisions, rewards = [], []
        for decision_id, by_uid in earned.items():
            decision = decision_of(decision_id)
            if decision is not None and decision.embedding is not None and set(by_uid) == set(decision.uids):
                decisions.append(decision)
                rewards.append(by_uid)
        rows = same_candidates(head, decisions, np.arange(len(decisions)))
        if len(rows):
            self._judged.append(judge_random(head, Table.of(decisions, rewards), rows))
        while len(self._judged) > 1 and sum(part.size for part in self._judged) > self._most:
            self._judged.popleft()

    def _random(self, head: HeadSnapshot, means: UidMeans) -> dict[str, object]:
        available = int(head.available.sum())
        if self._judged:
            evaluation = evaluate(Evidence.join(list(self._judged)))
            is_enough = evaluation.effective_sample_size >= _ENOUGH_DECISIONS
            if evaluation.dr.status is Status.OK and is_enough:
                told = {"method": "doubly_robust", "decisions": evaluation.decisions, "available": available}
                return {**_told(evaluation.dr), **told}
        told = {"method": "observed_means", "uids": len(means.uids), "available": available}
        return {**_told(mean_of_means(means, self._range)), **told}


def judge_random(head: HeadSnapshot, table: Table, rows: Int[np.ndarray, " batch"]) -> Evidence:
    """What choosing at random thinks of decisions whose candidates were the available uids.

    Args:
        head: predicts what uids earn; must not have learned from these decisions.
        table: the decisions.
        rows: which of them.
    """
    candidates = np.flatnonzero(head.available)
    mean_weight, mean_bias = head.weight[candidates].mean(axis=0), float(head.bias[candidates].mean())
    parts: list[tuple[NDArray[np.int64], Judged]] = []
    for some, slots in by_slots(rows, table, None, len(candidates)):
        embedding, uids = table.embedding[some], table.uids[some]
        asked = uids >= 0
        predicted = np.einsum("bd,bkd->bk", embedding, head.weight[uids]) + head.bias[uids]
        judged = Judged(
            target=np.where(asked, slots / len(candidates), 0.0),
            predicted=np.where(asked, predicted, 0.0).astype(np.float64),
            baseline=(embedding @ mean_weight + mean_bias).astype(np.float64),
            slots=slots,
            candidates=len(candidates),
        )
        parts.append((some, judged))
    return table.evidence(parts)


def mean_of_means(means: UidMeans, reward_range: tuple[float, float]) -> Estimate:
    """What a uid earns on average, every uid counted once however often it was asked.

    The interval is of the noise of the rewards, whose spread is taken to be the same for every uid.
    """
    if not len(means.uids):
        return Estimate(Status.NO_DATA)
    freedom = int((means.counts - 1).sum())
    within = float((means.counts * (means.squares - means.means**2)).sum())
    low, high = reward_range
    # The widest that there can be, as long as no uid has two rewards.
    variance = max(within, 0.0) / freedom if freedom else (high - low) ** 2 / 4
    margin = Z_95 * float((variance / means.counts).sum()) ** 0.5 / len(means.uids)
    value = float(means.means.mean())
    return Estimate(Status.OK, value, value - margin, value + margin)


def best_fixed(means: UidMeans, k: int, reward_range: tuple[float, float]) -> dict[str, object]:
    """The k uids with the greatest lower bounds of their mean rewards, and what they earn on average.

    Bounds are normal ones after two rewards at each end of the range were added: Agresti and Coull 1998, who do so
    for shares. So a few rewards that are all alike do not pass for certain.

    Args:
        means: of uids that may be chosen.
        k: how many there are to be.
        reward_range: what rewards lie in.
    """
    tried = means.counts >= _ENOUGH_REWARDS
    if not 1 <= k <= int(tried.sum()):
        return _nothing()
    counts = means.counts[tried].astype(np.float64)
    ends = np.array(reward_range)
    padded = counts + 2 * _PSEUDO_REWARDS
    centre = (counts * means.means[tried] + _PSEUDO_REWARDS * ends.sum()) / padded
    squares = (counts * means.squares[tried] + _PSEUDO_REWARDS * (ends**2).sum()) / padded
    margins = Z_95 * np.sqrt((squares - centre**2) / padded)
    chosen = np.argsort(margins - centre, kind="stable")[:k]
    # Ends averaged: as if their errors went together, since those with lucky rewards are the ones that are chosen.
    low, high = (float((centre + side * margins)[chosen].mean()) for side in (-1, 1))
    estimate = Estimate(Status.OK, float(means.means[tried][chosen].mean()), low, high)
    return {**_told(estimate), "method": "observed_means", "uids": means.uids[tried][chosen].tolist()}


def _means_of(window: Sequence[Learned], head: HeadSnapshot, is_owners_own: IsOwnersOwn) -> tuple[UidMeans, int]:
    """The means of the uids that are available, without what earlier owners have earned; how many are asked."""
    uids, rewards = [], []
    for event in window:
        for uid, reward in zip(event.uids, event.rewards, strict=True):
            if uid < len(head.available) and head.available[uid] and is_owners_own(uid, event.seq):
                uids.append(uid)
                rewards.append(reward)
    [(asked, _)] = Counter(len(event.uids) for event in window).most_common(1)
    return UidMeans.of(np.array(uids, np.int64), np.array(rewards, np.float64)), asked


def _earned(rewards: NDArray[np.float64]) -> Estimate:
    value = float(rewards.mean())
    if len(rewards) < 2:
        return Estimate(Status.NO_DATA)
    margin = Z_95 * float(rewards.std(ddof=1)) / len(rewards) ** 0.5
    return Estimate(Status.OK, value, value - margin, value + margin)


def _describe(events: int, earned: Estimate, random: dict[str, object], fixed: dict[str, object]) -> dict[str, object]:
    return {"events": events, "earned": _told(earned), "random": random, "best_fixed": fixed}


def _told(estimate: Estimate) -> dict[str, object]:
    return {**asdict(estimate), "status": estimate.status.value}


def _nothing() -> dict[str, object]:
    return {**_told(Estimate(Status.NO_DATA)), "method": "observed_means", "uids": []}
