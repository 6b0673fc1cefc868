from __future__ import annotations

import threading
from typing import Any

import pytest

from deployments import nodes
from deployments.nodes import ClusterNodes, describe_node, fetch_nodes

HEAD = {
    "NodeID": "aa",
    "Alive": True,
    "NodeManagerAddress": "10.0.0.9",
    "NodeManagerHostname": "head",
    "Resources": {"CPU": 4.0, "memory": 2.0**33, "node:10.0.0.9": 1.0, "node:__internal_head__": 1.0},
}
WORKER = {**HEAD, "NodeID": "bb", "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 2.0, "GPU": 1.0}}


def test_a_node_is_described_by_who_it_is_and_what_it_has() -> None:
    resources = {"CPU": 4.0, "memory": 2.0**33}
    expected = {"id": "aa", "ip": "10.0.0.9", "hostname": "head", "is_head": True, "resources": resources}
    assert describe_node(HEAD) == expected
    assert describe_node(WORKER)["is_head"] is False


def test_nodes_that_are_gone_are_left_out_and_the_head_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {**WORKER, "NodeID": "cc", "Alive": False}
    monkeypatch.setattr(nodes.ray, "nodes", lambda: [WORKER, gone, HEAD])
    assert [node["id"] for node in fetch_nodes()] == ["aa", "bb"]


class Store:
    """Ray's control store: counts how often it is asked, and can hang or fail."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: dict[str, Any] = {"nodes": [{"id": "aa"}], "target_replicas": 1}
        self.error: Exception | None = None
        self.there = threading.Event()
        self.there.set()

    def fetch(self) -> dict[str, Any]:
        self.asked += 1
        self.there.wait()
        if self.error is not None:
            raise self.error
        return self.answer


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_nodes_are_asked_for_again_only_when_they_are_old() -> None:
    store, clock = Store(), Clock()
    known = ClusterNodes(store.fetch, clock)
    assert await known.read() == {"nodes": [{"id": "aa"}], "target_replicas": 1, "nodes_age_s": 0.0}
    store.answer = {"nodes": [{"id": "aa"}, {"id": "bb"}], "target_replicas": 3}
    clock.now_s += 1.5
    assert await known.read() == {"nodes": [{"id": "aa"}], "target_replicas": 1, "nodes_age_s": 1.5}
    clock.now_s += 1.0
    assert await known.read() == {**store.answer, "nodes_age_s": 0.0}
    assert store.asked == 2


async def test_while_the_control_store_hangs_the_last_answer_is_given_with_its_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes, "_PATIENCE_S", 0.01)
    store, clock = Store(), Clock()
    known = ClusterNodes(store.fetch, clock)
    await known.read()
    store.there.clear()
    clock.now_s += 60.0
    try:
        answers = [await known.read() for _ in range(3)]
        asked = store.asked
    finally:
        store.there.set()
    assert answers == [{"nodes": [{"id": "aa"}], "target_replicas": 1, "nodes_age_s": 60.0}] * 3
    # The call that hangs is the only one.
    assert asked == 2
    monkeypatch.setattr(nodes, "_PATIENCE_S", 30.0)
    assert (await known.read())["nodes_age_s"] == 0.0


async def test_an_error_of_the_control_store_is_told_by_the_age_and_it_is_asked_again() -> None:
    store, clock = Store(), Clock()
    store.error = RuntimeError("failed to connect")
    known = ClusterNodes(store.fetch, clock)
    assert await known.read() == {"nodes": [], "target_replicas": None, "nodes_age_s": None}
    store.error = None
    assert await known.read() == {"nodes": [{"id": "aa"}], "target_replicas": 1, "nodes_age_s": 0.0}
