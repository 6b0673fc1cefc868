"""A service that follows a subnet: what happens on the chain shows in its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.chain_node.node import ChainNode

from .service import Service, kill, wait_for

N, NETUID = 12, 23
PROMPT = "Who holds this uid?"


@pytest.fixture(scope="module")
def node(start_node: Callable[..., ChainNode]) -> ChainNode:
    return start_node(netuid=NETUID, n=N)


@pytest.fixture(scope="module")
def service(node: ChainNode, start_service: Callable[..., Service]) -> Service:
    service = start_service(
        [],
        chain={
            "source": "bittensor",
            "network": node.url,
            "netuid": NETUID,
            "resync_interval_s": 0.2,
            "call_timeout_s": 2.0,
            "exclude": [N - 1],
        },
        # Where all uids have earned the same, a row from the pool would look like the one that it replaced.
        learner={"rule": {"name": "adagrad", "new_row": "zeros"}, "heartbeat_s": 0.2},
        replica={"num_replicas": 2, "num_cpus": 0.5},
    )
    wait_for(lambda: len(service.replica_urls()) == 2)
    return service


def select(service: Service, uids: list[int]) -> dict[str, Any]:
    body = {"messages": [PROMPT], "k": len(uids), "uids": uids}
    selection: dict[str, Any] = service.post("/v1/select", body)["selections"][0]
    return selection


def reward(service: Service, selection: dict[str, Any], value: float) -> dict[str, Any]:
    item = {"decision_id": selection["decision_id"], "uids": selection["uids"]}
    return service.post(
        "/v1/rewards", {"rewards": [{**item, "rewards": [value] * len(item["uids"])}], "wait": "published"}
    )


def scores(service: Service) -> list[list[float]]:
    """Of every uid, from each replica, once all of them have everything that has been learned."""
    version = service.state()["learner"]["version"]
    body = {"messages": [PROMPT], "min_version": version}
    answers = [httpx.post(f"{url}/v1/score", json=body, timeout=30).json() for url in service.replica_urls()]
    assert len(answers) == 2
    return [answer["scores"][0]["scores"] for answer in answers]


def follow(service: Service, node: ChainNode) -> dict[str, Any]:
    """Wait until the learner is where the chain is; what the state says of the metagraph."""
    block = node.subnet.head
    return wait_for(
        lambda: (metagraph := service.state()["metagraph"])["block"] >= block and metagraph  # type: ignore[return-value]
    )


def hotkeys(service: Service) -> list[str]:
    return [row["hotkey"] for row in service.http.get("/v1/uids").json()["uids"]]


def metric(service: Service, name: str, label: str) -> float | None:
    return next((v for series, v in service.metrics().items() if series.startswith(name) and label in series), None)


def learn_something_of_every_uid(service: Service) -> None:
    report = reward(service, select(service, list(range(N - 1))), 0.9)
    assert report["reached"]


def test_the_uids_and_their_owners_are_the_chains(service: Service, node: ChainNode) -> None:
    metagraph = follow(service, node)
    assert hotkeys(service) == node.subnet.hotkeys
    assert (metagraph["netuid"], metagraph["n"], metagraph["available"]) == (NETUID, N, N - 1)
    assert (metagraph["source"], metagraph["network"], metagraph["endpoint"]) == ("bittensor", node.url, node.url)
    assert (metagraph["last_error"], metagraph["failures"], metagraph["stale_views"]) == (None, 0, 0)
    answer = service.post("/v1/score", {"messages": [PROMPT]})
    assert (answer["metagraph"]["netuid"], answer["metagraph"]["n"]) == (NETUID, N)


def test_a_registration_changes_exactly_that_uids_score_on_all_replicas_and_its_old_owner_earns_no_more(
    service: Service, node: ChainNode
) -> None:
    learn_something_of_every_uid(service)
    old = select(service, [3, 4])
    before = scores(service)
    node.subnet.register("newcomer", uid=3)
    follow(service, node)
    after = scores(service)
    for was, now in zip(before, after, strict=True):
        assert [uid for uid in range(N) if was[uid] != now[uid]] == [3]
    assert hotkeys(service) == node.subnet.hotkeys
    report = reward(service, old, 1.0)
    assert report["accepted"] == 1
    assert [(rejection["uid"], rejection["code"]) for rejection in report["rejected"]] == [(3, "stale_hotkey")]


def test_a_hotkey_swap_keeps_the_score_and_the_owner_still_earns_for_what_it_answered(
    service: Service, node: ChainNode
) -> None:
    learn_something_of_every_uid(service)
    old = select(service, [5, 6])
    before = scores(service)
    node.subnet.swap_hotkey(5, "rotated")
    follow(service, node)
    assert hotkeys(service) == node.subnet.hotkeys
    assert scores(service) == before
    assert reward(service, old, 1.0)["accepted"] == 2


def test_a_uid_that_serves_no_more_is_selected_no_more(service: Service, node: ChainNode) -> None:
    everyone = {"messages": [PROMPT], "k": N}
    assert sorted(service.post("/v1/select", everyone)["selections"][0]["uids"]) == list(range(N - 1))
    node.subnet.serve(7, False)
    assert follow(service, node)["available"] == N - 2
    for url in service.replica_urls():
        wait_for(
            lambda url=url: (
                7  # type: ignore[misc]
                not in httpx.post(f"{url}/v1/select", json=everyone, timeout=30).json()["selections"][0]["uids"]
            )
        )
    node.subnet.serve(7)
    assert follow(service, node)["available"] == N - 1


def test_a_grown_subnet_has_its_new_uid_scored_and_selected(service: Service, node: ChainNode) -> None:
    node.subnet.register("one more")
    assert follow(service, node)["n"] == N + 1
    assert [len(row) for row in scores(service)] == [N + 1] * 2
    assert N in service.post("/v1/select", {"messages": [PROMPT], "k": N + 1})["selections"][0]["uids"]
    node.subnet.compact(N)
    assert follow(service, node)["n"] == N


def test_an_outage_of_the_node_is_shown_with_its_cause_and_age_while_scoring_goes_on(
    service: Service, node: ChainNode
) -> None:
    known = follow(service, node)
    node.stop()
    away = wait_for(lambda: (now := service.state()["metagraph"])["failures"] > known["failures"] and now)
    assert node.url in away["last_error"]
    assert "could not connect" in away["last_error"]
    assert away["block"] == known["block"]
    older = wait_for(lambda: (now := service.state()["metagraph"])["block_age_s"] > 1 and now)
    assert older["n"] == N
    wait_for(lambda: metric(service, "ray_tidegate_chain_read_failing", 'cause="ChainUnavailableError"') == 1.0)
    age_s = metric(service, "ray_tidegate_chain_view_age_seconds", 'application="gate"')
    assert age_s is not None
    assert age_s > 0
    assert not service.post("/v1/score", {"messages": [PROMPT]})["degraded"]
    learn_something_of_every_uid(service)
    refused = service.http.post("/v1/admin/resync")
    assert (refused.status_code, refused.json()["code"]) == (503, "chain_unavailable")
    assert node.url in refused.json()["detail"]

    node.subnet.register("during the outage", uid=2)
    node.start()
    summary = service.post("/v1/admin/resync", {})
    assert (summary["block"], summary["reset"]) == (node.subnet.head, [2])
    recovered = follow(service, node)
    assert recovered["last_error"] is None
    assert recovered["block_age_s"] < older["block_age_s"]
    assert hotkeys(service) == node.subnet.hotkeys


def test_a_node_that_lags_changes_nothing(service: Service, node: ChainNode) -> None:
    known = follow(service, node)
    node.subnet.go_back(3)
    lagging = wait_for(lambda: (now := service.state()["metagraph"])["stale_views"] > known["stale_views"] and now)
    assert lagging["block"] == known["block"]
    assert "older" in lagging["last_error"]
    node.subnet.advance(4)
    assert follow(service, node)["last_error"] is None


def test_a_learner_that_restarts_finds_the_chain_as_it_is(service: Service, node: ChainNode) -> None:
    epoch = service.state()["learner"]["epoch"]
    node.subnet.register("while nobody looks", uid=1)
    kill(service.learner_pid())
    wait_for(lambda: service.state()["learner"].get("epoch", 0) > epoch)
    assert hotkeys(service) == node.subnet.hotkeys
