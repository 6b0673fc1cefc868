"""What happens when parts of a running service are killed or stopped."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import httpx
import pytest

from deployments.client import GateClient, Reward

from .service import Service, kill, wait_for

MAX_AGE_S = 0.5


@pytest.fixture(scope="module")
def service(durable_service: Service) -> Service:
    return durable_service


def learn_something(service: Service, text: str = "moon") -> int:
    """One selection and its rewards, published; the version that has them."""
    selection = service.post("/v1/select", {"messages": [text], "k": 2})["selections"][0]
    item = {"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": [1.0, 0.0]}
    report = service.post("/v1/rewards", {"rewards": [item], "wait": "published"})
    assert report["reached"]
    return int(report["version"])


def score(service: Service) -> dict[str, Any]:
    return service.post("/v1/score", {"messages": ["moon"]})


def test_a_killed_replica_is_replaced_and_its_successor_serves_the_current_version(service: Service) -> None:
    version = learn_something(service)
    victim = service.replica_pids()[0]
    stop, failures, answers = threading.Event(), [], []

    def ask() -> None:
        with GateClient(service.url) as client:
            while not stop.is_set():
                try:
                    answers.append(client.score(["moon"]).weights.version)
                except Exception as error:  # noqa: BLE001 (any failure at all fails the test)
                    failures.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    kill(victim)
    wait_for(lambda: victim not in service.replica_pids() and len(service.replica_urls()) == 2)
    stop.set()
    asking.join()
    assert failures == []
    assert set(answers) == {version}
    # The successor has pulled the version by itself, with nothing learned since.
    for url in service.replica_urls():
        answer = httpx.post(f"{url}/v1/score", json={"messages": ["moon"]}, timeout=30).json()
        assert answer["weights"]["version"] == version
        assert not answer["degraded"]


def test_scoring_goes_on_while_the_learner_hangs_and_says_when_it_is_degraded(service: Service) -> None:
    version = learn_something(service)
    learner = service.learner_pid()
    os.kill(learner, signal.SIGSTOP)
    try:
        degraded = wait_for(lambda: (answer := score(service))["degraded"] and answer)
        assert degraded["weights"]["version"] == version
        # Rounded to the millisecond.
        assert degraded["weights"]["age_s"] >= MAX_AGE_S
        # The other replica may have heard of the learner a little later.
        wait_for(lambda: service.http.get("/readyz").json()["degraded"])
        assert service.state()["learner"]["status"] == "away"
        assert len(service.replica_urls()) == 2
    finally:
        os.kill(learner, signal.SIGCONT)
    wait_for(lambda: not score(service)["degraded"])
    assert learn_something(service) > version


def test_a_killed_learner_comes_back_with_the_same_weights_and_replicas_take_them(service: Service) -> None:
    version = learn_something(service)
    known = service.post("/v1/score", {"messages": ["moon"], "min_version": version})
    before = known["weights"]
    killed = service.learner_pid()
    kill(killed)
    seen = [score(service)]
    while seen[-1]["weights"]["epoch"] == before["epoch"]:
        seen.append(score(service))
    # Ages are rounded to the millisecond.
    clear = [answer for answer in seen if abs(answer["weights"]["age_s"] - MAX_AGE_S) > 0.001]
    assert all(answer["degraded"] == (answer["weights"]["age_s"] > MAX_AGE_S) for answer in clear)
    assert any(answer["degraded"] for answer in seen)
    assert seen[-1]["weights"]["epoch"] == before["epoch"] + 1
    assert service.learner_pid() != killed
    wait_for(lambda: all(replica["epoch"] > before["epoch"] for replica in service.state()["replicas"]))
    assert all(answer["scores"] == known["scores"] for answer in seen)
    # The learner reads the roster again when it starts, which is an event.
    assert {version} <= {answer["weights"]["version"] for answer in seen} <= {version, version + 1}
    assert learn_something(service) > version


def test_a_reward_is_not_acknowledged_while_the_learner_does_not_answer(service: Service) -> None:
    item = {"reward_id": "held", "message": "m", "uids": [1], "rewards": [1.0]}
    learner = service.learner_pid()
    os.kill(learner, signal.SIGSTOP)
    try:
        refused = service.http.post("/v1/rewards", json={"rewards": [item]})
    finally:
        os.kill(learner, signal.SIGCONT)
    assert (refused.status_code, refused.json()["code"]) == (503, "learner_away")
    assert int(refused.headers["retry-after"]) >= 1
    again = service.post("/v1/rewards", {"rewards": [item]})
    assert again["accepted"] + again["duplicates"] == 1


def test_a_client_that_retries_loses_no_reward_to_a_killed_learner(service: Service) -> None:
    with GateClient(service.url, retries=100, timeout_s=60) as client:
        kill(service.learner_pid())
        reward = Reward(uids=[1, 2], rewards=[1.0, 0.5], reward_id="again", message="salt")
        report = client.report([reward], wait="published")
        assert (report.accepted, report.reached) == (2, True)
        assert client.report([reward]).duplicates == 2
