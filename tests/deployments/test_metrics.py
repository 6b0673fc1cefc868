from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.embedding_cache import EmbeddingCache
from deployments.metrics import EngineMetrics

from .local_service import Engine, until
from .test_batcher import build_batcher, held

TAGS = {"application": "gate", "replica": "a"}


class Instruments:
    """Counts as Ray's metrics would, and keeps what was set."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.observed: dict[str, list[float]] = {}
        self.updates = 0

    def namespace(self) -> Any:
        return SimpleNamespace(Gauge=self._of("set"), Counter=self._of("inc"), Histogram=self._of("observe"))

    def _of(self, verb: str) -> Any:
        def build(name: str, description: str, *others: Any) -> Any:
            assert description
            *boundaries, names = others
            assert (verb == "observe") == bool(boundaries)

            def update(value: float, tags: dict[str, str]) -> None:
                assert set(tags) == set(names)
                assert TAGS.items() <= tags.items()
                self.updates += 1
                if verb == "set":
                    self.values[name] = value
                elif verb == "inc":
                    assert value > 0
                    self.values[name] = self.values.get(name, 0) + value
                else:
                    self.observed.setdefault(f"{name} {tags['length']}", []).append(value)

            return SimpleNamespace(**{verb: update})

        return build


async def test_the_engine_s_figures_are_reported_as_they_are() -> None:
    instruments, engine = Instruments(), Engine()
    batcher = build_batcher(engine)
    cache = EmbeddingCache(batcher, max_bytes=10**6)
    metrics = EngineMetrics(batcher, cache, app="gate", replica="a", instruments=instruments.namespace())
    metrics.report()
    assert instruments.values == {"tidegate_queue_tokens": 0, "tidegate_embedding_cache_bytes": 0}
    for texts in (["why?", "how?"], ["why?"], ["x" * 1200, "why?"]):
        await cache.embed(texts)
    for _ in range(2):
        metrics.report()
        assert instruments.values == {
            "tidegate_queue_tokens": 0,
            "tidegate_embedding_cache_bytes": cache.bytes,
            "tidegate_embedding_cache_hits": 2,
            "tidegate_embedding_cache_misses": 3,
            "tidegate_engine_tokens_per_s": batcher.speed.tokens_per_s,
        }
        counts = {name: len(values) for name, values in instruments.observed.items()}
        assert counts == {"tidegate_text_latency_ms short": 2, "tidegate_text_latency_ms long": 1}
    assert all(value > 0 for values in instruments.observed.values() for value in values)
    first = await held(batcher, engine)
    waiting = asyncio.create_task(cache.embed(["y" * 40]))
    await until(lambda: batcher.queued_texts == 1)
    metrics.report()
    assert instruments.values["tidegate_queue_tokens"] == 12
    engine.let_through()
    await asyncio.gather(first, waiting)
    await asyncio.to_thread(batcher.close)


async def test_it_reports_again_and_again_until_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.metrics._EVERY_S", 0.0)
    instruments = Instruments()
    batcher = build_batcher(Engine())
    cache = EmbeddingCache(batcher, max_bytes=0)
    metrics = EngineMetrics(batcher, cache, app="gate", replica="a", instruments=instruments.namespace())
    task = asyncio.create_task(metrics.run())
    await until(lambda: instruments.updates >= 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(batcher.close)
