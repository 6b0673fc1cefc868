"""Logged decisions as arrays, and what a policy would have made of them: the evidence for `evaluation`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from gating.policies import Policy
from gating.selection import inclusion_probabilities, ordinary_bonus

from .evaluation import Evidence
from .events import Decision, candidates_digest
from .state import HeadSnapshot


@dataclass(frozen=True, slots=True)
class Judged:
    """A few decisions: what the target thinks of them."""

    target: Float[np.ndarray, "batch k"]
    predicted: Float[np.ndarray, "batch k"]
    baseline: Float[np.ndarray, " batch"]
    slots: int
    candidates: int


@dataclass(frozen=True, slots=True)
class Table:
    """The decisions as arrays; -1 stands for no uid."""

    embedding: Float[np.ndarray, "batch hidden"]
    version: Int[np.ndarray, " batch"]
    uids: Int[np.ndarray, "batch k"]
    propensities: Float[np.ndarray, "batch k"]
    rewards: Float[np.ndarray, "batch k"]

    @classmethod
    def of(cls, decisions: Sequence[Decision], rewards: Sequence[Mapping[int, float]]) -> Table:
        """Decisions that have their embeddings, and what each asked uid earned."""
        width = max((len(decision.uids) for decision in decisions), default=1)
        uids, propensities = np.full((len(decisions), width), -1), np.ones((len(decisions), width))
        table = np.zeros((len(decisions), width))
        for row, (decision, earned) in enumerate(zip(decisions, rewards, strict=True)):
            asked = len(decision.uids)
            uids[row, :asked], propensities[row, :asked] = decision.uids, decision.propensities
            table[row, :asked] = [earned[uid] for uid in decision.uids]
        embeddings = [decision.embedding for decision in decisions if decision.embedding is not None]
        return cls(
            embedding=np.stack(embeddings).astype(np.float32) if embeddings else np.zeros((0, 1), np.float32),
            version=np.array([decision.version for decision in decisions], np.int64),
            uids=uids,
            propensities=propensities,
            rewards=table,
        )

    @property
    def num_uids(self) -> int:
        """More than the greatest uid that was asked."""
        return int(self.uids.max(initial=-1)) + 1

    def evidence(self, parts: Sequence[tuple[NDArray[np.int64], Judged]]) -> Evidence:
        """Of those rows, as they were judged."""
        rows = np.concatenate([rows for rows, _ in parts]) if parts else np.empty(0, np.int64)
        width = self.uids.shape[1]

        def joined(name: str, empty: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.concatenate([getattr(judged, name) for _, judged in parts]) if parts else empty

        def repeated(name: str) -> NDArray[np.int64]:
            return np.repeat(
                np.array([getattr(judged, name) for _, judged in parts], np.int64),
                np.array([len(some) for some, _ in parts], np.int64),
            )

        return Evidence(
            asked=self.uids[rows] >= 0,
            propensities=self.propensities[rows],
            rewards=self.rewards[rows],
            target=joined("target", np.empty((0, width))),
            predicted=joined("predicted", np.empty((0, width))),
            slots=repeated("slots"),
            baseline=joined("baseline", np.empty(0)),
            candidates=repeated("candidates"),
        )


def same_candidates(
    snapshot: HeadSnapshot, decisions: Sequence[Decision], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Those whose candidates were the available uids."""
    available = np.flatnonzero(snapshot.available)
    digest = candidates_digest(available)
    kept = [
        row
        for row in rows.tolist()
        if decisions[row].candidates == len(available) and decisions[row].candidates_digest == digest
    ]
    return np.array(kept, np.int64)


def by_slots(
    rows: NDArray[np.int64], table: Table, k: int | None, candidates: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """The rows in groups of which the target asks equally many."""
    slots = (table.uids[rows] >= 0).sum(axis=1) if k is None else np.full(len(rows), min(k, candidates))
    for count in np.unique(slots):
        yield rows[slots == count], int(count)


def judge(
    snapshot: HeadSnapshot,
    table: Table,
    predicted: Float[np.ndarray, "batch uid"],
    policy: Policy,
    rows: NDArray[np.int64],
    slots: int,
) -> Judged:
    """What a policy thinks of some of the decisions.

    Args:
        snapshot: the head that it chooses by.
        table: the decisions.
        predicted: what a model takes each candidate to earn.
        policy: see there.
        rows: which of the decisions.
        slots: how many uids it asks.
    """
    candidates = np.flatnonzero(snapshot.available)
    embedding, uids = table.embedding[rows], table.uids[rows]
    probabilities = inclusion_probabilities(
        embedding @ snapshot.weight[candidates].T + snapshot.bias[candidates],
        slots,
        policy,
        bonus=snapshot.bonus[candidates],
        ordinary=ordinary_bonus(snapshot.bonus[candidates]),
    )
    asked = uids >= 0
    columns = np.where(asked, np.searchsorted(candidates, uids), 0)
    return Judged(
        target=np.where(asked, np.take_along_axis(probabilities, columns, axis=1), 0.0),
        predicted=np.where(asked, np.take_along_axis(predicted, columns, axis=1), 0.0),
        baseline=(probabilities * predicted).sum(axis=1) / slots,
        slots=slots,
        candidates=len(candidates),
    )
