"""The encoder alone, in this process: what the service could do if HTTP cost nothing; and the machine's own limit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from gating import build_encoder

from .texts import fill

_TAGS = itertools.count()
_BATCH = 64


class EngineAlone:
    """The service's encoder without the service."""

    def __init__(self, model: str, *, dtype: str) -> None:
        self._encoder = build_encoder("sentence", model, device="cpu", dtype=dtype)

    def rate(self, texts: Sequence[str], *, threads: int, seconds: float) -> float:
        """Texts a second in batches of 64, as 64 connections would have them; none comes twice.

        Each thread encodes batches of its own, as in the service.
        """
        self._encoder.encode(fill(texts[:8], "warm"))
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return sum(pool.map(lambda _: self._rate_of_one(texts, seconds), range(threads)))

    def _rate_of_one(self, texts: Sequence[str], seconds: float) -> float:
        done, started_s, tag = 0, time.perf_counter(), f"e{next(_TAGS)}x"
        for number in itertools.count():
            start = number * _BATCH % len(texts)
            batch = texts[start : start + _BATCH]
            self._encoder.encode(fill(batch, f"{tag}{number}"))
            done += len(batch)
            if (taken_s := time.perf_counter() - started_s) >= seconds:
                return done / taken_s
        raise AssertionError


def gemm_gflops(dtype: torch.dtype, *, threads: int, seconds: float = 1.0) -> float:
    """The machine's rate of the encoder's largest product: [8192, 384] by [384, 1536]."""
    torch.set_num_threads(threads)
    a, b = torch.randn(8192, 384, dtype=dtype), torch.randn(384, 1536, dtype=dtype)
    torch.mm(a, b)
    done, started_s = 0, time.perf_counter()
    while (taken_s := time.perf_counter() - started_s) < seconds:
        torch.mm(a, b)
        done += 1
    return done * 2 * 8192 * 384 * 1536 / taken_s / 1e9
