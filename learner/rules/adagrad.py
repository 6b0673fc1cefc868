"""A squared-loss linear regression a uid, with step sizes that adapt to the uid's own gradients.

The scalar form of AdaGrad (Duchi, Hazan and Singer 2011; "AdaGrad-Norm", Ward, Wu and Bottou 2019): a uid's
step is learning_rate / sqrt(sum of its squared gradient norms). It learns at k = 1 too, since each answer has
a target of its own. A reward's weight scales its squared loss, and so its gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gating.head import xavier_rows

from ..config import NewRow
from ..state import Head, RuleState
from .base import LearnBatch

_BONUS_PRIOR = 20.0
_EPSILON = 1e-12


class Adagrad:
    """See the module's docstring."""

    name = "adagrad"

    def __init__(self, *, learning_rate: float, initial_score: float, bonus: float, new_row: NewRow = "pool") -> None:
        self.learning_rate = learning_rate
        self.initial_score = initial_score
        self.bonus = bonus
        self.new_row = new_row

    def initial_state(self, num_uids: int, dim: int, generator: torch.Generator) -> RuleState:
        """Zero weights: every uid scores `initial_score` for every prompt."""
        return RuleState(rows=self._unlearned(torch.zeros(num_uids, dim)), shared={"dim": torch.tensor(dim)})

    def fresh_rows(self, state: RuleState, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Rows without rewards; from the pool they score as all rewards so far would have a uid score."""
        dim = int(state.shared["dim"])
        rows = self._unlearned(
            xavier_rows(count, dim, generator) if self.new_row == "xavier" else torch.zeros(count, dim)
        )
        rewards = state.rows["rewards"].float()
        if self.new_row == "pool" and bool(rewards.sum() > 0):
            share = rewards / rewards.sum()
            rows["weight"] = (share @ state.rows["weight"]).repeat(count, 1)
            rows["bias"] = (share @ state.rows["bias"]).repeat(count)
        return rows

    def _unlearned(self, weight: Float[Tensor, "uid hidden"]) -> dict[str, Tensor]:
        count = len(weight)
        return {
            "weight": weight,
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
            error = self._step(
                state, batch.embedding[event], batch.uids[these], batch.rewards[these], batch.weights[these]
            )
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

    def draft(self, state: RuleState) -> Callable[[], Head]:
        """See `Rule.draft`: the copy of the state is all there is to a head."""
        head = self.head(state)
        return lambda: head

    def _step(
        self,
        state: RuleState,
        embedding: Float[Tensor, "k hidden"],
        uids: Int[Tensor, " k"],
        rewards: Float[Tensor, " k"],
        weights: Float[Tensor, " k"],
    ) -> Float[Tensor, " k"]:
        rows = state.rows
        weight, bias = rows["weight"][uids], rows["bias"][uids]
        error = (weight * embedding).sum(dim=1) + bias - rewards
        gradient = weights * error
        squared_norm = gradient**2 * ((embedding**2).sum(dim=1) + 1.0)
        rows["squared_gradients"][uids] += squared_norm
        step = self.learning_rate * gradient / torch.sqrt(rows["squared_gradients"][uids])
        rows["weight"][uids] = weight - step[:, None] * embedding
        rows["bias"][uids] = bias - step
        # A whole number, and what counts for little is to end nobody's exploration.
        rows["rewards"][uids] += weights.round().long()
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
