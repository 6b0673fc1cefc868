"""What is costly about publishing a ridge head, kept from one publish to the next for the rows that did not change."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import LearnBatch
from .ridge import factored

_BLOCK = 64
_MULTIPLIER = 0x2545F4914F6CDD1D


def next_stamp(stamp: Tensor, num_uids: int, batch: LearnBatch) -> Tensor:
    """A hash of all batches so far: of the last one's hash, of this batch and of the number of rows it met."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (stamp, torch.tensor(num_uids), batch.embedding, batch.event, batch.uids, batch.rewards):
        digest.update(part.contiguous().numpy().tobytes())
    return torch.tensor(int.from_bytes(digest.digest(), "little", signed=True))


def stamped(stamps: Int[Tensor, " uid"], uids: Int[Tensor, " uid"], stamp: Tensor) -> Int[Tensor, " uid"]:
    """The stamps of rows that a batch of this stamp has changed: hashes of what has come to each row, in order."""
    mixed = stamps
    for part in (stamp, uids):
        mixed = (mixed + part) * _MULTIPLIER
        mixed = mixed ^ (mixed >> 29)
    return mixed


class Gains:
    """For each row, (gram + ridge I)^-1 as it was last worked out, and what it was worked out from.

    A row's key says its content: the row's stamp (a 64-bit hash of all that it has learned), the notch of its
    decay, and the stamp of the batch that brought the present directions; of a row that has learned nothing, the
    ridge alone. So a gain may be used wherever its key turns up again, and after a resync, a rollback, a refused batch
    or a restart a row whose key is another is worked out anew; the head comes out the same, with or without what is
    kept here.
    """

    def __init__(self) -> None:
        self._keys = torch.empty(0, 3, dtype=torch.long)
        self._gains = torch.empty(0, 0, 0)

    def stale(self, keys: Int[Tensor, "uid 3"]) -> Int[Tensor, " k"]:
        """The rows of which there is no gain, or that of another content."""
        known = self._keys[: len(keys)]
        stale = torch.ones(len(keys), dtype=torch.bool)
        stale[: len(known)] = (keys[: len(known)] != known).any(dim=1)
        return torch.nonzero(stale)[:, 0]

    def of(
        self,
        keys: Int[Tensor, "uid 3"],
        stale: Int[Tensor, " k"],
        learned: Int[Tensor, " m"],
        gram: Float[Tensor, "m inputs inputs"],
        ridge: float,
    ) -> Float[Tensor, "uid inputs inputs"]:
        """The gains of all rows, for reading only.

        Args:
            keys: of all rows.
            stale: the rows whose gains `stale` said were not there.
            learned: those of them that have learned anything.
            gram: theirs, that is of `learned`; overwritten. The others' are 0.
            ridge: the ridge.
        """
        width = gram.shape[1]
        known, gains = self._keys, self._gains
        # Until this is through, what is kept is not to be relied on.
        self._keys = known[:0]
        if gains.shape != (len(keys), width, width):
            kept = min(len(keys), len(gains)) if gains.shape[1] == width else 0
            known, resized = known[:kept], torch.empty(len(keys), width, width)
            resized[:kept] = gains[:kept] if kept else 0.0
            gains = resized
        if len(learned) < len(stale):
            gains[stale] = torch.eye(width) / ridge
        # In blocks that stay in the processor's cache.
        for block, of_block in zip(torch.split(learned, _BLOCK), torch.split(gram, _BLOCK), strict=True):
            gains[block] = torch.cholesky_inverse(factored(of_block, ridge))
        self._keys, self._gains = keys.clone(), gains
        return gains
