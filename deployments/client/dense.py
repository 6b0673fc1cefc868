"""Scores as an array, for callers of GateClient who want one; only they need numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .types import Metagraph, Weights


@dataclass(frozen=True, slots=True, eq=False)
class DenseScores:
    """One row of `scores` per message, one column per uid: all in order, or those asked for in that order.

    `degraded`: the weights are older than the service's `max_age_s`.
    """

    scores: NDArray[np.float32]
    weights: Weights
    metagraph: Metagraph
    degraded: bool


def build_dense_scores(headers: Mapping[str, str], content: bytes) -> DenseScores:
    """The answer of `POST /v1/score` in bytes."""
    told = {name: headers.get(f"x-tidegate-{name}") for name in ("age-s", "netuid", "block")}
    weights = Weights(
        int(headers["x-tidegate-epoch"]),
        int(headers["x-tidegate-version"]),
        None if told["age-s"] is None else float(told["age-s"]),
    )
    netuid, block = (None if told[name] is None else int(str(told[name])) for name in ("netuid", "block"))
    shape = [int(size) for size in headers["x-tidegate-shape"].split(",")]
    scores = np.frombuffer(content, dtype="<f4").reshape(shape).astype(np.float32)
    metagraph = Metagraph(netuid, block, int(headers["x-tidegate-n"]))
    return DenseScores(scores, weights, metagraph, headers["x-tidegate-degraded"] == "true")
