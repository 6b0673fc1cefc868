"""What the figures are held against: chance, the best fixed uids, full information, and the best of all.

The ridges are told the rewards of *all* uids, which no gate can have. None of them is told of a change: the one-pass
ridge goes on adding up, and the 5-fold ridge has seen both halves.
"""

from __future__ import annotations

from math import comb

import numpy as np
from jaxtyping import Float, Int

from .play import Outcome
from .streams import Stream

INFORMED = "5-fold full-information ridge"
REFERENCES = ("random", "best fixed", "one-pass full-information ridge", INFORMED, "oracle")
_PENALTY = 10.0


def references(stream: Stream, k: int) -> dict[str, Outcome]:
    """Each of `REFERENCES` on a stream."""
    return dict(
        zip(
            REFERENCES,
            (
                expected_at_random(stream, k),
                Outcome.of(stream, best_fixed(stream, k)),
                Outcome.of(stream, one_pass_ridge(stream, k)),
                Outcome.of(stream, folded_ridge(stream, k)),
                Outcome.of(stream, _best(stream.worth, k)),
            ),
            strict=True,
        )
    )


def expected_at_random(stream: Stream, k: int) -> Outcome:
    """k of those who can be asked at random: the expectation, exactly."""
    mean, best = np.empty(stream.steps), np.empty(stream.steps)
    worth = np.sort(stream.worth, axis=1)
    counts = np.isfinite(worth).sum(axis=1)
    for count in np.unique(counts).tolist():
        rows = np.flatnonzero(counts == count)
        known = worth[rows, stream.uids - count :]
        # The i-th least is the greatest of k with probability C(i - 1, k - 1) / C(count, k).
        is_best = np.array([comb(below, k - 1) / comb(count, k) for below in range(count)])
        mean[rows], best[rows] = known.mean(axis=1), known @ is_best
    return Outcome(stream, mean, mean, best)


def best_fixed(stream: Stream, k: int) -> Int[np.ndarray, "step k"]:
    """The k uids that are best on the whole stream, of those that can be asked all the time."""
    means = np.where(np.isinf(stream.worth).any(axis=0), -np.inf, stream.rewards.mean(axis=0))
    return np.tile(_best(means[None], k), (stream.steps, 1))


def one_pass_ridge(stream: Stream, k: int) -> Int[np.ndarray, "step k"]:
    """The choices of a ridge that is told all rewards of every prompt that has passed."""
    inputs = _with_one(stream.embedding)
    gram, moments = _PENALTY * np.eye(inputs.shape[1]), np.zeros((inputs.shape[1], stream.uids))
    chosen = np.empty((stream.steps, k), np.int64)
    for steps in stream.requests():
        chosen[steps] = _best(_masked(inputs[steps] @ np.linalg.solve(gram, moments), stream, steps), k)
        gram += inputs[steps].T @ inputs[steps]
        moments += inputs[steps].T @ stream.rewards[steps]
    return chosen


def folded_ridge(stream: Stream, k: int, folds: int = 5) -> Int[np.ndarray, "step k"]:
    """The choices of a ridge that has seen all rewards of four fifths of the prompts, on the last fifth; five times."""
    inputs = _with_one(stream.embedding)
    chosen = np.empty((stream.steps, k), np.int64)
    fold = np.arange(stream.steps) % folds
    for held_out in range(folds):
        train, test = fold != held_out, np.flatnonzero(fold == held_out)
        gram = inputs[train].T @ inputs[train] + _PENALTY * np.eye(inputs.shape[1])
        scores = inputs[test] @ np.linalg.solve(gram, inputs[train].T @ stream.rewards[train])
        chosen[test] = _best(_masked(scores, stream, test), k)
    return chosen


def informed_share(stream: Stream, k: int) -> float:
    """How often the 5-fold ridge asks the newcomer of a cold arm."""
    return Outcome.of(stream, folded_ridge(stream, k)).newcomer_share()


def _masked(
    scores: Float[np.ndarray, "batch uid"], stream: Stream, steps: Int[np.ndarray, " batch"]
) -> Float[np.ndarray, "batch uid"]:
    return scores if stream.available is None else np.where(stream.available[steps], scores, -np.inf)


def _best(scores: Float[np.ndarray, "batch uid"], k: int) -> Int[np.ndarray, "batch k"]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _with_one(embedding: Float[np.ndarray, "step hidden"]) -> Float[np.ndarray, "step hidden+1"]:
    return np.concatenate([embedding, np.ones((len(embedding), 1), embedding.dtype)], axis=1).astype(np.float64)
