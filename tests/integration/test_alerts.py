"""A real Prometheus scrapes a real service; each alert fires when its fault is made, and not before.

The rules are those that are deployed, with all their times a hundred times shorter.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest

from tests.alerts import hastened_rules, metrics_named, read_rules
from tests.chain_node.node import ChainNode

from .alerting import TELLS_EACH_SECOND, meanwhile, prometheus_beside
from .prometheus import Prometheus
from .service import ROOT, Service, wait_for

pytestmark = pytest.mark.long

N, NETUID, K = 12, 23, 4
KEY = "tg_everything"
USUAL_REWARD = 0.8
LONG = "tide gate moon salt harbour why compute " * 60
ELSEWHERE = {"TidegateVersionSkew"}
"""It takes two replicas: test_version_skew.py."""


@pytest.fixture(scope="module")
def node(start_node: Callable[..., ChainNode]) -> ChainNode:
    return start_node(netuid=NETUID, n=N)


@pytest.fixture(scope="module")
def service(node: ChainNode, start_service: Callable[..., Service]) -> Service:
    chain = {"source": "bittensor", "network": node.url, "netuid": NETUID}
    key = {"id": "all", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "scopes": ["score", "reward", "admin"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*TELLS_EACH_SECOND)
        service = start_service(
            [],
            chain={**chain, "resync_interval_s": 0.5, "call_timeout_s": 0.5},
            learner={
                "rule": {"name": "adagrad"},
                "shadow": [{"name": "softmax_mse"}],
                "compare_interval_s": 1.0,
                "heartbeat_s": 0.5,
                "reward_window_s": 10.0,
                "log": {"retention_days": 1e-9},
                "checkpoints": {"interval_s": 1.0},
            },
            serving={"max_age_s": 2.0, "max_queue_delay_ms": 2000},
            auth={"mode": "api_key", "keys": [key]},
        )
    service.http.headers["Authorization"] = f"Bearer {KEY}"
    return service


@pytest.fixture(scope="module")
def prometheus(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    yield from prometheus_beside(service, tmp_path_factory.mktemp("prometheus"), hastened_rules(100))


def select(service: Service, count: int) -> list[dict[str, Any]]:
    """Decisions about as many of 64 prompts, which are embedded once."""
    body = {"messages": [f"prompt {number % 64}" for number in range(count)], "k": K}
    selections: list[dict[str, Any]] = service.post("/v1/select", body)["selections"]
    return selections


def reward(service: Service, selections: list[dict[str, Any]], value: Callable[[], float]) -> dict[str, Any]:
    rewards = [
        {"decision_id": one["decision_id"], "uids": one["uids"], "rewards": [value() for _ in one["uids"]]}
        for one in selections
    ]
    return service.post("/v1/rewards", {"rewards": rewards})


def keep_asking(service: Service) -> bool:
    """What a service is used for, once; always true."""
    report = reward(service, select(service, 64), lambda: USUAL_REWARD)
    assert report["accepted"] == 64 * K
    return True


@contextmanager
def no_place_for_checkpoints(service: Service) -> Iterator[None]:
    """A file lies where their folder was."""
    folder = service.config_path.parent / "tidegate-data" / "gate" / "checkpoints"
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("no folder")
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


@contextmanager
def locked_log(service: Service) -> Iterator[None]:
    """Somebody else holds the database's one lock for writers."""
    path = service.config_path.parent / "tidegate-data" / "gate" / "events.db"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30.0)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does nothing, and does not know it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_nothing_fires_at_a_service_that_is_used_and_well(service: Service, prometheus: Prometheus) -> None:
    earlier = "[8s] offset 9s"
    joined, made = (f"sum(rate(ray_tidegate_{name}_total{earlier}))" for name in ("decisions_joined", "decisions"))

    def is_usual() -> bool:
        keep_asking(service)
        return any(ratio > 0.9 for ratio in prometheus.query(f"{joined} / {made}").values())

    wait_for(is_usual, every_s=0.2)
    assert prometheus.rule_errors() == {}
    assert prometheus.firing() == set()


def test_what_a_replica_and_the_learner_tell_agrees_with_the_state(service: Service, prometheus: Prometheus) -> None:
    def agrees() -> bool:
        state = service.state()
        learner, [replica] = state["learner"], state["replicas"]
        told = {
            "ray_tidegate_learner_version": learner["version"],
            "ray_tidegate_decisions_total": learner["decisions"],
            "ray_tidegate_decisions_joined_total": learner["counters"]["decisions_joined"],
            'ray_tidegate_rewards_total{outcome="accepted"}': learner["counters"]["rewards_accepted"],
            "ray_tidegate_moving_reward": learner["moving_reward"],
            'ray_tidegate_baseline_reward{baseline="random"}': learner["baselines"]["random"]["value"],
            "ray_tidegate_weights_version": replica["version"],
            "ray_tidegate_texts_encoded_total": replica["texts"],
            "ray_tidegate_embedding_cache_hits_total": replica["embedding_cache"]["hits"],
            "ray_tidegate_network_uids": N,
        }
        return all([*prometheus.query(name).values()] == [pytest.approx(value)] for name, value in told.items())

    wait_for(agrees, every_s=0.5)


