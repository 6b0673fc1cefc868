"""The few directions in which a stream's prompts differ most, found from the prompts as they come.

The second moment of the first prompts is kept rather than the prompts themselves, and its main directions (a
principal component analysis without centring) are taken anew at a few counts. Sums that were taken along the
earlier directions are carried over to the new ones instead of being taken again, which would need each reward
and whose it was: x = s V e becomes T x, with T = s' V' V^T / s. What lay outside of the earlier directions is lost.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

REFITS = (32, 128, 512)
"""The directions are taken anew once so many prompts were seen. Before the first, a prompt is a constant only."""

# In units of the prompts' root mean square: how far out a prompt may lie. A few freaks must not drown the rest,
# and sums of products stay well inside of float32.
_FARTHEST = 4.0


def initial_projection(dims: int, dim: int) -> dict[str, Tensor]:
    """What is kept about the prompts before there are any.

    Args:
        dims: how many directions to use; no more than `dim`.
        dim: width of the embeddings.

    Returns:
        `projection`: the directions times their scale, float64 [dims, dim]. `turns`: for each refit the change of
        basis that it made, float64. `basis`: the number of refits so far. `seen`: prompts so far, counted until the
        last refit. `moment`: the sum of their outer products, float64 [dim, dim], given up after the last refit.
    """
    return {
        "projection": torch.zeros(dims, dim, dtype=torch.float64),
        "turns": torch.eye(dims + 1, dtype=torch.float64).repeat(len(REFITS), 1, 1),
        "basis": torch.zeros((), dtype=torch.long),
        "seen": torch.zeros((), dtype=torch.long),
        "moment": torch.zeros(dim, dim, dtype=torch.float64),
    }


def see(shared: dict[str, Tensor], embedding: Float[Tensor, "batch hidden"]) -> Tensor | None:
    """Count prompts in, and take the directions anew if it is time. Mutates `shared`, and of it only what is its own.

    Returns:
        The change of basis T, float64, with the constant as its last coordinate; None if there was none.
    """
    before = int(shared["seen"])
    if before >= REFITS[-1]:
        return None
    after = before + len(embedding)
    wide = embedding.double()
    shared["seen"] = torch.tensor(after)
    shared["moment"] = shared["moment"] + wide.T @ wide
    # A moment that is not finite has no directions; whoever called puts everything back when he sees it.
    if not any(before < count <= after for count in REFITS) or not bool(shared["moment"].isfinite().all()):
        return None
    old = shared["projection"]
    shared["projection"] = _main_directions(shared["moment"] / after, len(old))
    turn = _turn(old, shared["projection"])
    shared["turns"] = shared["turns"].clone()
    shared["turns"][int(shared["basis"])] = turn
    shared["basis"] = shared["basis"] + 1
    if after >= REFITS[-1]:
        shared["moment"] = shared["moment"][:0, :0].clone()
    return turn


def inputs(projection: Float[Tensor, "dims hidden"], embedding: Float[Tensor, "batch hidden"]) -> Tensor:
    """The prompts' coordinates along the directions and a constant 1 behind them, float32 [batch, dims + 1]."""
    along = embedding @ projection.float().T
    norm = torch.linalg.vector_norm(along, dim=1, keepdim=True)
    along = along * (_FARTHEST / norm.clamp(min=_FARTHEST))
    return torch.cat([along, torch.ones(len(along), 1)], dim=1)


def onto_directions(projection: Float[Tensor, "dims hidden"], weight: Float[Tensor, "uid hidden"]) -> Tensor:
    """Weights on coordinates that stand for these weights on embeddings, as far as the directions reach."""
    onto: Tensor = weight @ projection.float().T / _squared_scale(projection).float()
    return onto


def turned_gram(
    shared: dict[str, Tensor], basis: Int[Tensor, " uid"], gram: Float[Tensor, "uid inputs inputs"]
) -> Float[Tensor, "uid inputs inputs"]:
    """Sums of x x^T, taken along the directions of their time, carried over to the present ones."""
    for rows, turn in _behind(shared, basis):
        gram = gram.index_copy(0, rows, turn @ gram[rows] @ turn.T)
    return gram


def turned_target(
    shared: dict[str, Tensor], basis: Int[Tensor, " uid"], target: Float[Tensor, "uid inputs"]
) -> Float[Tensor, "uid inputs"]:
    """Sums of r x, carried over in the same way."""
    for rows, turn in _behind(shared, basis):
        target = target.index_copy(0, rows, target[rows] @ turn.T)
    return target


def _behind(
    shared: dict[str, Tensor], basis: Int[Tensor, " uid"]
) -> Iterator[tuple[Int[Tensor, " k"], Float[Tensor, "inputs inputs"]]]:
    """The rows of each earlier basis, and the change from it to the present one."""
    turn = torch.eye(shared["turns"].shape[1], dtype=torch.float64)
    for step in range(int(shared["basis"]) - 1, -1, -1):
        turn = turn @ shared["turns"][step]
        rows = torch.nonzero(basis == step)[:, 0]
        if len(rows):
            yield rows, turn.float()


def _main_directions(moment: Float[Tensor, "hidden hidden"], dims: int) -> Float[Tensor, "dims hidden"]:
    """The directions of the greatest second moments, scaled so that the mean squared length along them is 1."""
    moments, directions = torch.linalg.eigh(moment)
    moments, directions = moments.flip(0)[:dims], directions.flip(1)[:, :dims].T
    # Directions without prompts are noise of the solver, and a direction's sign is its whim.
    real = moments > moments[0] * 1e-10
    if not bool(real.any()):
        return torch.zeros_like(directions)
    peak = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    scale = torch.rsqrt(moments[real].sum())
    scaled: Tensor = directions * torch.sign(peak) * real[:, None] * scale
    return scaled.contiguous()


def _turn(old: Float[Tensor, "dims hidden"], new: Float[Tensor, "dims hidden"]) -> Float[Tensor, "inputs inputs"]:
    turn = torch.zeros(len(old) + 1, len(old) + 1, dtype=torch.float64)
    turn[:-1, :-1] = new @ old.T / _squared_scale(old)
    turn[-1, -1] = 1.0
    return turn


def _squared_scale(projection: Float[Tensor, "dims hidden"]) -> Tensor:
    """The squared length that all directions in use have; 1 where none is."""
    longest = (projection**2).sum(dim=1).max()
    return torch.where(longest > 0, longest, 1.0)
