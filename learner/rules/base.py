"""The protocol that every learning rule follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..state import Head, RuleState


@dataclass(frozen=True, slots=True)
class LearnBatch:
    """Reward events in log order. The rewards of all events lie end to end in three flat arrays.

    Attributes:
        embedding: float32, one row per event.
        event: for each reward, the row of its event; ascending.
        uids: for each reward, the uid that earned it.
        rewards: float32, one per reward.
        weights: float32, what each reward counts, from 0 to 1; all count 1 where none are given.
    """

    embedding: Float[Tensor, "batch hidden"]
    event: Int[Tensor, " k"]
    uids: Int[Tensor, " k"]
    rewards: Float[Tensor, " k"]
    weights: Float[Tensor, " k"] = field(default_factory=lambda: torch.ones(0))

    def __post_init__(self) -> None:
        if not len(self.weights):
            object.__setattr__(self, "weights", torch.ones(len(self.rewards)))

    @property
    def size(self) -> int:
        """Number of events."""
        return len(self.embedding)

    def only(self, event: int) -> LearnBatch:
        """The batch that holds just one of the events."""
        mine = self.event == event
        return LearnBatch(
            embedding=self.embedding[event : event + 1],
            event=torch.zeros(int(mine.sum()), dtype=torch.long),
            uids=self.uids[mine],
            rewards=self.rewards[mine],
            weights=self.weights[mine],
        )


@runtime_checkable
class Rule(Protocol):
    """How rewards change a head. Implementations are pure: all that they know is in `RuleState`.

    The same state and the same batches give the same bits on the same torch build, thread count and processor.
    """

    @property
    def name(self) -> str:
        """The rule's name in the configuration and in checkpoints."""
        ...

    def initial_state(self, num_uids: int, dim: int, generator: torch.Generator) -> RuleState:
        """State before any reward, for embeddings of width `dim`."""
        ...

    def fresh_rows(self, state: RuleState, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Rows for `count` owners of whom nothing is known, for every name in `state.rows`."""
        ...

    def update(self, state: RuleState, batch: LearnBatch) -> Float[Tensor, " batch"]:
        """Learn a batch; returns the loss of each event before its step.

        Mutates the rows of the batch's uids and `state.shared`, and nothing else: if a number comes out that is
        not finite, this is what the learner puts back.
        """
        ...

    def head(self, state: RuleState) -> Head:
        """The head that the state stands for, in tensors of its own."""
        ...

    def draft(self, state: RuleState) -> Callable[[], Head]:
        """`head` in two steps: what of it has to be read from the state now, and the rest, which may be done later.

        Whatever happens to the state in between, the head is that of now. Of one rule there is one draft at a time:
        it is finished, once, before the next one is begun.
        """
        ...
