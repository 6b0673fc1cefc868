"""What rewards are expected to be, by what all authors have reported: a uid's mean, and how hard the prompt is.

The mean of each uid is shrunk toward that of all, and one ridge regression over the prompts' embeddings says how much
more or less than that a prompt earns, whoever answers it. Both know little and know it early, which is what tells
liars soon; they do not depend on the learning rule. A reward is always compared with what was expected before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from .author_memory import Flat
from .events import RewardEvent

MOST_INPUTS = 384
"""Wider embeddings are projected to so many random directions."""

_RIDGE = 10.0
_TYPICAL = 5.0
_MEMORY = 5_000.0
_REFIT_EVENTS, _REFIT_SHARE = 16, 0.1


class Consensus:
    """Sums that fade with newer reports. Holds no prompts.

    Args:
        dim: width of the embeddings.
    """

    def __init__(self, dim: int) -> None:
        inputs = min(dim, MOST_INPUTS)
        self._projection: NDArray[np.float32] | None = None
        if dim > inputs:
            drawn = np.random.default_rng(0).standard_normal((dim, inputs))
            self._projection = (drawn / np.sqrt(inputs)).astype(np.float32)
        self._count, self._total = np.zeros(0), np.zeros(0)
        # What is summed of the prompts alone, all of one length, fits in float32; rewards may be of any size.
        self._gram, self._target = np.zeros((inputs, inputs), np.float32), np.zeros(inputs)
        self._hardness: NDArray[np.float64] = np.zeros(inputs)
        self._events = self._unfitted = 0.0

    def expected(self, events: Sequence[RewardEvent], flat: Flat) -> Float[np.ndarray, " k"]:
        """What is expected of the rewards of events, end to end; NaN where a prompt is not known or no number."""
        harder = self._inputs(events) @ self._hardness
        expected: Float[np.ndarray, " k"] = self._means(flat.uid) + harder[flat.event]
        return expected

    def learn(self, events: Sequence[RewardEvent], flat: Flat, weight: Float[np.ndarray, " k"]) -> None:
        """Take in what was reported, each reward for what it counts."""
        inputs = self._inputs(events)
        known = np.isfinite(inputs).all(axis=1)
        inputs[~known] = 0.0
        self._make_room(int(flat.uid.max()) + 1)
        per_event = np.bincount(flat.event, weight, minlength=len(events)) * known
        more = np.bincount(flat.event, weight * (flat.reward - self._means(flat.uid)), minlength=len(events)) * known
        lengths = np.bincount(flat.event, minlength=len(events))
        kept = np.exp(-len(events) / _MEMORY)
        size = len(self._count)
        self._count = self._count * kept + np.bincount(flat.uid, weight, minlength=size)
        self._total = self._total * kept + np.bincount(flat.uid, weight * flat.reward, minlength=size)
        # An event counts once, however many uids it asked: a hard prompt is hard for all of them.
        counted = (inputs * (per_event / lengths)[:, None]).astype(np.float32)
        self._gram = self._gram * np.float32(kept) + counted.T @ inputs
        self._target = self._target * kept + inputs.T @ (more / lengths)
        self._events = self._events * kept + len(events)
        self._unfitted += len(events)
        if self._unfitted >= max(_REFIT_EVENTS, _REFIT_SHARE * self._events):
            ridge = _RIDGE * np.eye(len(self._gram))
            self._hardness = np.asarray(np.linalg.solve(self._gram + ridge, self._target), np.float64)
            self._unfitted = 0.0

    def forget(self, uids: Sequence[int]) -> None:
        """These uids have new owners."""
        gone = [uid for uid in uids if uid < len(self._count)]
        self._count[gone] = self._total[gone] = 0.0

    def _means(self, uid: NDArray[np.int64]) -> Float[np.ndarray, " k"]:
        overall = self._total.sum() / max(float(self._count.sum()), 1e-9)
        self._make_room(int(uid.max()) + 1)
        means: Float[np.ndarray, " k"] = (self._total[uid] + _TYPICAL * overall) / (self._count[uid] + _TYPICAL)
        return means

    def _make_room(self, uids: int) -> None:
        missing = max(0, uids - len(self._count))
        if missing:
            self._count, self._total = np.pad(self._count, (0, missing)), np.pad(self._total, (0, missing))

    def _inputs(self, events: Sequence[RewardEvent]) -> Float[np.ndarray, "batch inputs"]:
        """The prompts, all of one length; NaN for one that was erased or is no number."""
        dim = len(self._hardness) if self._projection is None else len(self._projection)
        nothing = np.full(dim, np.nan, np.float16)
        prompts = np.stack([nothing if event.embedding is None else event.embedding for event in events])
        wide = prompts.astype(np.float32)
        wide[~np.isfinite(wide).all(axis=1)] = np.nan
        wide = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
        inputs: NDArray[np.float32] = wide if self._projection is None else wide @ self._projection
        return inputs
