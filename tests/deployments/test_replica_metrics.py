"""What a replica tells: the real parts of one, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deployments.config import ServingArgs
from deployments.http_tally import HttpTally, Tallied
from deployments.metrics import report_until_cancelled
from deployments.replica_metrics import REPLICA_TABLE, ReplicaMetrics, ReplicaParts
from learner.metrics import LEARNER_TABLE
from tests.instruments import Instruments

from .local_service import LocalService, until
from .test_auth import AUTH, KEYS, bearer
from .test_batcher import held


class Watched(LocalService):
    """A replica, and all that is told of it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.tally = HttpTally(clock=lambda: self.now_s)
        self.api.add_middleware(Tallied, tally=self.tally)
        self.instruments = Instruments(application="gate", replica="a")
        parts = ReplicaParts(
            self.batcher, self.embeddings, self.subscriber, self.decisions, self.doorkeeper, self.tally
        )
        self.metrics = ReplicaMetrics(parts, app="gate", replica="a", instruments=self.instruments.namespace())

    def told(self) -> dict[str, float]:
        """Everything that is told, without the name that all have in common."""
        self.metrics.report()
        return {name.removeprefix("tidegate_"): value for name, value in self.instruments.values.items()}

    def observed(self, name: str) -> list[float]:
        """What came to a histogram."""
        return self.instruments.observed.get(f"tidegate_{name}", [])


@pytest.fixture
async def service() -> AsyncIterator[Watched]:
    service = Watched(batch_tokens=4096)
    await service.subscriber.poll_once()
    yield service
    await service.close()


def test_every_metric_is_described_once_and_by_the_conventions() -> None:
    names = [metric.name for metric in (*REPLICA_TABLE, *LEARNER_TABLE)]
    assert len(set(names)) == len(names)
    for metric in REPLICA_TABLE:
        assert metric.name.startswith("tidegate_")
        assert not metric.name.endswith(("_total", "_ms", "_s", "_mb"))
        assert metric.help.endswith(".")


async def test_the_engine_s_figures_are_told_as_they_are(service: Watched) -> None:
    assert service.told()["queue_tokens"] == 0
    assert "engine_tokens_per_second" not in service.instruments.values
    for texts in (["why?", "how?"], ["why?"], ["x" * 1200, "why?"]):
        await service.embeddings.embed(texts)
    for _ in range(2):
        told = service.told()
        assert (told["queue_texts"], told["queue_tokens"], told["queue_delay_seconds"]) == (0, 0, 0)
        assert (told["texts_encoded"], told["embedding_cache_hits"], told["embedding_cache_misses"]) == (3, 2, 3)
        assert told["embedding_cache_bytes"] == service.embeddings.bytes > 0
        assert told["engine_tokens_per_second"] == service.batcher.tokens_per_s
        assert told["engine_busy_seconds"] == pytest.approx(service.batcher.batches.seconds)
        assert [len(service.observed(f"text_{what}_seconds{{length=short}}")) for what in ("wait", "latency")] == [2, 2]
        assert len(service.observed("text_latency_seconds{length=long}")) == 1
        assert service.observed("batch_tokens") == [6, 302]
        assert sum(service.observed("batch_duration_seconds")) == pytest.approx(service.batcher.batches.seconds)


async def test_what_waits_is_told_with_its_delay_and_who_is_refused_with_the_limit() -> None:
    service = Watched(serving=ServingArgs(max_queue_delay_ms=2000, max_queue_tokens=100))
    await service.subscriber.poll_once()
    await service.embeddings.embed(["why?"])
    first = await held(service.batcher, service.engine)
    second = asyncio.create_task(service.embeddings.embed(["y" * 400, "z" * 40]))
    await until(lambda: service.batcher.queued_texts == 2)
    assert (await service.post("/v1/score", {"messages": ["why not?"]})).status_code == 429
    told = service.told()
    assert (told["queue_texts"], told["queue_tokens"]) == (2, 114)
    assert told["queue_delay_seconds"] == pytest.approx(114 / told["engine_tokens_per_second"])
    assert told["queue_delay_limit_seconds"] == pytest.approx(min(100 / told["engine_tokens_per_second"], 2.0))
    service.batcher.speed.tokens_per_s = 1.0
    assert (await service.post("/v1/score", {"messages": ["how?"]})).status_code == 429
    told = service.told()
    assert told["queue_delay_limit_seconds"] == 2.0
    assert (told["admission_refusals{limit=tokens}"], told["admission_refusals{limit=delay}"]) == (1, 1)
    service.engine.let_through()
    await asyncio.gather(first, second)
    await service.close()


