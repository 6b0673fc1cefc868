"""A server that answers what a test has written down, in order, and clients of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx

from deployments.client import AsyncGateClient, GateClient

Outcome = httpx.Response | httpx.RequestError

PROVENANCE = {
    "weights": {"epoch": 3, "version": 17, "age_s": 0.5},
    "metagraph": {"netuid": 1, "block": 6852690, "n": 256},
    "degraded": False,
}
SELECTION = {"decision_id": "r-1", "uids": [4, 2], "scores": [0.9, 0.1], "propensities": [1.0, 0.95]}
REPORT = {
    "accepted": 3,
    "duplicates": 1,
    "rejected": [
        {"index": 0, "uid": 4, "code": "stale_hotkey", "detail": "uid 4 has changed its owner"},
        {"index": 1, "code": "unknown_decision", "detail": "there is no decision r-9"},
    ],
    "weights": {"epoch": 3, "version": 17},
    "version": 21,
    "reached": True,
}


class FakeTime:
    """A clock that only moves when somebody sleeps, or when a request takes its time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.sleeps_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps_s.append(seconds)
        self.now_s += seconds

    def clock(self) -> float:
        return self.now_s


class ScriptedServer:
    """Answers with the given outcomes in order, the last one for ever, and keeps what it was sent."""

    def __init__(self, outcomes: Sequence[Outcome], *, takes_s: float = 0.0, time: FakeTime | None = None) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[httpx.Request] = []
        self.time = time or FakeTime()
        self._takes_s = takes_s

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.time.now_s += self._takes_s
        outcome = self.outcomes[min(len(self.requests), len(self.outcomes)) - 1]
        if isinstance(outcome, httpx.RequestError):
            raise outcome
        return httpx.Response(outcome.status_code, headers=outcome.headers, content=outcome.content)

    def client(self, **options: Any) -> GateClient:
        transport = httpx.MockTransport(self)
        return GateClient(transport=transport, sleep=self.time.sleep, clock=self.time.clock, **options)

    def async_client(self, **options: Any) -> AsyncGateClient:
        async def sleep(seconds: float) -> None:
            self.time.sleep(seconds)

        return AsyncGateClient(transport=httpx.MockTransport(self), sleep=sleep, clock=self.time.clock, **options)

    def body(self, index: int = 0) -> Any:
        return json.loads(self.requests[index].content)


def answer(body: object) -> httpx.Response:
    return httpx.Response(200, json=body)


def problem(status: int, code: str, detail: str = "expected this, got that", **headers: str) -> httpx.Response:
    document = {"type": f"urn:{code}", "title": "No", "status": status, "detail": detail, "code": code}
    content_type = {"content-type": "application/problem+json"}
    return httpx.Response(status, content=json.dumps(document), headers=content_type | headers)


def proxy_error(status: int) -> httpx.Response:
    return httpx.Response(status, html="<h1>Server error</h1>")
