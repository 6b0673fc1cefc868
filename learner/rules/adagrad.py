"""A squared-loss linear regression a uid, with step sizes that adapt to the uid's own gradients.

The scalar form of AdaGrad (Duchi, Hazan and Singer 2011; "AdaGrad-Norm", Ward, Wu and Bottou 2019): a uid's
step is learning_rate / sqrt(sum of its squared gradient norms). It learns at k = 1 too, since each answer has
a target of its own.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..state import Head, RuleState
from .base import LearnBatch

_BONUS_PRIOR = 20.0
_EPSILON = 1e-12


class Adagrad:
    """See the module's docstring."""

    name = "adagrad"

    def __init__(self, *, learning_rate: float, initial_score: float, bonus: float) -> None:
        self.learning_rate = learning_rate
        self.initial_score = initial_score
        self.bonus = bonus

    def initial_state(self, num_uids: int, dim: int, generator: torch.Generator) -> RuleState:
        """Zero weights: every uid scores `initial_score` for every prompt."""
        state = RuleState(rows={}, shared={"dim": torch.tensor(dim)})
        state.rows = self.fresh_rows(state, num_uids, generator)
        return state

    def fresh_rows(self, state: RuleState, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Rows as at the start; nothing here is random."""
        return {
            "weight": torch.zeros(count, int(state.shared["dim"])),
            "bias": torch.full((count,), self.initial_score),
            "squared_gradients": torch.full((count,), _EPSILON),
            "rewards": torch.zeros(count, dtype=torch.long),
        }

    def update(self, state: RuleState, batch: LearnBatch) -> Float[Tensor, " batch"]:
        """Every uid takes one step per reward, in log order.

        Uids do not touch each other's rows, so the first reward of every uid can be learned in one go, then the
        second of every uid, and so on.
        """
        losses = torch.zeros(batch.size)
        for these in _rounds(batch.uids):
            event = batch.event[these]
            error = self._step(state, batch.embedding[event], batch.uids[these], batch.rewards[these])
            losses.index_add_(0, event, error**2)
        per_event = torch.bincount(batch.event, minlength=batch.size).clamp(min=1)
        return losses / per_event

    def head(self, state: RuleState) -> Head:
        """The regressions as they are; the bonus falls with the number of rewards."""
        return Head(
            weight=state.rows["weight"].clone(),
            bias=state.rows["bias"].clone(),
            bonus=self.bonus / torch.sqrt(state.rows["rewards"] + _BONUS_PRIOR),
        )

    def _step(
        self,
        state: RuleState,
        embedding: Float[Tensor, "k hidden"],
        uids: Int[Tensor, " k"],
        rewards: Float[Tensor, " k"],
    ) -> Float[Tensor, " k"]:
        rows = state.rows
        weight, bias = rows["weight"][uids], rows["bias"][uids]
        error = (weight * embedding).sum(dim=1) + bias - rewards
        squared_norm = error**2 * ((embedding**2).sum(dim=1) + 1.0)
        rows["squared_gradients"][uids] += squared_norm
        step = self.learning_rate * error / torch.sqrt(rows["squared_gradients"][uids])
        rows["weight"][uids] = weight - step[:, None] * embedding
        rows["bias"][uids] = bias - step
        rows["rewards"][uids] += 1
        return error


def _rounds(uids: Int[Tensor, " k"]) -> list[Tensor]:
    """Split positions into rounds in which no uid occurs twice: the j-th round has each uid's j-th occurrence."""
    order = torch.argsort(uids, stable=True)
    _, counts = torch.unique_consecutive(uids[order], return_counts=True)
    starts = torch.cumsum(counts, 0) - counts
    occurrence = torch.empty_like(uids)
    occurrence[order] = torch.arange(len(uids)) - torch.repeat_interleave(starts, counts)
    by_round = torch.argsort(occurrence, stable=True)
    return list(torch.split(by_round, torch.bincount(occurrence).tolist()))
