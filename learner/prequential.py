"""A log as evidence about another policy: each decision judged by weights that had not learned from it.

The log is replayed with the target's rule. A decision is scored by the state at the version that made it, or up to
`refresh` versions before it, since heads cost more than steps; a change of the network always gives a new head.
Its own rewards came later than its version, so they are in neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from gating.policies import Policy

from .evaluation import Evidence
from .event_log import Observed
from .events import Decision
from .judging import Judged, Table, by_slots, judge, same_candidates
from .restore import Restored, Restorer
from .reward_model import RewardModel, cut, fit_reward_model
from .state import HeadSnapshot, build_snapshot

_CHUNK = 1024

OnVersion = Callable[[int], None]
"""Told each version that was replayed."""


@runtime_checkable
class ObservedSource(Protocol):
    """A log that can be asked for its decisions with what they earned."""

    def observed(self) -> Iterator[Observed]:
        """Every decision with its learned rewards, in the order of their arrival."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """What is evaluated.

    Attributes:
        policy: chooses by the rule's scores and bonuses.
        k: how many it asks; None: as many as each decision did.
    """

    policy: Policy
    k: int | None = None


@dataclass(slots=True)
class Usable:
    """The decisions that can be used, by version, and how many cannot, by reason.

    Reasons: `empty` asked nobody; `erased` has no embedding any more; `pending`: it, or one that came before it, may
    still earn rewards; `unrewarded` and `incomplete`: of all, or of some of its uids no reward was learned; `certain`:
    nothing was left to chance, and only what was is wanted.
    """

    decisions: list[Decision] = field(default_factory=list)
    rewards: list[dict[int, float]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def gather(
    source: ObservedSource, *, first: int, last: int, now_s: float, window_s: float, explored_only: bool = False
) -> Usable:
    """The decisions of a range of versions whose rewards are known in full.

    Leaving out a decision for want of rewards takes it for granted that whether they came has nothing to do with
    what they would have been. Recent ones are left out from the first that may still earn one: else those that are
    rewarded quickly would be too many.

    Args:
        source: the log.
        first: the first version.
        last: the last version.
        now_s: the time, on the log's clock.
        window_s: for how long a decision earns rewards.
        explored_only: leave out those in which nothing was left to chance. That is fair where whether to explore is a
            matter of the request, and not of the prompt.
    """
    found, usable, pending = [], Usable(), False
    for observed in source.observed():
        decision = observed.decision
        if not first <= decision.version <= last:
            continue
        missing = [uid for uid in decision.uids if uid not in observed.rewards]
        pending = pending or (bool(missing) and now_s - observed.received_s <= window_s)
        reason = _why_not(decision, len(missing), pending)
        if reason is None and explored_only and _was_certain(decision):
            reason = "certain"
        if reason is None:
            found.append(observed)
        else:
            usable.left_out[reason] += 1
    found.sort(key=lambda observed: observed.decision.version)
    usable.decisions = [observed.decision for observed in found]
    usable.rewards = [observed.rewards for observed in found]
    return usable


def _why_not(decision: Decision, missing: int, pending: bool) -> str | None:
    if not decision.uids:
        return "empty"
    if pending:
        return "pending"
    if missing:
        return "unrewarded" if missing == len(decision.uids) else "incomplete"
    return "erased" if decision.embedding is None else None


def _was_certain(decision: Decision) -> bool:
    return len(decision.uids) < decision.candidates and all(p == 1.0 for p in decision.propensities)


def collect_evidence(
    restorer: Restorer,
    base: Restored,
    usable: Usable,
    target: Target,
    *,
    last: int,
    refresh: int,
    on_version: OnVersion | None = None,
) -> Evidence:
    """Replay the log and ask the target what it would have done at each decision.

    A decision whose candidates were not all the available uids of its version, a request that named some, cannot be
    judged: it is left out and counted in `usable.left_out` as `other_candidates`.

    Args:
        restorer: of the log, with the target's rule.
        base: the state to begin with, no later than the first decision.
        usable: what can be judged; its counts are added to.
        target: the policy.
        last: where to end.
        refresh: the most versions that a head is used for.
        on_version: see `OnVersion`.
    """
    table = Table.of(usable.decisions, usable.rewards)
    if not usable.decisions:
        return table.evidence([])
    model = fit_reward_model(table.embedding, table.uids, table.rewards, table.uids >= 0, table.num_uids + 1)
    parts: list[tuple[NDArray[np.int64], Judged]] = []
    for snapshot, start, stop in _moments(restorer, base, table.version, last, refresh, on_version):
        for rows in _chunks(start, stop):
            kept = same_candidates(snapshot, usable.decisions, rows)
            usable.left_out["other_candidates"] += len(rows) - len(kept)
            for some in by_slots(kept, table, target.k, int(snapshot.available.sum())):
                parts.append((some[0], _judge(snapshot, table, model, target.policy, *some)))
    return table.evidence(parts)


def _moments(
    restorer: Restorer,
    base: Restored,
    versions: Int[np.ndarray, " batch"],
    last: int,
    refresh: int,
    on_version: OnVersion | None,
) -> Iterator[tuple[HeadSnapshot, int, int]]:
    """Heads, and from which decision to which each is the one to use."""
    snapshot: HeadSnapshot | None = None
    start = 0
    for state in restorer.walk(base, last):
        if on_version is not None:
            on_version(state.version)
        # One of this very version is for the state as it is now.
        due = snapshot is None or state.view is not snapshot.view or state.version - snapshot.version >= refresh
        if not due:
            continue
        stop = int(np.searchsorted(versions, state.version))
        if snapshot is not None and stop > start:
            yield snapshot, start, stop
            start = stop
        head = restorer.rule.head(state.rule)
        snapshot = build_snapshot(head, version=state.version, view=state.view)
    if snapshot is not None and start < len(versions):
        yield snapshot, start, len(versions)


def _chunks(start: int, stop: int) -> Iterator[NDArray[np.int64]]:
    for first in range(start, stop, _CHUNK):
        yield np.arange(first, min(stop, first + _CHUNK))


def _judge(
    snapshot: HeadSnapshot,
    table: Table,
    model: RewardModel,
    policy: Policy,
    rows: NDArray[np.int64],
    slots: int,
) -> Judged:
    candidates = np.flatnonzero(snapshot.available)
    # A uid that was never asked has the last head: that of the pool.
    known = np.minimum(candidates, table.num_uids)
    predicted = model.predict(table.embedding[rows], cut(len(table.uids))[rows])[:, known]
    return judge(snapshot, table, predicted, policy, rows, slots)
