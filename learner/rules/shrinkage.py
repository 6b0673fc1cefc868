"""How strongly the regressions are shrunk toward what they share, learned from how far the uids lie apart.

The model of which ridge regression is the mean: r = w.x + noise of variance s, and w = prior + d with d ~ N(0, v I),
of each uid its own. The ridge is s / v. Both are fitted to the rewards themselves by a few steps of expectation
maximisation on the marginal likelihood (empirical Bayes: Dempster, Laird and Rubin 1977; MacKay 1992, "Bayesian
interpolation"), so that noisy rewards of uids that are alike are pooled and clear ones of uids that differ are not.
Nothing here depends on the unit of the rewards.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .ridge import Sums, factored

MOST_UIDS = 128
"""So many uids at most are looked at, evenly spaced among those with rewards."""

STRONGEST, WEAKEST = 1e6, 1.0
"""The range of the ridge. Below 1 the algebra in float32 would lose its footing."""

_STEPS = 3
_PRIOR_UIDS = 2.0
_LEAST_NOISE = 1e-12


class Shrinkage(NamedTuple):
    """The noise's variance s and the ridge s / v."""

    noise: float
    ridge: float


def evenly_spaced(rewards: Float[Tensor, " uid"]) -> Int[Tensor, " k"]:
    """The uids to look at: those with rewards, every so-manieth where they are too many."""
    known = torch.nonzero(rewards > 0.0)[:, 0]
    if len(known) > MOST_UIDS:
        known = known[torch.arange(MOST_UIDS) * len(known) // MOST_UIDS]
    return known


def fitted(
    sums: Sums,
    squares: Float[Tensor, " uid"],
    counts: Float[Tensor, " uid"],
    prior: Float[Tensor, "uid inputs"],
    now: Shrinkage,
    usual: float,
) -> Shrinkage:
    """A few steps from the present shrinkage to the likeliest.

    Args:
        sums: of each uid that is looked at.
        squares: the sums of their rewards' squares.
        counts: the sums of their rewards' weights.
        prior: what each is shrunk toward.
        now: where to start.
        usual: the ridge that two uids more would speak for: where there are few, they are not all that counts.
    """
    wide = Sums(sums.gram.double(), sums.target.double())
    total, width = counts.double().sum(), prior.shape[1]
    centre = prior.double()
    noise, ridge = now
    for _ in range(_STEPS):
        # In float32, as where the ridge is used, since this is what takes the time.
        gain = torch.cholesky_inverse(factored(sums.gram.clone(), ridge)).double()
        weight = (gain @ (wide.target + ridge * centre)[:, :, None])[:, :, 0]
        explained = (wide.gram @ weight[:, :, None])[:, :, 0]
        left_over = squares.double().sum() - (weight * (2.0 * wide.target - explained)).sum()
        fitted_inputs = (gain * wide.gram).sum()
        apart = ((weight - centre) ** 2).sum() + noise * gain.diagonal(dim1=1, dim2=2).sum()
        spread = (apart / width + _PRIOR_UIDS * noise / usual) / (len(counts) + _PRIOR_UIDS)
        noise = max(float((left_over + noise * fitted_inputs) / total), _LEAST_NOISE)
        ridge = min(max(noise / float(spread), WEAKEST), STRONGEST)
    return Shrinkage(noise, ridge)
