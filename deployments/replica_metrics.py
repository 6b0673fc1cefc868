"""What a replica tells in Ray's metrics: its engine, its weights, and what it was asked. See docs/metrics.md.

No ray here: the instruments are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from learner.meters import SECONDS, Meters, Metric

from .auth import Doorkeeper
from .batcher import Batcher
from .decisions import DecisionBuffer
from .embedding_cache import EmbeddingCache
from .http_tally import HttpTally
from .weights import Subscriber

_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 65_536)

REPLICA_TABLE = (
    Metric("tidegate_queue_texts", "gauge", "Texts that wait for the engine."),
    Metric("tidegate_queue_tokens", "gauge", "Tokens that wait for the engine."),
    Metric("tidegate_queue_delay_seconds", "gauge", "How long what comes now would wait for the engine."),
    Metric("tidegate_queue_delay_limit_seconds", "gauge", "The delay from which on requests are refused."),
    Metric("tidegate_admission_refusals", "counter", "Requests refused, by what would have been exceeded.", ("limit",)),
    Metric("tidegate_engine_tokens_per_second", "gauge", "Tokens that the engine does a second under load."),
    Metric("tidegate_engine_busy_seconds", "counter", "Time that all engine threads together have computed."),
    Metric("tidegate_batch_tokens", "histogram", "Tokens in a batch.", boundaries=_TOKENS),
    Metric("tidegate_batch_duration_seconds", "histogram", "Time that the engine took over a batch.", (), SECONDS),
    Metric("tidegate_texts_encoded", "counter", "Texts that the engine has computed."),
    Metric("tidegate_text_wait_seconds", "histogram", "From a text's arrival until its batch.", ("length",), SECONDS),
    Metric(
        "tidegate_text_latency_seconds",
        "histogram",
        "From a text's arrival until its embedding, by length: short, medium, long.",
        ("length",),
        SECONDS,
    ),
    Metric("tidegate_embedding_cache_hits", "counter", "Texts whose embedding was kept."),
    Metric("tidegate_embedding_cache_shared", "counter", "Texts that were being computed already."),
    Metric("tidegate_embedding_cache_misses", "counter", "Texts that the engine was asked for."),
    Metric("tidegate_embedding_cache_bytes", "gauge", "Memory of kept embeddings."),
    Metric("tidegate_weights_epoch", "gauge", "Epoch of the weights in use."),
    Metric("tidegate_weights_version", "gauge", "Version of the weights in use."),
    Metric("tidegate_weights_age_seconds", "gauge", "Since the learner confirmed that they are its newest."),
    Metric("tidegate_weights_degraded", "gauge", "1 while they were not confirmed for longer than max_age_s."),
    Metric("tidegate_learner_reachable", "gauge", "1 while the learner answers this replica's polls."),
    Metric("tidegate_decisions_issued", "counter", "Decisions made by this replica."),
    Metric("tidegate_decisions_buffered", "gauge", "Decisions that the learner has not taken yet."),
    Metric("tidegate_auth_failures", "counter", "Calls not let in, by reason.", ("reason",)),
    Metric("tidegate_http_requests", "counter", "Requests by route, method, status.", ("route", "method", "status")),
    Metric("tidegate_http_request_duration_seconds", "histogram", "Time to answer, by route.", ("route",), SECONDS),
)


@dataclass(frozen=True, slots=True)
class ReplicaParts:
    """What is looked at."""

    batcher: Batcher
    embeddings: EmbeddingCache
    subscriber: Subscriber
    decisions: DecisionBuffer
    doorkeeper: Doorkeeper
    http: HttpTally


class ReplicaMetrics:
    """Takes over a replica's figures. May be called from any thread.

    Args:
        parts: what is looked at.
        app: the application's name, a tag of every metric.
        replica: the replica's name, likewise.
        instruments: has `Gauge`, `Counter` and `Histogram`.
    """

    def __init__(self, parts: ReplicaParts, *, app: str, replica: str, instruments: Any) -> None:
        self._parts = parts
        self._meters = Meters(instruments, REPLICA_TABLE, {"application": app, "replica": replica})

    def report(self) -> None:
        """Take over the figures as they are now."""
        self._report_engine()
        self._report_texts()
        self._report_weights()
        self._report_calls()

    def _report_engine(self) -> None:
        meters, batcher = self._meters, self._parts.batcher
        meters.set("tidegate_queue_texts", batcher.queued_texts)
        meters.set("tidegate_queue_tokens", batcher.queued_tokens)
        meters.set("tidegate_queue_delay_seconds", batcher.delay_s)
        meters.set("tidegate_queue_delay_limit_seconds", batcher.admission.delay_limit_s(batcher.tokens_per_s))
        for limit, count in list(batcher.admission.refused.items()):
            meters.count("tidegate_admission_refusals", count, limit=limit)
        meters.set("tidegate_engine_tokens_per_second", batcher.tokens_per_s)
        meters.count("tidegate_engine_busy_seconds", batcher.batches.seconds)
        batches = batcher.batches.take_unreported()
        meters.observe("tidegate_batch_tokens", (tokens for tokens, _ in batches))
        meters.observe("tidegate_batch_duration_seconds", (seconds for _, seconds in batches))

    def _report_texts(self) -> None:
        meters, batcher, embeddings = self._meters, self._parts.batcher, self._parts.embeddings
        meters.count("tidegate_texts_encoded", batcher.texts_done)
        for length, wait_s, total_s in batcher.latencies.take_unreported():
            meters.observe("tidegate_text_wait_seconds", [wait_s], length=length)
            meters.observe("tidegate_text_latency_seconds", [total_s], length=length)
        meters.count("tidegate_embedding_cache_hits", embeddings.hits)
        meters.count("tidegate_embedding_cache_shared", embeddings.shared)
        meters.count("tidegate_embedding_cache_misses", embeddings.misses)
        meters.set("tidegate_embedding_cache_bytes", embeddings.bytes)

    def _report_weights(self) -> None:
        meters, subscriber, decisions = self._meters, self._parts.subscriber, self._parts.decisions
        current, age_s = subscriber.current, subscriber.age_s
        if current is not None:
            meters.set("tidegate_weights_epoch", current.snapshot.epoch)
            meters.set("tidegate_weights_version", current.snapshot.version)
        meters.set("tidegate_weights_age_seconds", age_s)
        meters.set("tidegate_weights_degraded", subscriber.is_degraded(age_s))
        meters.set("tidegate_learner_reachable", subscriber.away_because is None)
        meters.count("tidegate_decisions_issued", decisions.issued)
        meters.set("tidegate_decisions_buffered", len(decisions))

    def _report_calls(self) -> None:
        meters, http = self._meters, self._parts.http
        # Copies, since others go on counting meanwhile.
        for reason, count in list(self._parts.doorkeeper.reasons.items()):
            meters.count("tidegate_auth_failures", count, reason=reason)
        for answered, count in list(http.answered.items()):
            meters.count(
                "tidegate_http_requests",
                count,
                route=answered.route,
                method=answered.method,
                status=str(answered.status),
            )
        for route, seconds in http.take_unreported():
            meters.observe("tidegate_http_request_duration_seconds", [seconds], route=route)
