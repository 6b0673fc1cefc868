"""Upgrades under load, on a cluster as `serve deploy` finds it: what touches no replica, what rolls, what hands over.

One service goes from one version of Tidegate to the next and back. The next one is this one's own code with another
layout of snapshots beside the present one, and with fields in its messages that this one does not know.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ports import free_port

from .books import tidegate
from .next_version import write_next_version
from .ray_cluster import RayCluster
from .service import serve_config, wait_for, write_roster

pytestmark = pytest.mark.long

logger = logging.getLogger(__name__)

NAMES = [f"expert-{uid}" for uid in range(8)]


class Load:
    """One who scores, one who selects and reports and one who asks for the state, without a pause.

    Nothing is sent again but rewards that were refused.

    Attributes:
        together: the sets of snapshot layouts that the replicas of one moment have read.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.failures: list[str] = []
        self.scored = 0
        self.accepted = 0
        self.gaps_s: list[float] = []
        self.together: set[frozenset[tuple[int, ...]]] = set()
        turns = (self._score, self._learn, self._look)
        self._threads = [threading.Thread(target=self._run, args=(turn,), daemon=True) for turn in turns]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, turn: Any) -> None:
        with httpx.Client(base_url=self._url, timeout=30.0) as http:
            while not self._stop.is_set():
                try:
                    turn(http)
                except Exception as error:  # noqa: BLE001 (any failure at all fails the test)
                    self.failures.append(f"{turn.__name__}: {error!r}")

    def _ask(self, http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = http.post(path, json=body)
        assert response.status_code == httpx.codes.OK, f"{response.status_code} {response.text}"
        answer: dict[str, Any] = response.json()
        return answer

    def _score(self, http: httpx.Client) -> None:
        self._ask(http, "/v1/score", {"messages": ["Which way does the tide run?"]})
        self.scored += 1

    def _look(self, http: httpx.Client) -> None:
        response = http.get("/v1/state")
        assert response.status_code == httpx.codes.OK, f"{response.status_code} {response.text}"
        self.together.add(frozenset(tuple(replica["reads"]) for replica in response.json()["replicas"]))
        self._stop.wait(0.05)

    def _learn(self, http: httpx.Client) -> None:
        selection = self._ask(http, "/v1/select", {"messages": ["moon"], "k": 2})["selections"][0]
        item = {"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": [1.0, 0.0]}
        answer = self._report(http, {"rewards": [item]})
        assert answer["accepted"] + answer["duplicates"] == 2, answer
        self.accepted += 2

    def _report(self, http: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
        refused_s: float | None = None
        while True:
            response = http.post("/v1/rewards", json=body)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            assert response.json()["code"] in ("learner_away", "decision_pending"), response.text
            refused_s = refused_s or time.monotonic()
            self._stop.wait(0.02)
        if refused_s is not None:
            self.gaps_s.append(time.monotonic() - refused_s)
        assert response.status_code == httpx.codes.OK, f"{response.status_code} {response.text}"
        answer: dict[str, Any] = response.json()
        return answer


class Upgrades:
    """The service, and the one config that is changed step by step."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        roster = folder / "roster.yaml"
        write_roster(roster, NAMES)
        self.cluster, self.folder = cluster, folder
        self.log = folder / "events.db"
        learner = {
            "heartbeat_s": 0.5,
            "log": {"url": f"sqlite:///{self.log}"},
            "checkpoints": {"url": str(folder / "checkpoints")},
        }
        self.config = serve_config(free_port(), roster, learner=learner, replica={"num_replicas": 2, "num_cpus": 0.5})
        self.url = f"http://127.0.0.1:{self.config['http_options']['port']}"
        self.http = httpx.Client(base_url=self.url, timeout=30.0)
        self.accepted = 0

    @property
    def app(self) -> dict[str, Any]:
        app: dict[str, Any] = self.config["applications"][0]
        return app

    def learner(self) -> dict[str, Any]:
        learner: dict[str, Any] = self.http.get("/v1/state").json()["learner"]
        return learner

    def replicas(self) -> list[dict[str, Any]]:
        replicas: list[dict[str, Any]] = self.http.get("/v1/state").json()["replicas"]
        return replicas

    def roll(self, load: Load) -> None:
        """Deploy the config, and wait until no replica is left of those that were."""
        before = set(self.cluster.replicas())
        self.cluster.redeploy(self.config)

        def is_done() -> bool:
            return (
                not before & set(self.cluster.replicas()) and self.cluster.applications()["gate"]["status"] == "RUNNING"
            )

        wait_for(is_done, 180)
        self.check(load)

    def check(self, load: Load) -> None:
        """Nobody was refused anything."""
        assert load.failures == []
        assert load.scored > 0
        assert load.accepted > 0

    def hand_over(self) -> dict[str, Any]:
        """`tidegate handover`, once no replica of another deployment uses the learner any more."""
        wait_for(lambda: len({replica["learner"] for replica in self.replicas()}) == 1)
        done = tidegate("handover", "--url", self.url, "--json", timeout_s=180.0)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.log}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def upgrades(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgrades]:
    cluster = RayCluster(num_cpus=4)
    service = Upgrades(cluster, tmp_path_factory.mktemp("upgrades"))
    try:
        cluster.start()
        cluster.deploy(service.config)
        wait_for(lambda: list(cluster.replicas().values()) == ["RUNNING", "RUNNING"], 180)
        wait_for(lambda: service.http.get("/readyz").status_code == httpx.codes.OK)
        yield service
    finally:
        service.http.close()
        cluster.stop()


def test_fewer_replicas_and_another_health_check_touch_no_replica_that_stays(upgrades: Upgrades) -> None:
    before, learner = set(upgrades.cluster.replicas()), upgrades.cluster.learner_pid()
    upgrades.app["deployments"] = [{"name": "Gate", "num_replicas": 1, "health_check_period_s": 3}]
    with Load(upgrades.url) as load:
        upgrades.cluster.redeploy(upgrades.config)
        states = wait_for(lambda: len(found := upgrades.cluster.replicas()) == 1 and found, 60)
    upgrades.check(load)
    upgrades.accepted += load.accepted
    assert set(states) <= before
    assert set(states.values()) == {"RUNNING"}
    assert upgrades.cluster.learner_pid() == learner


def test_new_code_and_settings_roll_without_a_dropped_request_and_without_a_second_learner(upgrades: Upgrades) -> None:
    learner = upgrades.cluster.learner_pid()
    upgrades.app["runtime_env"] = {"env_vars": {"PYTHONPATH": str(write_next_version(upgrades.folder / "next"))}}
    upgrades.app["args"]["serving"] = {"max_message_chars": 100}
    upgrades.app["args"]["learner"]["publish_interval_ms"] = 20
    with Load(upgrades.url) as load:
        upgrades.roll(load)
        newest = upgrades.learner()["version"]
        wait_for(lambda: upgrades.replicas()[0]["version"] > newest)
    assert load.failures == []
    assert load.gaps_s == []
    upgrades.accepted += load.accepted
    assert upgrades.http.post("/v1/score", json={"messages": ["x" * 101]}).status_code == 422
    assert upgrades.cluster.learner_pid() == learner
    # For a while replicas of both versions followed the one learner.
    assert frozenset({(1,), (1, 2)}) in load.together
    wait_for(lambda: [replica["reads"] for replica in upgrades.replicas()] == [[1, 2]])
    state = upgrades.learner()
    assert (state["epoch"], state["handover"]) == (1, True)


def test_the_learner_is_handed_over_while_scoring_goes_on(upgrades: Upgrades) -> None:
    before, pid = upgrades.learner(), upgrades.cluster.learner_pid()
    with Load(upgrades.url) as load:
        told = upgrades.hand_over()
        newest = upgrades.learner()["version"]
        wait_for(lambda: upgrades.replicas()[0]["version"] > newest)
    upgrades.check(load)
    upgrades.accepted += load.accepted
    logger.info("handover away_s=%.2f rewards_refused_s=%.2f", told["away_s"], max(load.gaps_s, default=0.0))
    after = upgrades.learner()
    assert (told["left_epoch"], told["epoch"]) == (1, 2) == (before["epoch"], after["epoch"])
    assert told["version"] >= before["version"]
    assert upgrades.cluster.learner_pid() != pid
    assert (after["handover"], after["identity"]) == (False, upgrades.replicas()[0]["learner"])
    assert after["identity"] != before["identity"]


def test_replicas_of_the_version_before_follow_the_next_version_s_learner(upgrades: Upgrades) -> None:
    learner = upgrades.cluster.learner_pid()
    del upgrades.app["runtime_env"]
    # The rule that is tried here comes to nothing, see the next test.
    upgrades.app["args"]["learner"]["rule"] = {"name": "adagrad"}
    with Load(upgrades.url) as load:
        upgrades.roll(load)
        newest = upgrades.learner()["version"]
        wait_for(lambda: upgrades.replicas()[0]["version"] > newest)
    assert load.failures == []
    assert load.gaps_s == []
    upgrades.accepted += load.accepted
    assert frozenset({(1,), (1, 2)}) in load.together
    wait_for(lambda: [replica["reads"] for replica in upgrades.replicas()] == [[1]])
    assert upgrades.cluster.learner_pid() == learner
    assert upgrades.learner()["epoch"] == 2


def test_a_learner_that_could_not_go_on_is_refused_with_the_command_and_the_one_that_runs_stays(
    upgrades: Upgrades,
) -> None:
    pid = upgrades.cluster.learner_pid()
    wait_for(lambda: len(upgrades.replicas()) == 1)
    refused = upgrades.http.post("/v1/admin/handover")
    assert (refused.status_code, refused.json()["code"]) == (409, "refused")
    assert "tidegate replay --rule adagrad --write-checkpoint" in refused.json()["detail"]
    assert upgrades.cluster.learner_pid() == pid
    with Load(upgrades.url) as load:
        newest = upgrades.learner()["version"]
        wait_for(lambda: upgrades.replicas()[0]["version"] > newest)
    upgrades.check(load)
    upgrades.accepted += load.accepted


def test_every_acknowledged_reward_is_in_the_log_once_and_each_epoch_had_one_writer(upgrades: Upgrades) -> None:
    assert upgrades.rows("SELECT count(*) FROM rewards") == [(upgrades.accepted,)]
    assert upgrades.rows("SELECT count(*) FROM (SELECT DISTINCT decision_id, uid FROM rewards)") == [
        (upgrades.accepted,)
    ]
    assert upgrades.rows("SELECT epoch FROM writer") == [(2,)]
    # No event of the first epoch comes after one of the second.
    [(last_of_first,)] = upgrades.rows("SELECT max(seq) FROM events WHERE epoch = 1")
    [(first_of_second,)] = upgrades.rows("SELECT min(seq) FROM events WHERE epoch = 2")
    assert last_of_first < first_of_second
