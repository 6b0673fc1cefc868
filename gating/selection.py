"""Which k of the candidates to ask: scores -> inclusion probabilities -> a draw with exactly those marginals.

The logged propensity of a choice is its inclusion probability, so it must be exact. That is why a policy
returns probabilities that sum to k, and one sampler draws from them (systematic sampling: Madow 1949).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen uids of one prompt, best first; the three arrays have one entry per choice."""

    uids: NDArray[np.int64]
    scores: NDArray[np.float32]
    propensities: NDArray[np.float64]


def greedy(scores: Float[np.ndarray, "batch uid"], k: int) -> Float[np.ndarray, "batch uid"]:
    """Inclusion probabilities of the k best: 1 for those, 0 for the rest.

    Ties go to the lower position, so that equal scores give equal answers.
    """
    probabilities = np.zeros(scores.shape)
    np.put_along_axis(probabilities, _best_first(scores, k), 1.0, axis=1)
    return probabilities


def tail_exploration(
    scores: Float[np.ndarray, "batch uid"], k: int, *, epsilon: float
) -> Float[np.ndarray, "batch uid"]:
    """The k - 1 best for certain; the last slot goes to the next best, or with `epsilon` to any remaining one.

    Exploring with the first choice would give up the best guess, so only the tail is random. Every remaining
    candidate has at least epsilon / N.
    """
    candidates = scores.shape[1]
    if k >= candidates:
        return np.ones(scores.shape)
    probabilities = np.full(scores.shape, epsilon / (candidates - k + 1))
    best = _best_first(scores, k)
    np.put_along_axis(probabilities, best[:, : k - 1], 1.0, axis=1)
    last = best[:, k - 1 :]
    np.put_along_axis(probabilities, last, np.take_along_axis(probabilities, last, axis=1) + (1.0 - epsilon), axis=1)
    return probabilities


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
    ends = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
    # Rounding leaves the last end a hair beside k: the grid must still count exactly k points below it.
    ends[:, -1] = k
    below_end = np.clip(np.floor(ends + generator.random((len(ends), 1))), 0, k)
    picked = np.diff(below_end, axis=1, prepend=0.0) > 0
    chosen = np.zeros(probabilities.shape, dtype=bool)
    np.put_along_axis(chosen, order, picked, axis=1)
    return chosen


def select(
    scores: Float[np.ndarray, "batch uid"],
    candidates: NDArray[np.int64],
    k: int,
    *,
    epsilon: float,
    generator: np.random.Generator,
) -> list[Selection]:
    """Choose min(k, number of candidates) uids for each prompt.

    Args:
        scores: one column per candidate.
        candidates: the uid of each column; only these can be chosen.
        k: how many to choose, at least 1.
        epsilon: how often the last slot explores, in [0, 1]; 0 is greedy.
        generator: the source of randomness.

    Returns:
        One selection per prompt; empty ones if there are no candidates.

    Raises:
        ValueError: k or epsilon is out of range, or there is not one column per candidate.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon must lie in [0, 1], got {epsilon}")
    if scores.shape[1] != len(candidates):
        raise ValueError(f"scores has {scores.shape[1]} columns for {len(candidates)} candidates")
    k = min(k, len(candidates))
    if k == 0:
        nothing = Selection(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0))
        return [nothing] * len(scores)
    if epsilon == 0.0:
        probabilities = greedy(scores, k)
        chosen = probabilities == 1.0
    else:
        probabilities = tail_exploration(scores, k, epsilon=epsilon)
        chosen = systematic_sample(probabilities, k, generator)
    return [_selection(scores[row], candidates, probabilities[row], chosen[row]) for row in range(len(scores))]


def _best_first(scores: Float[np.ndarray, "batch uid"], k: int) -> Int[np.ndarray, "batch k"]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _selection(
    scores: Float[np.ndarray, " uid"],
    candidates: NDArray[np.int64],
    probabilities: Float[np.ndarray, " uid"],
    chosen: Bool[np.ndarray, " uid"],
) -> Selection:
    columns = np.flatnonzero(chosen)
    columns = columns[np.argsort(-scores[columns], kind="stable")]
    return Selection(
        uids=candidates[columns],
        scores=scores[columns].astype(np.float32),
        propensities=probabilities[columns].astype(np.float64),
    )
