"""A gate in memory for the demo to run against."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
from rich.console import Console

from deployments.client import GateClient
from deployments.demo_data import RewardTable


class FakeGate:
    """A gate in memory: asks whoever has earned most so far, and keeps its own books.

    Args:
        n_uids: how many uids it knows.
        fault: looks at each request's path and number; may answer it, or raise, after the gate has done its work.
    """

    def __init__(self, n_uids: int = 256, fault: Callable[[str, int], httpx.Response | None] | None = None) -> None:
        self.n_uids = n_uids
        self.unavailable: set[int] = set()
        self.lost: set[str] = set()
        self.decisions: dict[str, tuple[str, list[int]]] = {}
        self.rewards: dict[tuple[str, int], float] = {}
        self.batches: list[int] = []
        self.now_s = 0.0
        self._fault = fault
        self._requests = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self._requests += 1
        self.now_s += 1.0
        routes = {"/v1/state": self._state, "/v1/select": self._select, "/v1/rewards": self._reward}
        path = request.url.path
        body = routes[path](json.loads(request.content) if request.content else {})
        fault = self._fault(path, self._requests) if self._fault else None
        return fault or httpx.Response(200, json=body)

    def client(self, url: str = "http://gate") -> GateClient:
        return GateClient(url, transport=httpx.MockTransport(self), sleep=lambda seconds: None)

    def clock(self) -> float:
        return self.now_s

    def first_choice_rewards(self) -> list[float]:
        return [self.rewards[decision_id, uids[0]] for decision_id, (_, uids) in self.decisions.items()]

    def _state(self, body: Any) -> Any:
        return {"learner": {"status": "running"}, "metagraph": {"n": self.n_uids}, "something_new": 1}

    def _provenance(self) -> dict[str, Any]:
        weights = {"epoch": 1, "version": len(self.rewards), "age_s": 0.1}
        return {"weights": weights, "metagraph": {"netuid": 0, "block": 0, "n": self.n_uids}, "degraded": False}

    def _select(self, body: Any) -> Any:
        earned = [0.0] * self.n_uids
        for (_, uid), reward in self.rewards.items():
            earned[uid] += reward
        candidates = [uid for uid in body["uids"] if uid not in self.unavailable]
        uids = sorted(candidates, key=lambda uid: -earned[uid])[: body["k"]]
        selections = []
        for message in body["messages"]:
            decision_id = f"d-{len(self.decisions)}"
            self.decisions[decision_id] = (message, uids)
            ones = [1.0] * len(uids)
            selections.append({"decision_id": decision_id, "uids": uids, "scores": ones, "propensities": ones})
        self.batches.append(len(selections))
        return {"selections": selections, **self._provenance()}

    def _reward(self, body: Any) -> Any:
        accepted, duplicates, rejected = 0, 0, []
        assert body["wait"] == "logged"
        for index, item in enumerate(body["rewards"]):
            if item["decision_id"] in self.lost:
                rejected.append({"index": index, "code": "unknown_decision", "detail": "there is no such decision"})
                continue
            for uid, reward in zip(item["uids"], item["rewards"], strict=True):
                if (item["decision_id"], uid) in self.rewards:
                    duplicates += 1
                else:
                    accepted += 1
                    self.rewards[item["decision_id"], uid] = reward
        weights = self._provenance()["weights"]
        account = {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}
        return {**account, "weights": weights, "version": weights["version"], "reached": True}


def build_table(n_prompts: int = 40) -> RewardTable:
    """Model 1 is best on most prompts, model 2 on every fourth; every prompt has its own rewards."""
    rows = []
    for row in range(n_prompts):
        own = row / n_prompts / 10
        rows.append((0.1 + own, 0.7 + own, 0.9 if row % 4 == 0 else 0.2 + own))
    return RewardTable([f"prompt {row}" for row in range(n_prompts)], ("small", "large", "odd"), rows)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