async def test_weights_and_their_age_are_told(service: Watched) -> None:
    told = service.told()
    assert (told["weights_version"], told["weights_age_seconds"], told["weights_degraded"]) == (0, 0, 0)
    assert (told["weights_epoch"], told["learner_reachable"]) == (1, 1)
    service.now_s += 11
    told = service.told()
    assert (told["weights_age_seconds"], told["weights_degraded"]) == (11, 1)


async def test_a_learner_that_does_not_answer_is_told(service: Watched) -> None:
    service.learner.away = True
    task = asyncio.create_task(service.subscriber.run())
    await until(lambda: service.subscriber.away_because is not None)
    assert service.told()["learner_reachable"] == 0
    service.learner.away = False
    await until(lambda: service.subscriber.away_because is None)
    assert service.told()["learner_reachable"] == 1
    task.cancel()


async def test_decisions_are_told(service: Watched) -> None:
    await service.select(["why?", "how?"], k=2)
    told = service.told()
    assert (told["decisions_issued"], told["decisions_buffered"]) == (2, 2)
    await service.decisions.flush()
    assert service.told()["decisions_buffered"] == 0


async def test_requests_are_told_by_route_method_and_status(service: Watched) -> None:
    await service.select(["why?"], k=2)
    await service.select(["why?"], k=2)
    await service.http.get("/v1/decisions/nobody-1")
    await service.http.get("/v1/decisions/nobody-2")
    await service.http.post("/v1/score", content=b"{")
    await service.http.get("/nowhere/at/all")
    told = service.told()
    assert {name: value for name, value in told.items() if name.startswith("http")} == {
        "http_requests{route=/v1/select,method=POST,status=200}": 2,
        "http_requests{route=/v1/decisions/{decision_id},method=GET,status=404}": 2,
        "http_requests{route=/v1/score,method=POST,status=415}": 1,
        "http_requests{route=none,method=GET,status=404}": 1,
    }
    assert len(service.observed("http_request_duration_seconds{route=/v1/select}")) == 2


async def test_a_route_that_fails_and_a_client_that_goes_are_told_too(service: Watched) -> None:
    @service.api.get("/fails")
    async def fails() -> None:
        raise RuntimeError("a mistake of ours")

    @service.api.get("/waits")
    async def waits() -> None:
        await asyncio.Event().wait()

    assert (await service.http.get("/fails")).status_code == 500
    gone = asyncio.create_task(service.http.get("/waits"))
    for _ in range(20):
        await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    told = service.told()
    assert told["http_requests{route=/fails,method=GET,status=500}"] == 1
    assert told["http_requests{route=/waits,method=GET,status=499}"] == 1


async def test_durations_are_those_of_whole_requests(service: Watched) -> None:
    @service.api.get("/slow")
    async def slow() -> None:
        service.now_s += 3

    await service.http.get("/slow")
    service.told()
    assert service.observed("http_request_duration_seconds{route=/slow}") == [3.0]


async def test_calls_that_are_not_let_in_are_told_by_reason() -> None:
    service = Watched(auth=AUTH)
    for headers in ({}, bearer("tg_wrong"), bearer("tg_wrong"), bearer(KEYS["judge"][0])):
        await service.http.get("/v1/state", headers=headers)
    told = service.told()
    assert {name: value for name, value in told.items() if name.startswith("auth")} == {
        "auth_failures{reason=no_credentials}": 1,
        "auth_failures{reason=unknown_key}": 2,
        "auth_failures{reason=scope_missing}": 1,
    }
    await service.close()


async def test_it_reports_again_and_again_until_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.metrics.REPORT_EVERY_S", 0.0)
    reports: list[None] = []
    task = asyncio.create_task(report_until_cancelled(lambda: reports.append(None)))
    await until(lambda: len(reports) >= 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
