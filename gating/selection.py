"""Which k of the candidates to ask: scores -> inclusion probabilities -> a draw with exactly those marginals.

The logged propensity of a choice is its inclusion probability, so it must be exact. That is why a policy
returns probabilities that sum to k, and one sampler draws from them (systematic sampling: Madow 1949).

An exploration bonus makes uids of which little is known worth asking, and whoever registers anew is one of them.
So that nobody gains by it, what a newcomer's bonus may bring is capped, see `inclusion_probabilities`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from .policies import Policy

_NEWCOMER_FACTOR = 2.0
_BITS = 16


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen uids of one prompt, best first; the three arrays have one entry per choice."""

    uids: NDArray[np.int64]
    scores: NDArray[np.float32]
    propensities: NDArray[np.float64]


def ordinary_bonus(bonus: Float[np.ndarray, " uid"]) -> float:
    """The greatest bonus that counts in full: twice the median of the network's. Whoever has more is a newcomer.

    A snapshot knows bonuses and no counts of rewards. A bonus falls as 1 / sqrt(n + 20), so that a newcomer is one
    with less than about a quarter of the usual count; in a network in which all are new, nobody is.

    Args:
        bonus: of every uid that can be asked.
    """
    return float(_NEWCOMER_FACTOR * np.median(bonus)) if len(bonus) else 0.0


def inclusion_probabilities(
    scores: Float[np.ndarray, "batch uid"],
    k: int,
    policy: Policy,
    *,
    bonus: Float[np.ndarray, " uid"] | None = None,
    ordinary: float = np.inf,
) -> Float[np.ndarray, "batch uid"]:
    """How likely each candidate is to be chosen, by the scores together with the bonuses.

    A newcomer's bonus lifts it to no more than its fair share of the explored slots, slots / candidates, unless it
    has earned more: by its mean score with an ordinary bonus. So a fresh uid never takes the best slot of every
    prompt. Whatever the cap takes from newcomers goes back to those that they have pushed out, in proportion.

    Args:
        scores: mean scores, one column per candidate.
        k: how many to choose, at least 1 and no more than there are candidates.
        policy: makes probabilities of scores.
        bonus: exploration bonus of each candidate; None: no exploration.
        ordinary: see `ordinary_bonus`.
    """
    slots = policy.explored(k)
    if bonus is None or slots == 0:
        return policy.probabilities(_told_apart(scores), k)
    probabilities = policy.probabilities(_told_apart(scores + bonus), k)
    newcomers = bonus > ordinary
    if not newcomers.any() or k >= scores.shape[1]:
        return probabilities
    earned = policy.probabilities(_told_apart(scores + np.minimum(bonus, scores.dtype.type(ordinary))), k)
    most = np.where(newcomers, np.maximum(earned, slots / scores.shape[1]), 1.0)
    capped: Float[np.ndarray, "batch uid"] = np.minimum(probabilities, most)
    taken = (probabilities - capped).sum(axis=1, keepdims=True)
    pushed_out = np.maximum(earned - probabilities, 0.0)
    # No more is taken than was gained, which is what others have lost.
    total = pushed_out.sum(axis=1, keepdims=True)
    share = np.divide(taken, total, out=np.zeros_like(taken), where=total > 0.0)
    capped += pushed_out * share
    np.minimum(capped, 1.0, out=capped)
    return capped


def _told_apart(scores: Float[np.ndarray, "batch uid"]) -> Float[np.ndarray, "batch uid"]:
    """The scores to 16 bits of each row's greatest, so that equals are equal, and the lowest uid comes first.

    Uids of which nothing is known have the same weights, but a matrix product rounds its columns differently, and a
    processor or a precision differently from another: whom to try first must not hang on that.
    """
    greatest = np.abs(scores).max(axis=1, keepdims=True)
    # Among the smallest numbers that there are, the step would be none.
    least = np.finfo(scores.dtype).tiny
    step = np.exp2(np.ceil(np.log2(np.where(greatest > 0.0, greatest, 1.0))) - _BITS)
    step = np.maximum(step, least).astype(scores.dtype)
    rounded: Float[np.ndarray, "batch uid"] = np.round(scores / step) * step
    return rounded


