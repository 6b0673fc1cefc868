"""Replicas that come and go with the load, in a real service. Slow: replicas take their time to start and to stop."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from .service import Service, wait_for

TARGET_MS = 250.0
WORDS = 100
_SENTENCE = "tide gate moon salt harbour why compute"


class Load:
    """Clients that ask again as soon as they are answered, each time for a long text that nobody has asked for."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self.answers: list[tuple[int, float]] = []
        """Status and seconds of each request; 0 where there was no answer."""

    @property
    def clients(self) -> int:
        return len(self._threads)

    def add(self, clients: int) -> None:
        for _ in range(clients):
            thread = threading.Thread(target=self._run, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60.0) as http:
            while not self._stopping.is_set():
                words = (f"{next(self._numbers)} {_SENTENCE} " * (WORDS // 8)).strip()
                begun_s = time.monotonic()
                try:
                    status = http.post("/v1/score", json={"messages": [words], "top_k": 1}).status_code
                except httpx.TransportError:
                    status = 0
                self.answers.append((status, time.monotonic() - begun_s))


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service]) -> Service:
    autoscaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_delay_ms": TARGET_MS,
        "upscale_delay_s": 1,
        "downscale_delay_s": 2,
        "metrics_interval_s": 0.25,
    }
    return start_service(
        [f"expert-{uid}" for uid in range(8)],
        # One core each: two replicas do twice as much where there are two cores.
        encoder={"threads": 1},
        replica={"num_cpus": 0.5, "autoscaling": autoscaling},
    )


def replicas(service: Service) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = service.state()["replicas"]
    return told


def delay_ms(told: list[dict[str, Any]]) -> float | None:
    """What waits, at the speed of the replicas: what the policy goes by. None before all have shown their speed."""
    if any(replica["tokens_per_s"] is None for replica in told):
        return None
    speed = sum(replica["tokens_per_s"] for replica in told)
    return float(1000 * sum(replica["queued_tokens"] for replica in told) / speed)


def test_load_brings_replicas_until_the_delay_is_under_the_target_and_they_go_with_it(service: Service) -> None:
    load, lone = Load(service.url), Load(service.url)
    load.add(8)
    # This one does not go away with the load: replicas that are stopped have its requests as well.
    lone.add(1)

    def two_run() -> bool:
        told = replicas(service)
        delay = delay_ms(told)
        print(
            f"{time.monotonic():.2f} {load.clients} {[(r['queued_tokens'], r['tokens_per_s']) for r in told]} {delay}"
        )
        if len(told) == 1 and delay is not None and delay < 1.4 * TARGET_MS:
            load.add(2)
        return len(told) == 2

    wait_for(two_run, every_s=0.5)
    since_s: list[float] = []

    def is_under_for_long() -> bool:
        told = replicas(service)
        delay = delay_ms(told)
        print(
            f"{time.monotonic():.2f} {load.clients} {[(r['queued_tokens'], r['tokens_per_s']) for r in told]} {delay}"
        )
        if delay is None or delay > TARGET_MS:
            since_s.clear()
        else:
            since_s.append(time.monotonic())
        return bool(since_s) and since_s[-1] - since_s[0] > 3.0

    wait_for(is_under_for_long, every_s=0.25)
    load.stop()
    wait_for(lambda: len(service.replica_pids()) == 1)
    lone.stop()
    statuses = [status for status, _ in load.answers + lone.answers]
    print(len(statuses))
    assert set(statuses) == {200}
