"""What was to be expected of a reward: the uid's score for the prompt, by weights that have not learned from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from gating.metagraph import MetagraphView

from .events import RewardEvent
from .state import HeadSnapshot

Expect = Callable[[Sequence[RewardEvent]], NDArray[np.float64]]
"""What was to be expected of the rewards of those events, end to end; NaN where nobody knows."""


def expected_rewards(
    snapshot: HeadSnapshot, view: MetagraphView, events: Sequence[RewardEvent]
) -> Float[np.ndarray, " k"]:
    """What a head scores the uids of events at; NaN where it is of another owner or of none.

    Args:
        snapshot: the head.
        view: whose uids they are now.
        events: with their embeddings.
    """
    uids = np.array([uid for event in events for uid in event.uids], np.int64)
    n = len(snapshot.weight)
    row = np.minimum(uids, n - 1)
    nothing = np.full(snapshot.dim, np.nan, np.float16)
    prompts = np.stack([nothing if event.embedding is None else event.embedding for event in events])
    of = np.repeat(np.arange(len(events)), [len(event.uids) for event in events])
    with np.errstate(invalid="ignore", over="ignore"):
        scores = np.einsum("kd,kd->k", prompts.astype(np.float32)[of], snapshot.weight[row]) + snapshot.bias[row]
    return np.where((uids < n) & _has_same_owner(snapshot.view, view)[row], scores, np.nan).astype(np.float64)


def _has_same_owner(then: MetagraphView, now: MetagraphView) -> NDArray[np.bool_]:
    if then is now:
        return np.ones(then.n, np.bool_)
    return np.array([uid < now.n and now.hotkeys[uid] == hotkey for uid, hotkey in enumerate(then.hotkeys)], np.bool_)
