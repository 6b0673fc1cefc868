"""The engine as the settings want it, and what it tells of itself."""

from __future__ import annotations

import os
from typing import Any

import torch

from learner.tracing import NO_TRACER, Tracer

from .admission import Admission
from .autoscaling import BUSY_S, OFFERED_TOKENS, QUEUED_TOKENS, REFUSED_TOKENS, TOKENS_PER_S
from .batcher import Batcher, Engine
from .config import ServeArgs, ServingArgs
from .embedding_cache import EmbeddingCache


def build_batcher(
    engine: Engine,
    serving: ServingArgs,
    *,
    batch_tokens: int,
    threads: int,
    warm_up: bool = False,
    tracer: Tracer = NO_TRACER,
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
        tracer=tracer,
    )


def engine_threads(args: ServeArgs, device: torch.device) -> int:
    """How many passes a replica computes at a time; see `EncoderArgs.threads`."""
    if args.encoder.threads != "auto":
        return args.encoder.threads
    if device.type != "cpu":
        return 1
    replica = args.replica
    on_one_node = min(replica.most_replicas, replica.max_replicas_per_node or replica.most_replicas)
    return max(1, len(os.sched_getaffinity(0)) // on_one_node)


def autoscaling_stats(batcher: Batcher) -> dict[str, float]:
    """What a replica tells the autoscaling policy; nothing before its speed is known."""
    speed = batcher.tokens_per_s
    if speed is None:
        return {}
    return {
        QUEUED_TOKENS: batcher.queued_tokens,
        TOKENS_PER_S: speed,
        OFFERED_TOKENS: batcher.offered_tokens,
        REFUSED_TOKENS: batcher.refused_tokens,
        BUSY_S: batcher.busy_s,
    }


def engine_status(batcher: Batcher, embeddings: EmbeddingCache) -> dict[str, Any]:
    """A replica's account of its engine: the last fields of `ReplicaStatus`."""
    speed = batcher.tokens_per_s
    return {
        "queued_tokens": batcher.queued_tokens,
        "tokens_per_s": None if speed is None else round(speed, 1),
        "embedding_cache": embeddings.describe(),
        "latency_ms": batcher.latencies.describe(),
    }
