"""The seed's rule: mean squared error between softmaxed scores and softmaxed rewards, SGD with momentum.

One step an event, over the uids that were asked, gradients cleared before each. At k = 1 both softmaxes are 1
and the gradient is zero: this rule cannot learn from single answers.

Torch's SGD moves every row at every step, since momentum decays also where the gradient is zero. Here a row
catches up on the steps that it missed when it is next needed: after t steps without a gradient its velocity is
v m^t and it has moved by -lr v (m + m^2 + ... + m^t). The numbers are the seed's, the cost is that of the rows
that were asked.

An event's loss is one number for all of its uids, so it is scaled by the mean of their rewards' weights. Where all
are 1, which the seed knows nothing else than, the arithmetic is the seed's to the bit.
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


class SoftmaxMse:
    """See the module's docstring."""

    name = "softmax_mse"

    def __init__(self, *, learning_rate: float, momentum: float, new_row: NewRow = "pool") -> None:
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.new_row = new_row

    def initial_state(self, num_uids: int, dim: int, generator: torch.Generator) -> RuleState:
        """Xavier-uniform weights, zero biases, no velocity."""
        shared = {"step": torch.zeros((), dtype=torch.long), "dim": torch.tensor(dim)}
        weight = torch.cat([xavier_rows(num_uids, dim, generator), torch.zeros(num_uids, 1)], dim=1)
        return RuleState(rows=self._at_rest(weight, 0), shared=shared)

    def fresh_rows(self, state: RuleState, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Rows without velocity; the steps before their time are not theirs to catch up on."""
        dim, step = int(state.shared["dim"]), int(state.shared["step"])
        weight = torch.zeros(count, dim + 1)
        if self.new_row != "zeros":
            weight[:, :-1] = xavier_rows(count, dim, generator)
        # A row that was never asked still has its random start, and says nothing of what a newcomer is like.
        asked = state.rows["asked"]
        if self.new_row == "pool" and bool(asked.any()):
            head = self.head(state)
            learned = torch.cat([head.weight, head.bias[:, None]], dim=1)[asked]
            weight = learned.mean(dim=0).repeat(count, 1)
        return self._at_rest(weight, step)

    def _at_rest(self, weight: Float[Tensor, "uid hidden"], step: int) -> dict[str, Tensor]:
        return {
            "weight": weight,
            "velocity": torch.zeros_like(weight),
            "last_step": torch.full((len(weight),), step, dtype=torch.long),
            "asked": torch.zeros(len(weight), dtype=torch.bool),
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
                losses[event] = self._step(state, inputs[event], uids, rewards, batch.weights[start:end].mean())
            start = end
        return losses

    def head(self, state: RuleState) -> Head:
        """The weights as they would be had every row caught up."""
        weight, velocity = state.rows["weight"], state.rows["velocity"]
        missed = state.shared["step"] - state.rows["last_step"]
        current = weight - self.learning_rate * velocity * self._drift(missed)
        return Head(weight=current[:, :-1], bias=current[:, -1], bonus=torch.zeros(len(current)))

    def draft(self, state: RuleState) -> Callable[[], Head]:
        """See `Rule.draft`: catching up is about as cheap as copying."""
        head = self.head(state)
        return lambda: head

    def _step(
        self,
        state: RuleState,
        inputs: Float[Tensor, " hidden"],
        uids: Int[Tensor, " k"],
        rewards: Float[Tensor, " k"],
        counts: Float[Tensor, ""],
    ) -> Tensor:
        weight, velocity = state.rows["weight"], state.rows["velocity"]
        missed = state.shared["step"] - state.rows["last_step"][uids]
        rows = weight[uids] - self.learning_rate * velocity[uids] * self._drift(missed)
        speed = velocity[uids] * (self.momentum**missed)[:, None]

        scored = torch.softmax(rows @ inputs, dim=0)
        difference = scored - torch.softmax(rewards, dim=0)
        by_score = scored * difference * (2.0 / len(uids))
        by_score = by_score - scored * by_score.sum()

        speed = self.momentum * speed + counts * by_score[:, None] * inputs
        weight[uids] = rows - self.learning_rate * speed
        velocity[uids] = speed
        state.shared["step"] += 1
        state.rows["last_step"][uids] = state.shared["step"]
        state.rows["asked"][uids] = True

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
