"""The seed's rule: mean squared error between softmaxed scores and softmaxed rewards, SGD with momentum.

One step an event, over the uids that were asked, gradients cleared before each. At k = 1 both softmaxes are 1
and the gradient is zero: this rule cannot learn from single answers.

Torch's SGD moves every row at every step, since momentum decays also where the gradient is zero. Here a row
catches up on the steps that it missed when it is next needed: after t steps without a gradient its velocity is
v m^t and it has moved by -lr v (m + m^2 + ... + m^t). The numbers are the seed's, the cost is that of the rows
that were asked.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gating.head import xavier_rows

from ..state import Head, RuleState
from .base import LearnBatch


class SoftmaxMse:
    """See the module's docstring."""

    name = "softmax_mse"

    def __init__(self, *, learning_rate: float, momentum: float) -> None:
        self.learning_rate = learning_rate
        self.momentum = momentum

    def initial_state(self, num_uids: int, dim: int, generator: torch.Generator) -> RuleState:
        """Xavier-uniform weights, zero biases, no velocity."""
        state = RuleState(rows={}, shared={"step": torch.zeros((), dtype=torch.long), "dim": torch.tensor(dim)})
        state.rows = self.fresh_rows(state, num_uids, generator)
        return state

    def fresh_rows(self, state: RuleState, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Rows as at the start; the steps before their time are not theirs to catch up on."""
        dim = int(state.shared["dim"])
        return {
            "weight": torch.cat([xavier_rows(count, dim, generator), torch.zeros(count, 1)], dim=1),
            "velocity": torch.zeros(count, dim + 1),
            "last_step": torch.full((count,), int(state.shared["step"]), dtype=torch.long),
        }

    def update(self, state: RuleState, batch: LearnBatch) -> Float[Tensor, " batch"]:
        """One step an event, in order."""
        ends = torch.searchsorted(batch.event, torch.arange(batch.size), right=True).tolist()
        inputs = _with_one(batch.embedding)
        losses = torch.zeros(batch.size)
        start = 0
        for event, end in enumerate(ends):
            if end > start:
                uids, rewards = batch.uids[start:end], batch.rewards[start:end]
                losses[event] = self._step(state, inputs[event], uids, rewards)
            start = end
        return losses

    def head(self, state: RuleState) -> Head:
        """The weights as they would be had every row caught up."""
        weight, velocity = state.rows["weight"], state.rows["velocity"]
        missed = state.shared["step"] - state.rows["last_step"]
        current = weight - self.learning_rate * velocity * self._drift(missed)
        return Head(weight=current[:, :-1], bias=current[:, -1], bonus=torch.zeros(len(current)))

    def _step(
        self,
        state: RuleState,
        inputs: Float[Tensor, " hidden"],
        uids: Int[Tensor, " k"],
        rewards: Float[Tensor, " k"],
    ) -> Tensor:
        weight, velocity = state.rows["weight"], state.rows["velocity"]
        missed = state.shared["step"] - state.rows["last_step"][uids]
        rows = weight[uids] - self.learning_rate * velocity[uids] * self._drift(missed)
        speed = velocity[uids] * (self.momentum**missed)[:, None]

        scored = torch.softmax(rows @ inputs, dim=0)
        difference = scored - torch.softmax(rewards, dim=0)
        by_score = scored * difference * (2.0 / len(uids))
        by_score = by_score - scored * by_score.sum()

        speed = self.momentum * speed + by_score[:, None] * inputs
        weight[uids] = rows - self.learning_rate * speed
        velocity[uids] = speed
        state.shared["step"] += 1
        state.rows["last_step"][uids] = state.shared["step"]

        # These rows drift on without being looked at again, so where they come to rest must be finite too.
        rest = weight[uids] - self.learning_rate * speed * (self.momentum / (1.0 - self.momentum))
        loss = (difference**2).mean()
        return torch.where(rest.isfinite().all(), loss, torch.nan)

    def _drift(self, missed: Int[Tensor, " uid"]) -> Float[Tensor, "uid 1"]:
        """m + m^2 + ... + m^t for each row's number t of missed steps, as a column."""
        # In float64, since 1 - m^t loses most of its digits where m is near 1.
        total = self.momentum * (1.0 - self.momentum ** missed.double()) / (1.0 - self.momentum)
        return total.float()[:, None]


def _with_one(embedding: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden+1"]:
    """The embedding with a constant 1 behind it, whose weight is the bias."""
    return torch.cat([embedding, torch.ones(len(embedding), 1)], dim=1)
