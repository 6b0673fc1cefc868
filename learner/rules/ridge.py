"""The algebra of many small ridge regressions at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CHUNK = 32
_JITTER = 1e-4


@dataclass(frozen=True, slots=True)
class Sums:
    """Of each of some uids: the sums of w x x^T and of w r x over its rewards r at inputs x with weights w."""

    gram: Float[Tensor, "uid inputs inputs"]
    target: Float[Tensor, "uid inputs"]

    def faded(self, left: Float[Tensor, " uid"]) -> Sums:
        """What is left of them if this share of each uid's is."""
        return Sums(self.gram * left[:, None, None], self.target * left[:, None])


def sums_by_uid(
    position: Int[Tensor, " k"],
    count: int,
    x: Float[Tensor, "k inputs"],
    rewards: Float[Tensor, " k"],
    weights: Float[Tensor, " k"],
) -> Sums:
    """Sum the rewards of each uid.

    Each uid's rewards are cut into chunks of one length, filled up with weights of 0, so that all are one batched
    product, and a uid that earned most of a batch costs no more than many that earned one each.

    Args:
        position: whose reward it is, from 0 to `count` - 1, ascending.
        count: the number of uids.
        x: inputs of each reward.
        rewards: what was earned.
        weights: what each counts.
    """
    per_uid = torch.bincount(position, minlength=count)
    length = int(per_uid.max().clamp(max=_CHUNK))
    chunks = (per_uid + length - 1) // length
    first_chunk = torch.cumsum(chunks, 0) - chunks
    rank = torch.arange(len(position)) - (torch.cumsum(per_uid, 0) - per_uid)[position]
    slot = (first_chunk[position] + rank // length) * length + rank % length
    total, width = int(chunks.sum()), x.shape[1]
    padded = torch.zeros(total * length, width + 1)
    padded[slot, :-1] = x * weights.sqrt()[:, None]
    padded[slot, -1] = rewards * weights.sqrt()
    padded = padded.view(total, length, width + 1)
    products = padded[:, :, :-1].mT @ padded
    owner = torch.repeat_interleave(torch.arange(count), chunks)
    one_each = bool((chunks == 1).all())
    sums = products if one_each else torch.zeros(count, width, width + 1).index_add_(0, owner, products)
    return Sums(gram=sums[:, :, :-1], target=sums[:, :, -1])


def factored(gram: Float[Tensor, "uid inputs inputs"], ridge: float) -> Float[Tensor, "uid inputs inputs"]:
    """Cholesky factors of gram + ridge I. Overwrites `gram`, so that nothing is copied.

    A Gram matrix that rounding has left without a factor gets a larger ridge, in proportion to itself.
    """
    gram.diagonal(dim1=1, dim2=2).add_(ridge)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed.any()):
        again = failed > 0
        firm = gram[again].double()
        trace = firm.diagonal(dim1=1, dim2=2).abs().sum(dim=1)
        firm.diagonal(dim1=1, dim2=2).add_(_JITTER * trace[:, None])
        factor[again] = torch.linalg.cholesky_ex(firm)[0].to(factor)
    return factor


def solved(sums: Sums, prior: Float[Tensor, "uid inputs"], ridge: float) -> Float[Tensor, "uid inputs"]:
    """(gram + ridge I)^-1 (target + ridge prior): the regressions, shrunk toward the prior. Overwrites the sums."""
    right = sums.target + ridge * prior
    weight: Tensor = torch.cholesky_solve(right[:, :, None], factored(sums.gram, ridge))[:, :, 0]
    return weight
