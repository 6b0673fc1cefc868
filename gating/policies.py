"""Policies: scores -> the probability that each candidate is among the k that are asked.

A policy is a pure function of the scores. Its probabilities lie in [0, 1], sum to k, and never fall as a score
rises; `selection` draws with exactly those marginals. Where there are no more candidates than k, all are certain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

MIN_TEMPERATURE = 1e-6
"""Below it a softmax is greedy anyway."""


@runtime_checkable
class Policy(Protocol):
    """What turns scores into inclusion probabilities."""

    def probabilities(self, scores: Float[np.ndarray, "batch uid"], k: int) -> Float[np.ndarray, "batch uid"]:
        """Inclusion probabilities of each candidate, in float64; every row sums to min(k, candidates)."""
        ...

    def explored(self, k: int) -> int:
        """How many of the k slots explore: 0 for a policy that takes no notice of bonuses."""
        ...


@dataclass(frozen=True, slots=True)
class Greedy:
    """See `greedy`. Exploration bonuses do not count."""

    def probabilities(self, scores: Float[np.ndarray, "batch uid"], k: int) -> Float[np.ndarray, "batch uid"]:
        """See `greedy`."""
        return greedy(scores, k)

    def explored(self, k: int) -> int:
        """None."""
        return 0


@dataclass(frozen=True, slots=True)
class TailExploration:
    """See `tail_exploration`.

    Attributes:
        epsilon: how often the explored slots are drawn from all that remain, in [0, 1].
        epsilon_single: the same at k = 1.
        explore_slots: how many of the last slots explore, at least 1.
    """

    epsilon: float = 0.05
    epsilon_single: float = 0.0
    explore_slots: int = 1

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("epsilon_single", self.epsilon_single)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        _check_slots(self.explore_slots)

    def probabilities(self, scores: Float[np.ndarray, "batch uid"], k: int) -> Float[np.ndarray, "batch uid"]:
        """See `tail_exploration`."""
        epsilon = self.epsilon_single if k == 1 else self.epsilon
        return tail_exploration(scores, k, epsilon=epsilon, explore_slots=self.explore_slots)

    def explored(self, k: int) -> int:
        """The last slots."""
        return min(self.explore_slots, k)


@dataclass(frozen=True, slots=True)
class SquareCB:
    """See `squarecb`.

    Attributes:
        gamma: the greater, the greedier; 0 draws the explored slots evenly.
        explore_slots: how many of the last slots explore, at least 1.
    """

    gamma: float = 100.0
    explore_slots: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma < float("inf"):
            raise ValueError(f"gamma must be a finite number of at least 0, got {self.gamma}")
        _check_slots(self.explore_slots)

    def probabilities(self, scores: Float[np.ndarray, "batch uid"], k: int) -> Float[np.ndarray, "batch uid"]:
        """See `squarecb`."""
        return squarecb(scores, k, gamma=self.gamma, explore_slots=self.explore_slots)

    def explored(self, k: int) -> int:
        """The last slots."""
        return min(self.explore_slots, k)


@dataclass(frozen=True, slots=True)
class Softmax:
    """See `softmax`.

    Attributes:
        temperature: the score difference that makes a candidate e times as likely, at least `MIN_TEMPERATURE`.
    """

    temperature: float = 0.05

    def __post_init__(self) -> None:
        if not MIN_TEMPERATURE <= self.temperature < float("inf"):
            raise ValueError(
                f"temperature must be a finite number of at least {MIN_TEMPERATURE}, got {self.temperature}"
            )

    def probabilities(self, scores: Float[np.ndarray, "batch uid"], k: int) -> Float[np.ndarray, "batch uid"]:
        """See `softmax`."""
        return softmax(scores, k, temperature=self.temperature)

    def explored(self, k: int) -> int:
        """Every slot."""
        return k


def greedy(scores: Float[np.ndarray, "batch uid"], k: int) -> Float[np.ndarray, "batch uid"]:
    """Inclusion probabilities of the k best: 1 for those, 0 for the rest.

    Ties go to the lower position, so that equal scores give equal answers.
    """
    probabilities = np.zeros(scores.shape)
    np.put_along_axis(probabilities, best_first(scores, k), 1.0, axis=1)
    return probabilities


def tail_exploration(
    scores: Float[np.ndarray, "batch uid"], k: int, *, epsilon: float, explore_slots: int = 1
) -> Float[np.ndarray, "batch uid"]:
    """All but the last slots go to the best; the last ones to the next best, or with `epsilon` to any that remain.

    Exploring with the first choice would give up the best guess, so only the tail is random. With r explored slots
    and M = N - k + r candidates for them, the next r best have 1 - epsilon + epsilon r / M and every other one
    epsilon r / M, which is at least epsilon / N.

    Args:
        scores: one column per candidate.
        k: how many are asked.
        epsilon: how often the tail explores, in [0, 1].
        explore_slots: r; no more than k count.
    """
    candidates = scores.shape[1]
    if k >= candidates:
        return np.ones(scores.shape)
    slots = min(explore_slots, k)
    floor = epsilon * slots / (candidates - k + slots)
    probabilities = np.full(scores.shape, floor)
    best = best_first(scores, k)
    np.put_along_axis(probabilities, best[:, : k - slots], 1.0, axis=1)
    np.put_along_axis(probabilities, best[:, k - slots :], floor + (1.0 - epsilon), axis=1)
    return probabilities


def squarecb(
    scores: Float[np.ndarray, "batch uid"], k: int, *, gamma: float, explore_slots: int = 1
) -> Float[np.ndarray, "batch uid"]:
    """Inverse gap weighting: the further a candidate's score is behind, the rarer it is asked.

    With r explored slots and M = N - k + r candidates for them, one whose score is `gap` behind the k-th best has
    r / (M + gamma gap), and the next r best share what is left of r evenly, which is at least r / M each; the
    k - r best before them are certain. At k = 1 this is Foster and Rakhlin (2020, "Beyond UCB", SquareCB); that the
    best come first and only r slots are weighted is Sen et al. (2021, "Top-k eXtreme Contextual Bandits"), who
    draw those one after the other. Here they are drawn together, so that the probabilities are exact.

    Args:
        scores: one column per candidate, as expected rewards.
        k: how many are asked.
        gamma: how greedy, at least 0.
        explore_slots: r; no more than k count.
    """
    candidates = scores.shape[1]
    if k >= candidates:
        return np.ones(scores.shape)
    slots = min(explore_slots, k)
    best = best_first(scores, k)
    last = np.take_along_axis(scores, best[:, -1:], axis=1)
    gaps = np.maximum(last.astype(np.float64) - scores, 0.0)
    probabilities: Float[np.ndarray, "batch uid"] = slots / (candidates - k + slots + gamma * gaps)
    np.put_along_axis(probabilities, best, 0.0, axis=1)
    left = slots - probabilities.sum(axis=1, keepdims=True)
    np.put_along_axis(probabilities, best[:, : k - slots], 1.0, axis=1)
    np.put_along_axis(probabilities, best[:, k - slots :], left / slots, axis=1)
    return probabilities


def softmax(scores: Float[np.ndarray, "batch uid"], k: int, *, temperature: float) -> Float[np.ndarray, "batch uid"]:
    """Probabilities in proportion to exp(score / temperature), none above 1.

    Those that would be above 1 are certain, and the others share the remaining slots in proportion: inclusion
    probabilities proportional to size (Tillé 2006, "Sampling Algorithms", section 2.10).

    Args:
        scores: one column per candidate.
        k: how many are asked.
        temperature: see `Softmax`.
    """
    if k >= scores.shape[1]:
        return np.ones(scores.shape)
    best = best_first(scores, k)
    exact = scores.astype(np.float64)
    # Seen from the k-th best, so that no difference that counts is lost, whatever the temperature.
    exact = (exact - np.take_along_axis(exact, best[:, -1:], axis=1)) / temperature
    top = np.take_along_axis(exact, best, axis=1)
    others = np.exp(np.minimum(exact, 0.0))
    np.put_along_axis(others, best, 0.0, axis=1)
    with np.errstate(divide="ignore"):
        behind = np.log(others.sum(axis=1, keepdims=True))
    # In column m: the logarithm of what all but the m best weigh together.
    weights = np.logaddexp.accumulate(np.hstack([behind, top[:, ::-1]]), axis=1)[:, :0:-1]
    factors = np.log(k - np.arange(k)) - weights
    certain = np.argmax(factors + top <= 0.0, axis=1)[:, None]
    shares: Float[np.ndarray, "batch uid"] = np.exp(
        np.minimum(exact + np.take_along_axis(factors, certain, axis=1), 0.0)
    )
    return shares


def best_first(scores: Float[np.ndarray, "batch uid"], k: int) -> Int[np.ndarray, "batch k"]:
    """Positions of the min(k, candidates) best of each row, best first; ties go to the lower position."""
    if k >= scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    last = np.partition(scores, -k, axis=1)[:, -k:][:, :1]
    above, level = scores > last, scores == last
    wanted = k - above.sum(axis=1, keepdims=True)
    if (level.sum(axis=1, keepdims=True) > wanted).any():
        level &= np.cumsum(level, axis=1) <= wanted
    columns = np.nonzero(above | level)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def _check_slots(explore_slots: int) -> None:
    if explore_slots < 1:
        raise ValueError(f"explore_slots must be at least 1, got {explore_slots}")