def test_rewards_that_can_no_longer_be_told_are_drift(service: Service, prometheus: Prometheus) -> None:
    anything = random.Random(0)
    with meanwhile(lambda: reward(service, select(service, 64), lambda: float(anything.random() < 0.5))):
        prometheus.wait_until_firing("TidegateRewardDrift")
    assert prometheus.firing() == {"TidegateRewardDrift"}


def test_rewards_that_stay_away_a_chain_that_is_away_held_rewards_unsaved_ones_and_wrong_keys(
    service: Service, prometheus: Prometheus, node: ChainNode
) -> None:
    wrong = httpx.Client(base_url=service.url, headers={"Authorization": "Bearer tg_wrong"})
    node.stop()
    service.post("/v1/admin/freeze", {})
    reward(service, select(service, 1), lambda: USUAL_REWARD)

    def ask_in_vain() -> None:
        select(service, 64)
        assert wrong.get("/v1/state").status_code == httpx.codes.UNAUTHORIZED

    expected = ("JoinRateDrop", "ChainStale", "QuarantineNotEmpty", "CheckpointOld", "AuthFailures")
    alerts = tuple(f"Tidegate{name}" for name in expected)
    with wrong, no_place_for_checkpoints(service), meanwhile(ask_in_vain):
        prometheus.wait_until_firing(*alerts)
        assert prometheus.firing() - {"TidegateRewardDrift"} == set(alerts)
    node.start()
    service.post("/v1/admin/freeze", {"frozen": False})
    with meanwhile(lambda: keep_asking(service)):
        prometheus.wait_until_quiet(*alerts)


@contextmanager
def much_to_do(service: Service) -> Iterator[None]:
    """A request of more than the engine can do soon, whose client goes away in the end."""
    body = json.dumps({"messages": [f"{number} {LONG}" for number in range(256)]}).encode()
    head = (
        f"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head.encode() + body)
        yield


def is_refused(service: Service, message: str) -> bool:
    """Whether a message of which no embedding is kept has to come back later."""
    answer = service.http.post("/v1/score", json={"messages": [message], "top_k": 1})
    return answer.status_code == httpx.codes.TOO_MANY_REQUESTS


def test_more_texts_than_the_engine_can_do_soon(service: Service, prometheus: Prometheus) -> None:
    numbers = itertools.count()
    with much_to_do(service):
        wait_for(lambda: is_refused(service, f"one more, {next(numbers)}"))
        prometheus.wait_until_firing("TidegateQueueDelay")
    prometheus.wait_until_quiet("TidegateQueueDelay")


def test_a_log_that_cannot_be_written(service: Service, prometheus: Prometheus) -> None:
    with locked_log(service):
        prometheus.wait_until_firing("TidegateLogFailing")
    prometheus.wait_until_quiet("TidegateLogFailing")


def test_a_learner_that_hangs_and_weights_that_grow_old(service: Service, prometheus: Prometheus) -> None:
    with frozen(service.learner_pid()):
        prometheus.wait_until_firing("TidegateLearnerDown", "TidegateWeightsStale")
        assert service.post("/v1/score", {"messages": ["why?"], "top_k": 1})["degraded"]
    prometheus.wait_until_quiet("TidegateLearnerDown", "TidegateWeightsStale")


def test_a_newcomer_s_row_and_a_text_that_two_ask_for(
    service: Service, prometheus: Prometheus, node: ChainNode
) -> None:
    node.subnet.register("newcomer", uid=3)
    service.post("/v1/score", {"messages": ["twice in one request"] * 2, "top_k": 1})
    names = {"ray_tidegate_rows_reset_total", "ray_tidegate_embedding_cache_shared_total"}
    wait_for(lambda: names <= prometheus.names(), every_s=0.2)


def test_every_metric_that_a_rule_or_a_panel_asks_for_was_scraped(prometheus: Prometheus) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "tidegate.json").read_text("utf-8"))
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked = {name for text in (*panels, *(rule["expr"] for rule in read_rules())) for name in metrics_named(text)}
    missing = asked - prometheus.names()
    assert missing == set()


def test_a_service_that_is_gone(service: Service, prometheus: Prometheus) -> None:
    service.stop()
    prometheus.wait_until_firing("TidegateNoReplica")


def test_each_alert_but_those_that_are_made_elsewhere_has_fired(prometheus: Prometheus) -> None:
    fired = {rule["alert"] for rule in read_rules() if prometheus.query(_ever_fired(rule["alert"]))}
    assert fired == {rule["alert"] for rule in read_rules()} - ELSEWHERE


def _ever_fired(alert: str) -> str:
    return f'max_over_time(ALERTS{{alertname="{alert}",alertstate="firing"}}[1h])'