def systematic_sample(
    probabilities: Float[np.ndarray, "batch uid"], k: int, generator: np.random.Generator
) -> Bool[np.ndarray, "batch uid"]:
    """Draw k distinct candidates a row such that candidate i is drawn with probability `probabilities[i]`.

    Candidates are laid end to end in a random order as intervals of those lengths, and every point of a grid
    of step 1 with a random start picks the interval that it falls into. No interval is longer than 1, so none
    is picked twice.

    Args:
        probabilities: each in [0, 1], each row summing to k.
        k: how many to draw.
        generator: the source of randomness.
    """
    order = generator.permuted(np.tile(np.arange(probabilities.shape[1]), (len(probabilities), 1)), axis=1)
    below_end = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
    # Rounding leaves the last end a hair beside k: the grid must still count exactly k points below it.
    below_end[:, -1] = k
    below_end += generator.random((len(below_end), 1))
    np.clip(np.floor(below_end, out=below_end), 0, k, out=below_end)
    picked = np.empty(probabilities.shape, dtype=bool)
    picked[:, 0] = below_end[:, 0] > 0
    np.greater(below_end[:, 1:], below_end[:, :-1], out=picked[:, 1:])
    rows, places = np.nonzero(picked)
    chosen = np.zeros(probabilities.shape, dtype=bool)
    chosen[rows, order[rows, places]] = True
    return chosen


def select(
    scores: Float[np.ndarray, "batch uid"],
    candidates: NDArray[np.int64],
    k: int,
    *,
    policy: Policy,
    generator: np.random.Generator,
    bonus: Float[np.ndarray, " uid"] | None = None,
    ordinary: float = np.inf,
) -> list[Selection]:
    """Choose min(k, number of candidates) uids for each prompt.

    Args:
        scores: mean scores, one column per candidate.
        candidates: the uid of each column; only these can be chosen.
        k: how many to choose, at least 1.
        policy: how.
        generator: the source of randomness; not touched where nothing is left to chance.
        bonus: exploration bonus of each candidate; None: no exploration.
        ordinary: see `ordinary_bonus`.

    Returns:
        One selection per prompt, with the scores that it was made by; empty ones if there are no candidates.

    Raises:
        ValueError: k is below 1, or there is not one column per candidate.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if scores.shape[1] != len(candidates):
        raise ValueError(f"scores has {scores.shape[1]} columns for {len(candidates)} candidates")
    k = min(k, len(candidates))
    if k == 0:
        nothing = Selection(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0))
        return [nothing] * len(scores)
    probabilities = inclusion_probabilities(scores, k, policy, bonus=bonus, ordinary=ordinary)
    chosen = probabilities == 1.0
    if np.count_nonzero(chosen) < k * len(scores):
        chosen = systematic_sample(probabilities, k, generator)
    counted = scores if bonus is None or policy.explored(k) == 0 else scores + bonus
    return _selections(counted, candidates, probabilities, chosen, k)


def _selections(
    scores: Float[np.ndarray, "batch uid"],
    candidates: NDArray[np.int64],
    probabilities: Float[np.ndarray, "batch uid"],
    chosen: Bool[np.ndarray, "batch uid"],
    k: int,
) -> list[Selection]:
    columns = np.nonzero(chosen)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    columns = np.take_along_axis(columns, order, axis=1)
    rows = (
        candidates[columns],
        np.take_along_axis(scores, columns, axis=1).astype(np.float32),
        np.take_along_axis(probabilities, columns, axis=1),
    )
    return [Selection(*row) for row in zip(*rows, strict=True)]
