"""Playing a stream with an agent, and what comes of it."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from .agents import Agent
from .streams import Stream

BATCH = 8
"""Prompts a request: what they earned is learned before the next request, as with `tidegate demo`."""
_WINDOW = 200
_CURVE_POINTS = 60


@dataclass(frozen=True)
class Outcome:
    """What an agent has chosen on a stream, and what that was worth."""

    stream: Stream
    chosen: Int[np.ndarray, "step k"]

    @property
    def earned(self) -> Float[np.ndarray, "step k"]:
        """The true reward of each choice, best choice first."""
        return np.take_along_axis(self.stream.rewards, self.chosen, axis=1)

    def figures(self) -> dict[str, float | None]:
        """Mean rewards, and the steps that a change took to be overcome."""
        earned = self.earned
        last = slice(-len(earned) // 3, None)
        return {
            "first": float(earned[:, 0].mean()),
            "first_last_third": float(earned[last, 0].mean()),
            "all": float(earned.mean()),
            "best_of_k": float(earned.max(axis=1).mean()),
            "recovered_after": self._recovered_after() if self.stream.name == "drift" else None,
            "adopted_after": self._adopted_after() if self.stream.name == "cold arm" else None,
        }

    def regret(self) -> list[list[float]]:
        """(step, what the best choices would have earned more with the first choice, up to there)."""
        lost = np.cumsum(self.stream.worth.max(axis=1) - self.earned[:, 0])
        at = np.unique(np.linspace(0, len(lost) - 1, _CURVE_POINTS).astype(int))
        return [[float(step + 1), float(lost[step])] for step in at]

    def _recovered_after(self) -> float:
        """Steps from the change until the mean of the last 200 first choices is 95% of what it was before it."""
        half = self.stream.half or 0
        first = self.earned[:, 0]
        wanted = 0.95 * first[half - 500 : half].mean()
        means = np.convolve(first[half:], np.ones(_WINDOW) / _WINDOW, mode="valid")
        reached = np.flatnonzero(means >= wanted)
        return float(reached[0] + _WINDOW) if len(reached) else float("inf")

    def _adopted_after(self) -> float:
        """Steps from its arrival until the best uid is among the chosen in half of the last 50 prompts."""
        half = self.stream.half or 0
        best = self.stream.rewards.mean(axis=0).argmax()
        has_it = (self.chosen[half:] == best).any(axis=1)
        share = np.convolve(has_it, np.ones(50) / 50, mode="valid")
        reached = np.flatnonzero(share >= 0.5)
        return float(reached[0] + 50) if len(reached) else float("inf")


def play(stream: Stream, agent: Agent, k: int) -> Outcome:
    """One pass: choose for a few prompts, then learn whatever reports have arrived."""
    chosen = np.zeros((stream.steps, k), np.int64)
    reported = stream.rewards if stream.reported is None else stream.reported
    waiting: list[tuple[int, int]] = []
    newcomers = dict(stream.newcomers)
    everyone = np.arange(stream.uids)
    for start in range(0, stream.steps, BATCH):
        steps = np.arange(start, min(start + BATCH, stream.steps))
        for step in [step for step in newcomers if step <= start]:
            gone = newcomers.pop(step)
            agent.replace(gone)
            # What the old owners earned reaches nobody.
            reported = np.array(reported)
            reported[:step, list(gone)] = np.nan
        candidates = everyone if stream.available is None else np.flatnonzero(stream.available[start])
        chosen[steps] = agent.choose(stream.embedding[steps], candidates, k)
        for step in steps.tolist():
            heapq.heappush(waiting, (step + (0 if stream.delay is None else int(stream.delay[step])), step))
        due = []
        while waiting and waiting[0][0] <= steps[-1]:
            due.append(heapq.heappop(waiting)[1])
        if due:
            rows = np.array(due)
            agent.learn(stream.embedding[rows], chosen[rows], np.take_along_axis(reported[rows], chosen[rows], axis=1))
    return Outcome(stream, chosen)


def references(stream: Stream, k: int) -> dict[str, dict[str, float]]:
    """What the figures are held against: chance, the best fixed uids, full information, and the best of all."""
    worth = stream.worth
    fixed = np.argsort(-np.where(np.isinf(worth), np.nan, worth).mean(axis=0), kind="stable")
    if stream.available is not None:
        fixed = np.array([uid for uid in fixed if stream.available[0, uid]])
    best = np.sort(worth, axis=1)[:, ::-1][:, :k]
    known = np.where(np.isinf(worth), np.nan, worth)
    return {
        "random": _level(np.nanmean(known, axis=1)[:, None]),
        "best fixed": _level(stream.rewards[:, fixed[:k]]),
        "one-pass full-information ridge": _level(one_pass_ridge(stream, k)),
        "5-fold full-information ridge": _level(folded_ridge(stream, k)),
        "oracle": _level(best),
    }


def _level(earned: Float[np.ndarray, "step k"]) -> dict[str, float]:
    return {
        "first": float(earned[:, 0].mean()),
        "all": float(earned.mean()),
        "best_of_k": float(earned.max(axis=1).mean()),
    }


def one_pass_ridge(stream: Stream, k: int, penalty: float = 10.0) -> Float[np.ndarray, "step k"]:
    """A ridge that is told the rewards of *all* uids for every prompt that has passed: what its k best earn."""
    inputs = _with_one(stream.embedding)
    gram, moments = penalty * np.eye(inputs.shape[1]), np.zeros((inputs.shape[1], stream.uids))
    earned = np.zeros((stream.steps, k))
    for start in range(0, stream.steps, BATCH):
        steps = slice(start, start + BATCH)
        scores = inputs[steps] @ np.linalg.solve(gram, moments)
        earned[steps] = _best_by(scores, stream, steps, k)
        gram += inputs[steps].T @ inputs[steps]
        moments += inputs[steps].T @ stream.rewards[steps]
    return earned


def folded_ridge(stream: Stream, k: int, penalty: float = 10.0, folds: int = 5) -> Float[np.ndarray, "step k"]:
    """A ridge that has seen four fifths of all prompts with all rewards, on the last fifth; five times."""
    inputs = _with_one(stream.embedding)
    earned = np.zeros((stream.steps, k))
    fold = np.arange(stream.steps) % folds
    for held_out in range(folds):
        train, test = fold != held_out, np.flatnonzero(fold == held_out)
        gram = inputs[train].T @ inputs[train] + penalty * np.eye(inputs.shape[1])
        scores = inputs[test] @ np.linalg.solve(gram, inputs[train].T @ stream.rewards[train])
        earned[test] = _best_by(scores, stream, test, k)
    return earned


def _best_by(
    scores: Float[np.ndarray, "batch uid"], stream: Stream, steps: slice | Int[np.ndarray, " batch"], k: int
) -> Float[np.ndarray, "batch k"]:
    if stream.available is not None:
        scores = np.where(stream.available[steps], scores, -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(stream.rewards[steps], best, axis=1)


def _with_one(embedding: Float[np.ndarray, "step hidden"]) -> Float[np.ndarray, "step hidden+1"]:
    return np.concatenate([embedding, np.ones((len(embedding), 1), embedding.dtype)], axis=1).astype(np.float64)
