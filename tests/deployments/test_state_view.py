from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from deployments.errors import LearnerAway

from .local_service import NODES, LocalService, N

Start = Callable[..., Awaitable[LocalService]]


async def test_state_shows_learner_network_replicas_and_who_answered(service: LocalService) -> None:
    await service.reward({"reward_id": "mine", "message": "why?", "uids": [3], "rewards": [0.5]})
    state = (await service.http.get("/v1/state")).json()
    learner = state["learner"]
    assert (state["nodes"], state["target_replicas"], state["nodes_age_s"] < 60) == (NODES, 1, True)
    assert (learner["status"], learner["epoch"], learner["version"]) == ("running", 1, 1)
    assert learner["checkpoint"] == dict.fromkeys(("name", "version", "age_s", "digest", "last_error")) | {
        "pruned_rows": 0
    }
    assert (learner["log_error"], learner["frozen"]) == (None, False)
    assert learner["quarantine"] == {"frozen": 0, "rolled_back": 0, "non_finite": 0, "author": 0}
    assert (learner["events_logged"], learner["events_applied"], learner["durable"]) == (1, 1, False)
    assert (learner["rule"], learner["counters"]["rewards_accepted"]) == ("softmax_mse", 1)
    assert state["metagraph"]["n"] == N
    assert [replica["id"] for replica in state["replicas"]] == ["replica-a"]
    # This replica has not polled since.
    assert state["weights"] == {"epoch": 1, "version": 0, "age_s": 0.0}
    assert (state["degraded"], state["answered_by"]) == (False, "replica-a")
    assert state["time"] > 1_700_000_000


async def test_state_is_a_200_while_the_learner_is_away(service: LocalService) -> None:
    await service.select(["why?"])
    service.learner.away = True
    service.now_s += 42.5
    response = await service.http.get("/v1/state")
    assert response.status_code == 200
    state = response.json()
    assert state["learner"] == {"status": "away", "last_seen_s": 42.5, "reason": None}
    assert state["metagraph"] == {"netuid": 7, "block": 100, "n": N}
    [replica] = state["replicas"]
    assert (replica["id"], replica["buffered_decisions"], replica["texts"]) == ("replica-a", 1, 1)
    assert (replica["queued_tokens"], replica["tokens_per_s"] > 0) == (0, True)
    assert replica["embedding_cache"] | {"bytes": 0} == {"hits": 0, "misses": 1, "shared": 0, "entries": 1, "bytes": 0}
    assert (state["nodes"], replica["node"]) == (NODES, {"id": "n0de", "ip": "10.0.0.7", "hostname": "worker-7"})
    assert replica["latency_ms"].keys() == {"short", "medium", "long"}
    assert replica["latency_ms"]["short"].keys() == {"texts", "wait_p50", "wait_p99", "p50", "p99"}
    assert state["weights"] == {"epoch": 1, "version": 0, "age_s": 42.5}
    assert state["degraded"] is True


async def test_state_says_why_the_learner_is_away_in_one_line_and_without_a_password(service: LocalService) -> None:
    service.learner.away = True
    service.learner.reason = "postgresql://me:se/cr@t@db:5432/gate does not answer\nTraceback ..."
    with pytest.raises(LearnerAway):
        await service.subscriber.poll_once()
    reason = (await service.http.get("/v1/state")).json()["learner"]["reason"]
    assert reason == "postgresql://me:***@db:5432/gate does not answer"


async def test_state_is_a_200_before_there_is_anything_to_tell(start: Start) -> None:
    service = await start(subscribed=False)
    service.learner.away = True
    state = (await service.http.get("/v1/state")).json()
    assert state["learner"] == {"status": "away", "last_seen_s": None, "reason": None}
    assert state["metagraph"] is None
    assert state["weights"] == {"epoch": None, "version": None, "age_s": None}
    assert state["degraded"] is True
