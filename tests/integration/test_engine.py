"""The engine behind a real service: who goes away, what was seen before, bytes, and what the metrics tell."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from deployments.client import GateClient

from .service import Service, wait_for

N = 256


@pytest.fixture(scope="module")
def service(default_service: Service) -> Service:
    return default_service


def replica(service: Service, since_s: float = 0.0) -> dict[str, Any]:
    """What the replica told after a point in time."""

    def told() -> dict[str, Any] | None:
        before_s = time.monotonic()
        [told] = service.state()["replicas"]
        return told if before_s - told["last_poll_s"] > since_s else None

    return wait_for(told)


def test_the_work_of_a_client_that_went_away_is_dropped(service: Service) -> None:
    long = [f"{number} " + "tide gate moon salt harbour why compute " * 60 for number in range(250)]
    before = replica(service)
    with pytest.raises(httpx.ReadTimeout):
        service.http.post("/v1/score", json={"messages": long}, timeout=1.0)
    gone_s = time.monotonic()
    after = wait_for(lambda: (told := replica(service, gone_s))["queued_texts"] == 0 and told)
    assert after["queued_tokens"] == 0
    assert after["texts"] - before["texts"] < len(long) // 2


def test_so_is_that_of_clients_whose_requests_came_in_two_parts(service: Service) -> None:
    """Headers, then the body, as most clients send them: HAProxy with splicing does not see such a client leave."""
    texts = [[f"{number} {text} " + "tide gate moon " * 25 for text in range(30)] for number in range(12)]
    before = replica(service)
    address = urlsplit(service.url)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection((address.hostname, address.port))) for _ in texts]
        for client, messages in zip(clients, texts, strict=True):
            body = json.dumps({"messages": messages}).encode()
            head = ("POST /v1/score HTTP/1.1", "Host: gate", "Content-Type: application/json", "Expect: 100-continue")
            client.sendall("\r\n".join((*head, f"Content-Length: {len(body)}", "", "")).encode())
            assert client.recv(4096).startswith(b"HTTP/1.1 100 ")
            client.sendall(body)
        assert clients[0].recv(4096).startswith(b"HTTP/1.1 200 ")
    gone_s = time.monotonic()
    after = wait_for(lambda: (told := replica(service, gone_s))["queued_texts"] == 0 and told)
    assert after["texts"] - before["texts"] < sum(map(len, texts)) // 2


def test_an_embedding_is_computed_once(service: Service) -> None:
    body = {"messages": ["Which harbour has the highest tide?"], "top_k": 4}
    first = service.post("/v1/score", body)["scores"]
    before = replica(service, time.monotonic())
    assert service.post("/v1/score", body)["scores"] == first
    after = replica(service, time.monotonic())
    assert after["embedding_cache"]["hits"] - before["embedding_cache"]["hits"] == 1
    assert after["embedding_cache"]["bytes"] > 0
    assert after["texts"] == before["texts"]


def test_dense_scores_come_as_bytes_through_the_proxy(service: Service) -> None:
    messages = ["Which harbour has the highest tide?", "and the lowest?"]
    with GateClient(service.url) as gate:
        json, dense = gate.score(messages), gate.score_dense(messages)
    np.testing.assert_array_equal(dense.scores, np.array([row.scores for row in json.scores], np.float32))
    assert (dense.scores.shape, dense.metagraph, dense.degraded) == ((2, N), json.metagraph, False)
    assert (dense.weights.epoch, dense.weights.version) == (json.weights.epoch, json.weights.version)


def test_speed_and_latencies_are_told(service: Service) -> None:
    service.post("/v1/score", {"messages": ["a short one", "a longer one " * 50, "a long one " * 200]})
    told = replica(service, time.monotonic() + 1.5)
    assert told["tokens_per_s"] > 0
    for length in ("short", "medium", "long"):
        latency = told["latency_ms"][length]
        assert latency["texts"] >= 1
        assert 0 <= latency["wait_p50"] <= latency["p50"] <= latency["p99"]

    def exported() -> bool:
        names = {series.partition("{")[0] for series in service.metrics()}
        return {
            "ray_tidegate_queue_tokens",
            "ray_tidegate_engine_tokens_per_second",
            "ray_tidegate_embedding_cache_hits_total",
            "ray_tidegate_embedding_cache_misses_total",
            "ray_tidegate_embedding_cache_bytes",
            "ray_tidegate_text_latency_seconds_bucket",
            "ray_tidegate_text_latency_seconds_count",
        } <= names

    wait_for(exported)
