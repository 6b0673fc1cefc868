"""Two services with one log: one of them learns, the other waits, and whoever was replaced ends for good."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

from tests.postgres import PostgresServer, postgres_server

from .books import learn_something, newest, refusal, scores
from .service import Service, kill, wait_for

__all__ = ["postgres_server"]

pytestmark = pytest.mark.long

NAMES = [f"expert-{uid}" for uid in range(6)]
LEASE_S = 1.0


def settings(log_url: str, checkpoints: str) -> dict[str, Any]:
    learner = {
        "heartbeat_s": 0.2,
        "log": {"url": log_url, "lease_s": LEASE_S},
        "checkpoints": {"url": checkpoints, "interval_s": 600.0},
    }
    return {
        "learner": learner,
        "serving": {"max_age_s": 0.5, "wait_timeout_s": 5.0},
        "replica": {"num_replicas": 1, "num_cpus": 0.5},
    }


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database("two_clusters")


@pytest.fixture(scope="module")
def first(
    start_service: Callable[..., Service], database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    service = start_service(NAMES, **settings(database, str(tmp_path_factory.mktemp("shared") / "checkpoints")))
    yield service
    if service.process.poll() is None:
        for process in service.processes():
            # Nothing that a test has stopped may hinder the end.
            with suppress(psutil.NoSuchProcess):
                process.resume()


@pytest.fixture(scope="module")
def second(start_service: Callable[..., Service], first: Service) -> Service:
    learn_something(first)
    saved = first.post("/v1/admin/checkpoint", {})
    service = start_service(NAMES, **{key: first.arguments()[key] for key in ("learner", "serving", "replica")})
    # It starts from the checkpoint that both have, and waits for its turn.
    assert service.post("/v1/score", {"messages": ["a"]})["weights"]["version"] == saved["version"]
    return service


def epoch(server: PostgresServer) -> int:
    [(found,)] = server.execute("SELECT epoch FROM writer", "two_clusters")
    assert isinstance(found, int)
    return found


def renewals(server: PostgresServer) -> int:
    [(found,)] = server.execute("SELECT renewals FROM writer", "two_clusters")
    assert isinstance(found, int)
    return found


def test_the_second_cluster_says_who_has_the_log_and_disturbs_nobody(
    first: Service, second: Service, postgres_server: PostgresServer
) -> None:
    version = newest(first)
    away = wait_for(
        lambda: (
            (learner := second.state()["learner"])["status"] == "away"
            and "is written by 'ray-actor-" in str(learner["reason"])
            and learner
        )
    )
    assert "the learner cannot start" in away["reason"]
    assert second.http.get("/readyz").json()["degraded"]
    item = {"reward_id": "x", "message": "m", "uids": [1], "rewards": [1.0]}
    refused = second.http.post("/v1/rewards", json={"rewards": [item]})
    assert (refused.status_code, refused.json()["code"]) == (503, "learner_away")
    assert learn_something(first) == version + 3
    assert (epoch(postgres_server), first.state()["learner"]["epoch"]) == (1, 1)


def test_a_learner_that_was_replaced_while_it_hung_ends_for_good(
    first: Service, second: Service, postgres_server: PostgresServer
) -> None:
    before, fenced = scores(first), first.learner_pid()
    os.kill(fenced, signal.SIGSTOP)
    taken = wait_for(lambda: (learner := second.state()["learner"]).get("epoch", 0) > 1 and learner)
    assert scores(second) == before
    os.kill(fenced, signal.SIGCONT)
    item = {"reward_id": "y", "message": "m", "uids": [1], "rewards": [1.0]}
    refused = first.http.post("/v1/rewards", json={"rewards": [item]})
    assert (refused.status_code, refused.json()["code"]) == (503, "learner_away")
    wait_for(lambda: not psutil.pid_exists(fenced))
    wait_for(lambda: "is written by 'ray-actor-" in str(first.state()["learner"].get("reason")))
    # For as long as the second goes on renewing its claim many times over.
    since = renewals(postgres_server)
    wait_for(lambda: renewals(postgres_server) >= since + 10)
    assert epoch(postgres_server) == taken["epoch"] == second.state()["learner"]["epoch"]
    assert first.state()["learner"]["status"] == "away"
    assert learn_something(second) > taken["version"]


def test_the_other_cluster_takes_over_when_everything_of_the_one_that_learns_is_killed(
    first: Service, second: Service, postgres_server: PostgresServer
) -> None:
    before, known = scores(second), epoch(postgres_server)
    processes = second.processes()
    kill(second.process.pid)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    second.wait()
    wait_for(lambda: first.state()["learner"].get("epoch", 0) > known)
    assert epoch(postgres_server) == known + 1
    assert scores(first) == before
    learn_something(first)
    assert first.stop() == 0


def test_a_second_service_with_the_same_sqlite_log_is_refused_and_told_who_has_it(
    start_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sqlite")
    url = f"sqlite:///{folder}/events.db"
    owner = start_service(NAMES, **settings(url, str(folder / "checkpoints")))
    version = learn_something(owner)
    other = Service.beside(owner)
    said = refusal(other, timeout_s=60.0)
    assert "the learner cannot start" in said
    assert f"{url} is written by 'ray-actor-" in said
    learner = owner.state()["learner"]
    assert (learner["epoch"], learner["version"], learner["status"]) == (1, version, "running")
    assert learn_something(owner) == version + 3
