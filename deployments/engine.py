"""The engine as the settings want it, and what it tells of itself."""

from __future__ import annotations

from typing import Any

from .admission import Admission
from .batcher import Batcher, Engine
from .config import ServingArgs
from .embedding_cache import EmbeddingCache


def build_batcher(
    engine: Engine, serving: ServingArgs, *, batch_tokens: int, threads: int, warm_up: bool = False
) -> Batcher:
    """The batcher with the settings' limits. See `Batcher` for the arguments."""
    return Batcher(
        engine,
        admission=Admission(max_delay_s=serving.max_queue_delay_ms / 1000, max_tokens=serving.max_queue_tokens),
        batch_tokens=batch_tokens,
        max_batch_s=serving.max_batch_ms / 1000,
        max_overtaken_s=serving.max_overtaken_ms / 1000,
        linger_s=serving.linger_ms / 1000,
        threads=threads,
        warm_up=warm_up,
    )


def engine_status(batcher: Batcher, embeddings: EmbeddingCache) -> dict[str, Any]:
    """A replica's account of its engine: the last fields of `ReplicaStatus`."""
    speed = batcher.speed.tokens_per_s
    return {
        "queued_tokens": batcher.queued_tokens,
        "tokens_per_s": None if speed is None else round(speed, 1),
        "embedding_cache": embeddings.describe(),
        "latency_ms": batcher.latencies.describe(),
    }
