"""What the learner knows, and what it hands to the replicas."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from gating.metagraph import MetagraphView

SNAPSHOT_FORMAT = 1


@dataclass(slots=True)
class RuleState:
    """A rule's numbers. Everything in `rows` has the uid on its first axis and follows the network."""

    rows: dict[str, Tensor]
    shared: dict[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class UidStatistics:
    """Counts per uid since its owner registered, and resets, which outlive owners."""

    selections: NDArray[np.int64]
    rewards: NDArray[np.int64]
    reward_sum: NDArray[np.float64]
    resets: NDArray[np.int64]

    @classmethod
    def empty(cls, num_uids: int) -> UidStatistics:
        """Zero counts for `num_uids` uids."""
        return cls(
            selections=np.zeros(num_uids, np.int64),
            rewards=np.zeros(num_uids, np.int64),
            reward_sum=np.zeros(num_uids),
            resets=np.zeros(num_uids, np.int64),
        )


@dataclass(slots=True)
class LearnerState:
    """Everything that learning changes. `version` is the last log sequence number that is in it."""

    view: MetagraphView
    rule: RuleState
    statistics: UidStatistics
    version: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """Scores are `embedding @ weight.T + bias`; `bonus` is added only when exploring."""

    weight: Float[Tensor, "uid hidden"]
    bias: Float[Tensor, " uid"]
    bonus: Float[Tensor, " uid"]


@dataclass(frozen=True, slots=True)
class HeadSnapshot:
    """One published version, as the replicas read it: numpy arrays, so that an object store can share them.

    Attributes:
        weight: float32 [N, D].
        bias: float32 [N].
        bonus: float32 [N], added to scores only when exploring.
        available: bool [N], which uids may be selected.
        fingerprint: the encoder whose embeddings the weights are for.
        format: version of this layout; a replica refuses one that it does not know.
    """

    epoch: int
    version: int
    view: MetagraphView
    fingerprint: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    bonus: NDArray[np.float32]
    available: NDArray[np.bool_]
    format: int = SNAPSHOT_FORMAT

    @property
    def order(self) -> tuple[int, int]:
        """(epoch, version): what is newer than what."""
        return (self.epoch, self.version)

    @property
    def dim(self) -> int:
        """Width of the embeddings that the weights are for."""
        return int(self.weight.shape[1])


def build_snapshot(state: LearnerState, head: Head, *, epoch: int, fingerprint: str) -> HeadSnapshot:
    """Freeze a head as the version that `state` has reached."""
    return HeadSnapshot(
        epoch=epoch,
        version=state.version,
        view=state.view,
        fingerprint=fingerprint,
        weight=_float32(head.weight),
        bias=_float32(head.bias),
        bonus=_float32(head.bonus),
        available=np.asarray(state.view.available, dtype=np.bool_),
    )


def _float32(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().to(torch.float32).contiguous().numpy()
    return array
