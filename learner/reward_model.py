"""A model of the rewards for doubly robust estimates: simple, and never asked about what it was fitted on.

A ridge per uid, shrunk toward one over all uids, on the leading directions of the embeddings. The decisions are cut
into blocks in the order in which they were made, and each block is predicted by what was fitted on those before it.
Cross-fitting (Chernozhukov et al. 2018) on all other decisions would know more, but whom a learner asks later tells
of what it learned before, so that it would be biased; this is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

_EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BLOCKS = len(_EDGES)
_COMPONENTS = 64
_POOLED_RIDGE = 1.0
_RIDGE = 20.0


@dataclass(frozen=True, slots=True)
class RewardModel:
    """Heads over projected embeddings, one set a block.

    Attributes:
        mean: of the embeddings.
        projection: from what an embedding differs by to the features.
        heads: [block, uid, feature]; the last feature is 1. Those of the first block know nothing and say 0.
    """

    mean: Float[np.ndarray, " hidden"]
    projection: Float[np.ndarray, "hidden direction"]
    heads: Float[np.ndarray, "block uid feature"]

    def predict(
        self, embedding: Float[np.ndarray, "batch hidden"], blocks: Int[np.ndarray, " batch"]
    ) -> Float[np.ndarray, "batch uid"]:
        """What every uid is expected to earn, by the heads that were fitted on what came before each block."""
        features = _features(embedding, self.mean, self.projection)
        predicted = np.empty((len(features), self.heads.shape[1]))
        for block in np.unique(blocks):
            rows = blocks == block
            predicted[rows] = features[rows] @ self.heads[block].T
        return predicted


def cut(decisions: int) -> Int[np.ndarray, " batch"]:
    """The block of each decision; the first ones are short, so that little goes without a model."""
    return np.searchsorted(np.array(_EDGES) * decisions, np.arange(decisions), side="right") - 1


def fit_reward_model(
    embedding: Float[np.ndarray, "batch hidden"],
    uids: Int[np.ndarray, "batch k"],
    rewards: Float[np.ndarray, "batch k"],
    asked: Bool[np.ndarray, "batch k"],
    num_uids: int,
) -> RewardModel:
    """Fit a model for each block.

    Args:
        embedding: of each decision, in the order in which they were made.
        uids: who was asked.
        rewards: what they earned.
        asked: False where the other two are padded.
        num_uids: how many uids to have a head for.
    """
    mean = embedding.mean(axis=0, dtype=np.float64)
    projection = _projection(embedding - mean)
    features = _features(embedding, mean, projection)
    decision, place = np.nonzero(asked)
    block, uid, reward = cut(len(embedding))[decision], uids[decision, place], rewards[decision, place]
    heads = []
    for ahead in range(BLOCKS):
        before = np.flatnonzero(block < ahead)
        heads.append(_fit_heads(features[decision[before]], uid[before], reward[before], num_uids))
    return RewardModel(mean, projection, np.stack(heads))


def _fit_heads(
    features: Float[np.ndarray, "batch feature"],
    uid: Int[np.ndarray, " batch"],
    reward: Float[np.ndarray, " batch"],
    num_uids: int,
) -> Float[np.ndarray, "uid feature"]:
    width = features.shape[1]
    gram, moment = np.zeros((num_uids, width, width)), np.zeros((num_uids, width))
    order = np.argsort(uid, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(uid[order])) + 1):
        if len(rows):
            x = features[rows]
            gram[uid[rows[0]]], moment[uid[rows[0]]] = x.T @ x, reward[rows] @ x
    unit = np.eye(width)
    pooled = np.linalg.solve(gram.sum(axis=0) + _POOLED_RIDGE * unit, moment.sum(axis=0))
    shrunk = (moment + _RIDGE * pooled)[..., None]
    heads: Float[np.ndarray, "uid feature"] = np.linalg.solve(gram + _RIDGE * unit, shrunk)[..., 0]
    return heads


def _projection(centred: Float[np.ndarray, "batch hidden"]) -> Float[np.ndarray, "hidden direction"]:
    """Onto the directions in which they differ most, scaled to a mean squared norm of 1."""
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = vectors[:, ::-1][:, :_COMPONENTS]
    spread = values[::-1][:_COMPONENTS].clip(0.0).sum()
    return kept / np.sqrt(spread) if spread > 0.0 else kept


def _features(
    embedding: Float[np.ndarray, "batch hidden"],
    mean: Float[np.ndarray, " hidden"],
    projection: Float[np.ndarray, "hidden direction"],
) -> Float[np.ndarray, "batch feature"]:
    projected = (embedding - mean) @ projection
    return np.hstack([projected, np.ones((len(projected), 1))])
