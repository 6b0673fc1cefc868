"""Texts of a given distribution of lengths: slices of real prompts, those that the package paretobandit carries."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from deployments.demo_data import load_paretobandit

MARK = "@@"
"""Stands in every text where what makes it unique goes."""
LENGTHS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "uniform": lambda rng, count: rng.integers(8, 181, count),
    "short": lambda rng, count: rng.integers(4, 13, count),
    "long": lambda rng, count: rng.integers(140, 181, count),
    "heavy": lambda rng, count: np.clip(np.exp(rng.normal(np.log(16), 1.3, count)), 1, 1500).astype(np.int64),
}
"""Words of each text: 8-180, 4-12, 140-180, and log-normal about 16 with some of many hundred."""


def make_texts(lengths: str, count: int, seed: int = 0) -> list[str]:
    """Texts of one of `LENGTHS`, or of so many words each if that is a number. Each begins with `MARK`.

    Raises:
        ValueError: there is no such distribution.
    """
    rng = np.random.default_rng(seed)
    words = _words()
    if lengths.isdecimal():
        sizes = np.full(count, int(lengths))
    elif lengths in LENGTHS:
        sizes = LENGTHS[lengths](rng, count)
    else:
        raise ValueError(f"lengths is {lengths!r}; give a number of words or one of {', '.join(LENGTHS)}")
    starts = rng.integers(0, len(words) - int(sizes.max()), count)
    return [
        " ".join([MARK, *words[start : start + size]])
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]


def fill(texts: Sequence[str], tag: str) -> list[str]:
    """The texts as they are sent under a tag."""
    return [text.replace(MARK, tag) for text in texts]


def make_bodies(texts: Sequence[str], per_request: int, build: Callable[[list[str]], dict[str, Any]]) -> list[str]:
    """JSON bodies with so many of the texts each; what does not fill a body is left out."""
    whole = len(texts) - len(texts) % per_request
    return [json.dumps(build(list(texts[start : start + per_request]))) for start in range(0, whole, per_request)]


@cache
def _words() -> list[str]:
    words = [word for prompt in load_paretobandit().prompts for word in prompt.split()]
    # What is no ASCII has another number of bytes in JSON for every writer of it.
    return [word for word in words if word.isascii() and MARK not in word]
