"""What the learner knows, and what it hands to the replicas."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from gating.message import message
from gating.metagraph import MetagraphView

from .standings import Standings
from .tenures import Tenures

SNAPSHOT_FORMATS = (1,)
"""The layouts of `HeadSnapshot` that this version reads and writes, newest last. A new one is added beside the one
before it, and `HeadSnapshot.in_format` says how to write both: while a deployment rolls, replicas of either version
follow one learner. A field that readers may do without needs no new layout, see `gating.message`."""


@dataclass(slots=True)
class RuleState:
    """A rule's numbers. Everything in `rows` has the uid on its first axis and follows the network."""

    rows: dict[str, Tensor]
    shared: dict[str, Tensor] = field(default_factory=dict)

    def copy(self) -> RuleState:
        """The same numbers in tensors of their own."""
        rows, shared = ({name: tensor.clone() for name, tensor in part.items()} for part in (self.rows, self.shared))
        return RuleState(rows, shared)


@dataclass(frozen=True, slots=True)
class RuleIdentity:
    """Which rule it is.

    Attributes:
        label: what people call it.
        settings: its name and all its settings, see `config.settings_of`; empty where they are not kept.
        since: the version after which it began to learn.
    """

    label: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    since: int = 0


@dataclass(slots=True)
class Shadow:
    """A rule that learns from the same rewards without serving, and what it knows."""

    identity: RuleIdentity
    rule: RuleState

    def copy(self) -> Shadow:
        """The same in tensors of its own."""
        return Shadow(self.identity, self.rule.copy())


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

    def copy(self) -> UidStatistics:
        """The same counts in arrays of their own."""
        return UidStatistics(self.selections.copy(), self.rewards.copy(), self.reward_sum.copy(), self.resets.copy())


class Held(StrEnum):
    """Why an event that is in the log is not in the weights, though it may yet be."""

    FROZEN = "frozen"
    ROLLED_BACK = "rolled_back"
    NON_FINITE = "non_finite"
    AUTHOR = "author"


@dataclass(slots=True)
class LearnerState:
    """Everything that learning changes, and that a checkpoint saves.

    Attributes:
        view: the network as of `version`.
        rule: what the rule that serves knows.
        statistics: counts per uid.
        tenures: since when the owners have had their uids.
        version: the last log sequence number that is in it.
        frozen: an operator has stopped learning: rewards are held.
        held: sequence numbers of reward events that were not learned, or no longer are, in ascending order.
        identity: which rule serves.
        served_since: the version that has let it serve: the place of its promotion in the log, 0 if it always did.
        shadows: the other rules, by label.
        standings: what has been said of authors, of those of whom anything has.
    """

    view: MetagraphView
    rule: RuleState
    statistics: UidStatistics
    tenures: Tenures = field(default_factory=Tenures)
    version: int = 0
    frozen: bool = False
    held: dict[int, Held] = field(default_factory=dict)
    identity: RuleIdentity = field(default_factory=RuleIdentity)
    served_since: int = 0
    shadows: dict[str, Shadow] = field(default_factory=dict)
    standings: Standings = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 in hex of all that the rule that serves knows, to the bit, and of who it is known about."""
        digest = hashlib.sha256()
        for part in (self.rule.rows, self.rule.shared):
            for name, tensor in sorted(part.items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().contiguous().numpy().tobytes())
        digest.update("\n".join(self.view.hotkeys).encode())
        return digest.hexdigest()

    def copy(self) -> LearnerState:
        """A state of its own with the same content."""
        return replace(
            self,
            rule=self.rule.copy(),
            statistics=self.statistics.copy(),
            tenures=self.tenures.copy(),
            held=dict(self.held),
            shadows={label: shadow.copy() for label, shadow in self.shadows.items()},
            standings=dict(self.standings),
        )


@dataclass(frozen=True, slots=True)
class Head:
    """Scores are `embedding @ weight.T + bias`; `bonus` is added only when exploring."""

    weight: Float[Tensor, "uid hidden"]
    bias: Float[Tensor, " uid"]
    bonus: Float[Tensor, " uid"]


@message
class HeadSnapshot:
    """One published version, as the replicas read it: numpy arrays, so that an object store can share them.

    Attributes:
        weight: float32 [N, D].
        bias: float32 [N].
        bonus: float32 [N], added to scores only when exploring.
        available: bool [N], which uids may be selected.
        fingerprint: the encoder whose embeddings the weights are for.
        format: which of `SNAPSHOT_FORMATS` this is; a replica refuses one that it does not know.
    """

    epoch: int
    version: int
    view: MetagraphView
    fingerprint: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    bonus: NDArray[np.float32]
    available: NDArray[np.bool_]
    format: int = SNAPSHOT_FORMATS[-1]

    @property
    def order(self) -> tuple[int, int]:
        """(epoch, version): what is newer than what."""
        return (self.epoch, self.version)

    @property
    def dim(self) -> int:
        """Width of the embeddings that the weights are for."""
        return int(self.weight.shape[1])

    def in_format(self, wanted: int) -> HeadSnapshot:
        """The same in another of `SNAPSHOT_FORMATS`."""
        return replace(self, format=wanted)


def format_for(reads: Sequence[int]) -> int | None:
    """The newest layout that this version writes and a reader of those reads; None if there is none."""
    return max(set(reads) & set(SNAPSHOT_FORMATS), default=None)


def build_snapshot(
    head: Head, *, version: int, view: MetagraphView, epoch: int = 0, fingerprint: str = ""
) -> HeadSnapshot:
    """Freeze a head as a version of the weights for a view of the network."""
    return HeadSnapshot(
        epoch=epoch,
        version=version,
        view=view,
        fingerprint=fingerprint,
        weight=_float32(head.weight),
        bias=_float32(head.bias),
        bonus=_float32(head.bonus),
        available=np.asarray(view.available, dtype=np.bool_),
    )


def _float32(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().to(torch.float32).contiguous().numpy()
    return array
