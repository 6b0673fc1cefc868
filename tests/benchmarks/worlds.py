"""Small streams, and agents whose choices are known beforehand."""

from __future__ import annotations

import numpy as np

from benchmarks.streams import Stream, stationary


def small_stream(steps=400, uids=5, dim=4, seed=0) -> Stream:
    """Rewards at random; uid 0 is the best on average and the last one the worst."""
    rng = np.random.default_rng(seed)
    rewards = np.clip(rng.normal(np.linspace(0.8, 0.2, uids), 0.1, (steps, uids)), 0.0, 1.0)
    return stationary(rng.normal(size=(steps, dim)).astype(np.float32), rewards, np.random.default_rng(seed))


def separable_stream(steps=800, uids=4, seed=0) -> Stream:
    """Each prompt is of one kind, each kind has one uid that is worth .9, and the others are worth .1."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(uids, size=steps)
    # More directions than any agent keeps, most of them of no use.
    embedding = np.concatenate([np.eye(uids)[kind], 0.05 * rng.normal(size=(steps, 40))], axis=1)
    rewards = np.where(np.eye(uids)[kind] > 0, 0.9, 0.1)
    return stationary(embedding.astype(np.float32), rewards, np.random.default_rng(seed))


class Scripted:
    """Chooses what it is told to, step by step, and keeps what it is told."""

    def __init__(self, choices) -> None:
        self.choices = iter(np.asarray(choices))
        self.told: list[tuple[np.ndarray, np.ndarray, np.ndarray, list[str] | None]] = []
        self.replaced: list[tuple[int, ...]] = []
        self.asked: list[tuple[int, np.ndarray]] = []

    def choose(self, embedding, candidates, k):
        self.asked.append((len(embedding), candidates))
        return np.stack([next(self.choices) for _ in embedding])

    def learn(self, embedding, uids, rewards, authors=None):
        self.told.append((embedding, uids, rewards, authors))

    def replace(self, uids):
        self.replaced.append(uids)
