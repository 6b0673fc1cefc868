"""Who plays the streams: Tidegate's rules, and what they are held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int

from gating.metagraph import MetagraphView
from gating.policies import Policy, TailExploration
from gating.selection import ordinary_bonus, select
from learner.config import RuleConfig
from learner.learning import initial_state
from learner.resync import apply_resync
from learner.rules import LearnBatch, build_rule


class Agent(Protocol):
    """Chooses, and learns what its choices earned."""

    def choose(
        self, embedding: Float[np.ndarray, "batch hidden"], candidates: Int[np.ndarray, " uid"], k: int
    ) -> Int[np.ndarray, "batch k"]:
        """k of the candidates for each prompt, best first."""
        ...

    def learn(
        self,
        embedding: Float[np.ndarray, "batch hidden"],
        uids: Int[np.ndarray, "batch k"],
        rewards: Float[np.ndarray, "batch k"],
        authors: list[str] | None = None,
    ) -> None:
        """What those choices earned, NaN where that is not known, and who reports it, if that is told."""
        ...

    def replace(self, uids: tuple[int, ...]) -> None:
        """These uids have new owners."""
        ...


BuildAgent = Callable[[int, int, int], Agent]
"""From the number of uids, the width of the embeddings and a seed."""


class RuleAgent:
    """A rule of Tidegate's as the service runs it: embeddings in fp16, and rows that follow owners.

    Args:
        config: the rule and its settings.
        uids: how many there are.
        dim: width of the embeddings.
        seed: of the rows and of the exploration.
        policy: how the choice is made from scores; by default that of the service.
    """

    def __init__(self, config: RuleConfig, uids: int, dim: int, seed: int, *, policy: Policy | None = None) -> None:
        self._rule = build_rule(config)
        self._owners = list(range(uids))
        self._state = initial_state(self._rule, self._view(), dim, seed)
        self._generator = np.random.default_rng(seed)
        self._policy = policy or TailExploration()
        self._next_owner = uids

    def choose(
        self, embedding: Float[np.ndarray, "batch hidden"], candidates: Int[np.ndarray, " uid"], k: int
    ) -> Int[np.ndarray, "batch k"]:
        """See `Agent`."""
        head = self._rule.head(self._state.rule)
        scores = (torch.from_numpy(embedding) @ head.weight.T + head.bias).numpy()[:, candidates]
        bonus = head.bonus.float().numpy()
        chosen = select(
            scores,
            candidates,
            k,
            policy=self._policy,
            generator=self._generator,
            bonus=bonus[candidates],
            ordinary=ordinary_bonus(bonus),
        )
        return np.stack([one.uids for one in chosen])

    def learn(
        self,
        embedding: Float[np.ndarray, "batch hidden"],
        uids: Int[np.ndarray, "batch k"],
        rewards: Float[np.ndarray, "batch k"],
        authors: list[str] | None = None,
    ) -> None:
        """See `Agent`."""
        known = ~np.isnan(rewards)
        if not known.any():
            return
        rows = known.any(axis=1)
        event = np.repeat(np.arange(rows.sum()), known[rows].sum(axis=1))
        batch = LearnBatch(
            embedding=torch.from_numpy(embedding[rows].astype(np.float16).astype(np.float32)),
            event=torch.from_numpy(event),
            uids=torch.from_numpy(uids[rows][known[rows]].astype(np.int64)),
            rewards=torch.from_numpy(rewards[rows][known[rows]].astype(np.float32)),
        )
        self._rule.update(self._state.rule, batch)

    def replace(self, uids: tuple[int, ...]) -> None:
        """See `Agent`."""
        for uid in uids:
            self._owners[uid] = self._next_owner
            self._next_owner += 1
        apply_resync(self._state, self._view(), self._rule, seed=self._next_owner)

    def _view(self) -> MetagraphView:
        return MetagraphView.from_hotkeys([f"owner-{owner}" for owner in self._owners])


class RandomAgent:
    """k candidates at random."""

    def __init__(self, uids: int, dim: int, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def choose(
        self, embedding: Float[np.ndarray, "batch hidden"], candidates: Int[np.ndarray, " uid"], k: int
    ) -> Int[np.ndarray, "batch k"]:
        """See `Agent`."""
        return np.stack([self._generator.permutation(candidates)[:k] for _ in embedding])

    def learn(
        self,
        embedding: Float[np.ndarray, "batch hidden"],
        uids: Int[np.ndarray, "batch k"],
        rewards: Float[np.ndarray, "batch k"],
        authors: list[str] | None = None,
    ) -> None:
        """See `Agent`."""

    def replace(self, uids: tuple[int, ...]) -> None:
        """See `Agent`."""
