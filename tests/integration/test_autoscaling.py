"""Replicas that come and go with the load, in a real service. Slow: replicas take their time to start and to stop."""

from __future__ import annotations

import http.client
import itertools
import os
import signal
import statistics
import threading
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from .service import Service, wait_for

pytestmark = pytest.mark.long

TARGET_MS = 250.0
_NUMBERS = itertools.count()


class Load:
    """Clients that ask one request after the other, each time for a long text that nobody has asked for.

    Args:
        url: of the service.
        pause_s: how long each waits between an answer and its next request.
    """

    def __init__(self, url: str, *, pause_s: float = 0.0) -> None:
        self._url = url
        self._pause_s = pause_s
        self._clients: list[tuple[threading.Thread, threading.Event]] = []
        self.statuses: list[int] = []
        """Of each request; 0 where there was no answer."""

    def add(self) -> None:
        stopping = threading.Event()
        thread = threading.Thread(target=self._run, args=(stopping,), daemon=True)
        self._clients.append((thread, stopping))
        thread.start()

    def remove(self) -> None:
        """Let one client have its answer and go."""
        thread, stopping = self._clients.pop()
        stopping.set()
        thread.join()

    def stop(self) -> None:
        while self._clients:
            self.remove()

    def _run(self, stopping: threading.Event) -> None:
        with httpx.Client(base_url=self._url, timeout=60.0) as http:
            while not stopping.is_set():
                text = f"{next(_NUMBERS)} tide gate moon salt harbour why compute " * 12
                try:
                    self.statuses.append(http.post("/v1/score", json={"messages": [text]}).status_code)
                except httpx.TransportError:
                    self.statuses.append(0)
                stopping.wait(self._pause_s)


class Upload:
    """A request whose body takes its time to come: Serve counts it, and it is nothing yet that an engine could do.

    Args:
        url: of the service.
    """

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60.0)
        self._connection.putrequest("POST", "/v1/score")
        self._connection.putheader("Content-Type", "application/json")
        self._connection.putheader("Content-Length", "2")
        self._connection.endheaders(b"{")

    def end(self) -> int:
        """Send the rest, of which no request comes; the status of the answer."""
        self._connection.send(b"?")
        status = self._connection.getresponse().status
        self._connection.close()
        return status


def start(start_service: Callable[..., Service], **policy: Any) -> Service:
    """A service that may have two replicas."""
    autoscaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "upscale_delay_s": 1,
        "downscale_delay_s": 2,
        "metrics_interval_s": 0.25,
        **policy,
    }
    return start_service(
        [f"expert-{uid}" for uid in range(8)],
        # One core each: two replicas do twice as much where there are two cores.
        encoder={"threads": 1},
        learner={"heartbeat_s": 0.5},
        replica={"num_cpus": 0.5, "autoscaling": autoscaling},
    )


def replicas(service: Service) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = service.state()["replicas"]
    return told


def requests_counted(service: Service) -> float:
    """How many requests are under way, as Serve's controller has it."""
    return sum(value for name, value in service.metrics().items() if "serve_autoscaling_total_requests" in name)


def delay_ms(told: list[dict[str, Any]]) -> float | None:
    """What waits, at the speed of the replicas: what the policy goes by. None before all have shown their speed."""
    if any(replica["tokens_per_s"] is None for replica in told):
        return None
    speed = sum(replica["tokens_per_s"] for replica in told)
    return float(1000 * sum(replica["queued_tokens"] for replica in told) / speed)


@pytest.fixture(scope="module")
def by_delay(start_service: Callable[..., Service]) -> Service:
    """A service whose replicas follow the delay."""
    return start(start_service, target_delay_ms=TARGET_MS, target_ongoing_requests=1)


def test_while_no_replica_tells_how_it_is_doing_requests_are_counted_as_serve_does(by_delay: Service) -> None:
    uploads = [Upload(by_delay.url) for _ in range(3)]
    wait_for(lambda: requests_counted(by_delay) == len(uploads))
    [stuck] = by_delay.replica_pids()
    os.kill(stuck, signal.SIGSTOP)
    try:
        # The delay, as last told, is nothing: what is known is that there were three requests, where one is the target.
        wait_for(lambda: len(by_delay.replica_pids()) == 2, every_s=0.2)
    finally:
        os.kill(stuck, signal.SIGCONT)
    assert {upload.end() for upload in uploads} == {httpx.codes.BAD_REQUEST}
    wait_for(lambda: len(by_delay.replica_pids()) == len(replicas(by_delay)) == 1, timeout_s=120)


def test_load_brings_replicas_until_the_delay_is_under_the_target_and_they_go_with_it(by_delay: Service) -> None:
    service = by_delay
    load, lone = Load(service.url), Load(service.url, pause_s=0.5)
    # This one stays when the load goes, so that a replica that stops has requests as well.
    lone.add()

    def two_run() -> bool:
        told = replicas(service)
        delay = delay_ms(told)
        if len(told) == 1 and delay is not None and delay < 1.25 * TARGET_MS:
            load.add()
        return len(told) == 2

    wait_for(two_run, timeout_s=120, every_s=0.5)
    assert service.state()["target_replicas"] == 2
    recent: deque[float] = deque(maxlen=12)

    def is_under() -> bool:
        told = replicas(service)
        delay = delay_ms(told)
        if delay is not None and all(replica["texts"] for replica in told):
            recent.append(delay)
        if len(recent) < 12:
            return False
        if statistics.median(recent) > TARGET_MS:
            # Where the machine has become busy with other things, two do less than one did: some of the load goes.
            load.remove()
            recent.clear()
            return False
        return True

    wait_for(is_under, timeout_s=120, every_s=0.25)
    load.stop()
    wait_for(lambda: len(service.replica_pids()) == 1, timeout_s=120)
    wait_for(lambda: service.state()["target_replicas"] == 1)
    lone.stop()
    assert set(load.statuses + lone.statuses) == {200}
    service.stop()


def test_serves_own_policy_goes_by_how_many_requests_are_under_way(start_service: Callable[..., Service]) -> None:
    service = start(start_service, policy="ongoing_requests", target_ongoing_requests=2)
    load = Load(service.url)
    # Two, which one replica is to have, and half as many again; none of them waits for long.
    for _ in range(3):
        load.add()
    wait_for(lambda: len(replicas(service)) == 2, timeout_s=120, every_s=0.5)
    assert service.state()["target_replicas"] == 2
    load.stop()
    wait_for(lambda: len(service.replica_pids()) == 1, timeout_s=120)
    assert set(load.statuses) == {200}
