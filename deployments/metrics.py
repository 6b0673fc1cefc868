"""The engine's figures in Ray's metrics, there `ray_tidegate_...`; see docs/metrics.md.

They are set each second, not by each request.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray.util.metrics

from .batcher import Batcher
from .embedding_cache import EmbeddingCache

_EVERY_S = 1.0
_LATENCY_BOUNDARIES_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000]


class EngineMetrics:
    """Takes over what a replica's engine and its cache tell.

    Args:
        batcher: the engine.
        embeddings: the cache.
        app: the application's name, a tag of every metric.
        replica: the replica's name, likewise.
        instruments: has `Gauge`, `Counter` and `Histogram`.
    """

    def __init__(
        self,
        batcher: Batcher,
        embeddings: EmbeddingCache,
        *,
        app: str,
        replica: str,
        instruments: Any = ray.util.metrics,
    ) -> None:
        self._batcher = batcher
        self._embeddings = embeddings
        self._tags = {"application": app, "replica": replica}
        self._counted = {"hits": 0, "misses": 0}
        names = tuple(self._tags)
        self._queue = instruments.Gauge("tidegate_queue_tokens", "Tokens that wait for the engine.", names)
        self._speed = instruments.Gauge(
            "tidegate_engine_tokens_per_s", "Tokens a second that the engine does under load.", names
        )
        self._bytes = instruments.Gauge("tidegate_embedding_cache_bytes", "Memory of kept embeddings.", names)
        self._counters = {
            "hits": instruments.Counter("tidegate_embedding_cache_hits", "Texts whose embedding was kept.", names),
            "misses": instruments.Counter("tidegate_embedding_cache_misses", "Texts given to the engine.", names),
        }
        self._latency = instruments.Histogram(
            "tidegate_text_latency_ms",
            "From a text's arrival until its embedding, by length: short, medium, long.",
            _LATENCY_BOUNDARIES_MS,
            (*names, "length"),
        )

    async def run(self) -> None:
        """Report each second until cancelled."""
        while True:
            self.report()
            await asyncio.sleep(_EVERY_S)

    def report(self) -> None:
        """Take over the figures as they are now."""
        self._queue.set(self._batcher.queued_tokens, self._tags)
        if self._batcher.tokens_per_s is not None:
            self._speed.set(self._batcher.tokens_per_s, self._tags)
        self._bytes.set(self._embeddings.bytes, self._tags)
        for name, counter in self._counters.items():
            count = getattr(self._embeddings, name)
            if count > self._counted[name]:
                counter.inc(count - self._counted[name], self._tags)
                self._counted[name] = count
        for length, total_s in self._batcher.latencies.take_unreported():
            self._latency.observe(total_s * 1000, {**self._tags, "length": length})
