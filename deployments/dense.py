"""Dense scores as bytes: which callers want them, and what such an answer looks like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import Response
from jaxtyping import Float

from .errors import Problem

OCTETS = "application/octet-stream"
JSON = "application/json"
DENSE_SCORES = (
    "without top_k: the scores as float32, little-endian, one row a message, one column a uid; the shape is in "
    "X-Tidegate-Shape, provenance in X-Tidegate-Epoch, -Version, -Age-S, -Degraded, -Netuid, -Block and -N"
)


def wants_dense(accept: str, top_k: int | None) -> bool:
    """Whether to answer with bytes: only to who prefers them to JSON by name.

    Args:
        accept: the request's Accept header, "" if it has none.
        top_k: of the request. What it asks for is not dense.

    Raises:
        Problem: 406, bytes alone are accepted for an answer that is not dense.
    """
    if OCTETS not in accept.lower():
        return False
    bytes_, json = _preference(accept, OCTETS), _preference(accept, JSON)
    if bytes_[0] == 0 or bytes_ <= json:
        return False
    if top_k is None:
        return True
    if json[0] > 0:
        return False
    detail = f"with top_k the answer is not dense and comes as {JSON} only; leave out top_k, or accept {JSON}"
    raise Problem(406, "not_acceptable", detail)


def _preference(accept: str, media_type: str) -> tuple[float, int]:
    """How much a media type is wanted, 0 to 1, by the most specific range that fits it, and how specific that is."""
    best = (0.0, -1)
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        specificity = {media_type: 2, "application/*": 1, "*/*": 0}.get(name, -1)
        if specificity > best[1]:
            best = (_quality(parameters), specificity)
    return best


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0


def dense_response(scores: Float[np.ndarray, "batch uid"], provenance: Mapping[str, Any]) -> Response:
    """A 200: float32, little-endian, row by row; what JSON would say beside the scores is in headers."""
    weights, metagraph = provenance["weights"], provenance["metagraph"]
    told = {
        "Epoch": weights["epoch"],
        "Version": weights["version"],
        "Age-S": weights["age_s"],
        "Netuid": metagraph["netuid"],
        "Block": metagraph["block"],
        "N": metagraph["n"],
        "Degraded": "true" if provenance["degraded"] else "false",
        "Shape": ",".join(map(str, scores.shape)),
    }
    headers = {f"X-Tidegate-{name}": str(value) for name, value in told.items() if value is not None}
    return Response(np.ascontiguousarray(scores, dtype="<f4").tobytes(), headers=headers, media_type=OCTETS)
