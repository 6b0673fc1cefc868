"""How much one author's reports may count: no more than a share of what all authors' have counted lately."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def granted_share(
    own: Float[np.ndarray, "author column"],
    total: Float[np.ndarray, " column"],
    wanted: Float[np.ndarray, "author column"],
    *,
    share: float,
    free: Float[np.ndarray, "author column"],
) -> Float[np.ndarray, "author column"]:
    """What part of what is wanted now can be granted.

    Afterwards an author has no more than `share` of its column, or `free` where that is more: else nobody could be
    the first to report on a uid. What the others are granted in the same commit counts for them, so that it makes no
    difference who comes first.

    Args:
        own: what each author's reports have counted lately, for each column.
        total: the same of all authors, more than those in `own`.
        wanted: how many reports each brings now.
        share: below 1.
        free: what each may have in any case.
    """
    ratio = share / (1.0 - share)
    others = np.maximum(total - own, 0.0)
    surely = np.minimum(wanted, np.maximum(np.maximum(free, ratio * others) - own, 0.0))
    # The others get at least this much, so the bound below holds when all have got theirs.
    others = others + surely.sum(axis=0) - surely
    allowed = np.maximum(np.maximum(free, ratio * others) - own, 0.0)
    granted: Float[np.ndarray, "author column"] = np.minimum(1.0, allowed / np.maximum(wanted, 1e-12))
    return granted
