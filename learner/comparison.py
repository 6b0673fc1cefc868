"""The rule that serves and its shadows, judged on the decisions as they come: what each would have earned.

Every few seconds all heads are taken at one version. Decisions whose rewards are learned after that are judged by
those heads, which have not learned from them: what the selection policy would have made of each rule's scores, from
what was asked and what it earned (see `evaluation`). The model of the doubly robust estimate is the scores of the
rule that serves. This costs nobody who waits: at most `_MOST_AT_ONCE` decisions each time, the first ones.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from gating.policies import Policy

from .evaluation import Evidence, Status, difference, evaluate
from .events import Decision, RewardEvent
from .judging import Judged, Table, by_slots, judge, same_candidates
from .state import HeadSnapshot

logger = logging.getLogger(__name__)

_MOST_AT_ONCE = 500
_WINDOW = 5_000


@dataclass(frozen=True, slots=True)
class Heads:
    """All heads at one version, by label; `serving` is the label of the one that serves."""

    serving: str
    by_label: Mapping[str, HeadSnapshot]


@dataclass(slots=True)
class _Earned:
    """What decisions have earned since the heads were taken, by decision and uid."""

    by_decision: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, event: RewardEvent) -> None:
        if event.decision_id is None:
            return
        if event.decision_id in self.by_decision or len(self.by_decision) < _MOST_AT_ONCE:
            self.by_decision.setdefault(event.decision_id, {}).update(zip(event.uids, event.rewards, strict=True))


class Comparison:
    """See the module's docstring. `note` is for the thread that learns, `look` for one other.

    Args:
        policy: chooses by the scores, for every rule.
        window: estimates are of so many of the latest judged decisions.
    """

    def __init__(self, policy: Policy, *, window: int = _WINDOW) -> None:
        self._policy = policy
        self._window = window
        self._lock = threading.Lock()
        self._heads: Heads | None = None
        self._earned = _Earned()
        # The same decisions for every rule that there was, a dictionary for each look.
        self._judged: deque[dict[str, Evidence]] = deque()
        self._results: dict[str, dict[str, object]] = {}

    def note(self, events: Sequence[RewardEvent]) -> None:
        """These rewards are about to be learned."""
        with self._lock:
            if self._heads is not None:
                for event in events:
                    self._earned.add(event)

    def look(self, take: Callable[[], Heads | None], decision_of: Callable[[str], Decision | None]) -> None:
        """Judge what has come since the last look, then take the heads for the next.

        Args:
            take: the heads of now; None while there is nothing to compare.
            decision_of: the decision of an id, None if it is not known any more.
        """
        with self._lock:
            before, earned, self._earned = self._heads, self._earned, _Earned()
        if before is not None:
            self._judge(before, earned.by_decision, decision_of)
        heads = take()
        with self._lock:
            # What was learned since this look began the heads may know, or may not; so it does not count.
            self._earned, self._heads = _Earned(), heads
        if heads is None:
            self._judged.clear()
            self._results = {}

    def describe(self, label: str) -> dict[str, object]:
        """What the rule would have earned, and how much more than the one that serves; see docs/evaluation.md."""
        return self._results.get(label, {"decisions": 0, "status": Status.NO_DATA.value})

    def _judge(
        self, heads: Heads, earned: Mapping[str, Mapping[int, float]], decision_of: Callable[[str], Decision | None]
    ) -> None:
        decisions, rewards = [], []
        for decision_id, by_uid in earned.items():
            decision = decision_of(decision_id)
            if decision is not None and decision.embedding is not None and set(by_uid) == set(decision.uids):
                decisions.append(decision)
                rewards.append(by_uid)
        serving = heads.by_label[heads.serving]
        rows = same_candidates(serving, decisions, np.arange(len(decisions)))
        if len(rows):
            table = Table.of(decisions, rewards)
            self._judged.append(
                {label: self._evidence(table, rows, head, serving) for label, head in heads.by_label.items()}
            )
            while len(self._judged) > 1 and self._judged_decisions() > self._window:
                self._judged.popleft()
        self._results = {label: self._result(label, heads.serving) for label in heads.by_label}

    def _judged_decisions(self) -> int:
        return sum(next(iter(look.values())).size for look in self._judged)

    def _evidence(self, table: Table, rows: NDArray[np.int64], head: HeadSnapshot, serving: HeadSnapshot) -> Evidence:
        parts: list[tuple[NDArray[np.int64], Judged]] = []
        candidates = np.flatnonzero(serving.available)
        for some, slots in by_slots(rows, table, None, len(candidates)):
            scores = table.embedding[some] @ serving.weight[candidates].T + serving.bias[candidates]
            parts.append((some, judge(head, table, scores.astype(np.float64), self._policy, some, slots)))
        return table.evidence(parts)

    def _result(self, label: str, serving: str) -> dict[str, object]:
        mine = [look[label] for look in self._judged if label in look]
        if not mine:
            return {"decisions": 0, "status": Status.NO_DATA.value}
        evaluation = evaluate(Evidence.join(mine))
        result: dict[str, object] = {
            "decisions": evaluation.decisions,
            "status": evaluation.dr.status.value,
            "value": evaluation.dr.value,
            "low": evaluation.dr.low,
            "high": evaluation.dr.high,
            "effective_sample_size": evaluation.effective_sample_size,
        }
        if label == serving:
            return result
        both = [look for look in self._judged if label in look and serving in look]
        if both:
            of = [Evidence.join([look[one] for look in both]) for one in (label, serving)]
            result["better_by"] = asdict(difference(*of))
        return result


class ComparisonLoop(threading.Thread):
    """Looks again and again. What goes wrong here is logged, and keeps nobody from learning.

    Args:
        look: see `Comparison.look`.
        interval_s: time between two looks.
    """

    def __init__(self, look: Callable[[], None], *, interval_s: float) -> None:
        super().__init__(name="comparison", daemon=True)
        self._look = look
        self._interval_s = interval_s
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End; returns when that is done."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """The thread's body."""
        while not self._stopping.wait(self._interval_s):
            try:
                self._look()
            except Exception:
                logger.exception("comparison_failed")
