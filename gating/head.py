"""The per-uid linear head: one row of weights and one bias a uid.

`remap_rows` is the one primitive by which anything that has a row per uid (weights, biases, an optimiser's
momentum, statistics) follows the network: reset, move, grow and shrink are all "row i comes from row j, or
is fresh".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def score(
    embedding: Float[Tensor, "batch hidden"],
    weight: Float[Tensor, "uid hidden"],
    bias: Float[Tensor, " uid"],
) -> Float[Tensor, "batch uid"]:
    """Scores of every uid for every embedding: `embedding @ weight.T + bias`."""
    return torch.addmm(bias, embedding, weight.T)


def xavier_rows(count: int, dim: int, generator: torch.Generator | None = None) -> Float[Tensor, "uid hidden"]:
    """Fresh rows, each Xavier-uniform as a layer of its own: U(-a, a) with a = sqrt(6 / (dim + 1)).

    This is what the seed does (`xavier_uniform_` on a row with a leading axis of 1; Glorot and Bengio 2010).
    """
    bound = math.sqrt(6.0 / (dim + 1))
    return torch.empty(count, dim).uniform_(-bound, bound, generator=generator)


def remap_rows(rows: Tensor, source: Sequence[int], fresh: Tensor) -> Tensor:
    """Rows of the new numbering: row i is `rows[source[i]]`, or the next row of `fresh` where that is -1.

    Args:
        rows: old rows, the uid on the first axis.
        source: for each new row the old row that it takes over, or -1.
        fresh: as many rows as `source` has -1, in that order; rows after those are not used.

    Returns:
        A new tensor with `len(source)` rows; kept rows are equal to the bit.

    Raises:
        ValueError: a source row does not exist, or `fresh` is too short.
    """
    index = torch.as_tensor(source, dtype=torch.long)
    is_fresh = index < 0
    if len(index) and int(index.max()) >= len(rows):
        raise ValueError(f"row {int(index.max())} was asked for, but there are only {len(rows)} rows")
    wanted = int(is_fresh.sum())
    if len(fresh) < wanted:
        raise ValueError(f"{wanted} fresh rows are needed, got {len(fresh)}")
    remapped = rows.new_empty((len(index), *rows.shape[1:]))
    remapped[~is_fresh] = rows[index[~is_fresh]]
    remapped[is_fresh] = fresh[:wanted].to(rows)
    return remapped
