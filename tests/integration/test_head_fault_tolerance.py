"""A cluster of others, with its tables in Redis: the service joins it, outlives its control store, leaves it whole.

The tests are one story on one cluster, told in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from learner.checkpoint import CheckpointStore, Expected
from learner.config import LearnerConfig, settings_of
from learner.sql import read_sql_log
from tests.chaos.load import Load
from tests.chaos.verdict import assert_nothing_lost
from tests.ports import free_port
from tests.redis_server import running_redis

from .books import database, tidegate
from .joiner import TOLD
from .ray_head import RayHead
from .service import ROOT, Service, kill, serve_config, wait_for, write_roster

pytestmark = pytest.mark.long

N = 16
THEIRS = {"name": "tides", "route_prefix": "/tides", "import_path": "tests.integration.foreign_app:app"}
MEANWHILE = 100
"""How many rewards must be acknowledged, and learned, while the control store is away."""


@dataclass
class Cluster:
    """A head node, the applications that others have deployed there, and the service that has joined."""

    head: RayHead
    service: Service
    load: Load
    tides_pid: int = 0
    bystander_pid: int = 0

    def others_are_as_they_were(self) -> bool:
        """The others' application is answered by the process that it was, and their actor is alive."""
        [bystander] = self.head.processes("Bystander")
        return (self.ask_tides(), bystander.pid) == (self.tides_pid, self.bystander_pid)

    def ask_tides(self) -> int:
        return int(self.service.http.get("/tides").raise_for_status().text)

    def pids(self, *names: str) -> dict[str, list[int]]:
        return {name: sorted(process.pid for process in self.head.processes(name)) for name in names}

    def tidegate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line against the cluster."""
        return tidegate(*arguments, "--address", self.head.address, timeout_s=150, **self.head.environment)

    def learner_pid(self) -> int:
        """The process that has the service's event log open."""
        log = str(database(self.service))
        [pid] = [
            process.pid
            for process in self.head.processes("LearnerActor")
            if log in {file.path for file in process.open_files()}
        ]
        return pid


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    roster = folder / "roster.yaml"
    write_roster(roster, [f"expert-{uid}" for uid in range(N)])
    ours = serve_config(free_port(), roster, learner={"heartbeat_s": 0.2}, replica={"num_cpus": 0.5})
    with running_redis() as redis_address:
        head = RayHead(redis_address)
        service = Service(ours, folder)
        running = Cluster(head, service, Load(service.url))
        try:
            head.start()
            deploy_theirs(head, ours, folder)
            service.join(head.address, head.environment)
            running.tides_pid = running.ask_tides()
            [bystander] = head.processes("Bystander")
            running.bystander_pid = bystander.pid
            yield running
        finally:
            head.remove()
            service.end()
            service.http.close()


def deploy_theirs(head: RayHead, ours: dict[str, Any], folder: Path) -> None:
    """Deploy another application on the same Serve instance, and a Tidegate that is not the service's."""
    [gate] = ours["applications"]
    args = {**gate["args"], "learner": {**gate["args"]["learner"], "log": {"url": "memory"}}}
    second = {**gate, "name": "second", "route_prefix": "/second", "args": args}
    path = folder / "theirs.yaml"
    path.write_text(yaml.safe_dump({**ours, "applications": [THEIRS, second]}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.foreign_app", head.address, path],
        cwd=ROOT,
        env={**os.environ, **head.environment},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr


def test_a_service_joins_a_cluster_and_status_shows_where_everything_runs(cluster: Cluster) -> None:
    state = cluster.service.state()
    [node] = state["nodes"]
    assert (node["is_head"], node["resources"]["CPU"]) == (True, 4.0)
    assert [replica["node"] for replica in state["replicas"]] == [{key: node[key] for key in ("id", "ip", "hostname")}]
    assert state["learner"]["node"] == state["replicas"][0]["node"]
    shown = tidegate("status", "--url", cluster.service.url).stdout
    assert "head, learner, 1 replica" in " ".join(shown.replace("│", " ").split())
    assert cluster.others_are_as_they_were()


def test_a_service_whose_name_is_taken_is_refused_and_what_has_the_name_stays(cluster: Cluster, tmp_path: Path) -> None:
    config = yaml.safe_load(cluster.service.config_path.read_text(encoding="utf-8"))
    config["applications"][0].update(name="second", route_prefix="/third")
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    before = cluster.pids("LearnerActor", "ServeReplica")
    refused = cluster.tidegate("serve", "--config", str(path))
    assert refused.returncode == 1
    assert "an application 'second' runs on that cluster already" in refused.stderr
    assert cluster.pids("LearnerActor", "ServeReplica") == before
    assert cluster.service.http.get("/second/readyz").status_code == 200


class Joiner:
    """A process that deploys and removes applications when it is told; see `joiner`."""

    def __init__(self, head: RayHead, config_path: Path, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.joiner", head.address, config_path, str(count)],
            cwd=ROOT,
            env={**os.environ, **head.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.names = self.answer()

    def tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def answer(self) -> set[str]:
        assert self._process.stdout is not None
        return next(set(line.split()[1:]) for line in self._process.stdout if line.startswith(TOLD))

    def end(self) -> None:
        self._process.communicate()


def test_of_two_that_deploy_at_the_same_instant_none_deletes_what_the_other_has_added(
    cluster: Cluster, tmp_path: Path
) -> None:
    ours = yaml.safe_load(cluster.service.config_path.read_text(encoding="utf-8"))
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump({**ours, "applications": [THEIRS]}), encoding="utf-8")
    with ExitStack() as ending:
        joiners = [Joiner(cluster.head, path, count=3) for _ in range(2)]
        for joiner in joiners:
            ending.callback(joiner.end)

        def both(what: str) -> set[str]:
            """What is deployed after both were told the same at once."""
            for joiner in joiners:
                joiner.tell(what)
            return set.union(*(joiner.answer() for joiner in joiners))

        both("deploy")
        assert both("deployed") == {"tides", "second", "gate"} | joiners[0].names | joiners[1].names
        both("remove")
        assert both("deployed") == {"tides", "second", "gate"}
    assert cluster.others_are_as_they_were()


def test_two_services_that_join_at_once_are_both_served_and_go_at_once(cluster: Cluster, tmp_path: Path) -> None:
    services = []
    for name in ("left", "right"):
        config = yaml.safe_load(cluster.service.config_path.read_text(encoding="utf-8"))
        [app] = config["applications"]
        app.update(name=name, route_prefix=f"/{name}")
        app["args"]["learner"]["log"] = {"url": "memory"}
        folder = tmp_path / name
        folder.mkdir()
        services.append(Service(config, folder))
    for service in services:
        service.launch("--address", cluster.head.address, **cluster.head.environment)
    for service in services:
        service.wait_until_up(f"/{service.config_path.parent.name}")
    for service in services:
        service.process.send_signal(signal.SIGINT)
    assert [service.wait() for service in services] == [0, 0], [service.log for service in services]
    assert len(cluster.head.processes("LearnerActor")) == 2
    assert cluster.service.http.get("/readyz").status_code == 200
    assert cluster.others_are_as_they_were()


def test_scoring_and_learning_go_on_while_the_control_store_is_away_and_its_tables_come_back(cluster: Cluster) -> None:
    head, service, load = cluster.head, cluster.service, cluster.load
    names = ("ServeController", "ServeReplica", "LearnerActor", "HAProxyManager", "haproxy", "raylet")
    load.start()
    try:
        wait_for(lambda: load.acknowledged >= MEANWHILE)
        before, pids = service.state(), cluster.pids(*names)
        head.kill_gcs()
        acknowledged = load.acknowledged
        wait_for(lambda: load.acknowledged >= acknowledged + MEANWHILE)
        meanwhile = wait_for(lambda: (state := service.state())["nodes_age_s"] > 3 and state)
        assert head.processes("gcs_server") == []
        assert meanwhile["learner"]["version"] > before["learner"]["version"]
        assert meanwhile["learner"]["epoch"] == before["learner"]["epoch"]
        assert (meanwhile["degraded"], meanwhile["nodes"]) == (False, before["nodes"])
        head.start_gcs()
        wait_for(lambda: service.state()["nodes_age_s"] < 2)
        # No answer was anything but a 200, and no process is another than it was.
        assert not [name for name in load.books.counts if name.startswith(("status_", "transport_"))]
        assert cluster.pids(*names) == pids
        assert cluster.others_are_as_they_were()
        # The new control store has read from Redis that it must bring this one back.
        kill(cluster.learner_pid())
        wait_for(lambda: service.state()["learner"].get("epoch") == before["learner"]["epoch"] + 1)
        acknowledged = load.acknowledged
        wait_for(lambda: load.acknowledged >= acknowledged + MEANWHILE)
    finally:
        load.stop()


def test_ctrl_c_takes_away_what_the_service_made_and_nothing_else(cluster: Cluster) -> None:
    assert len(cluster.head.processes("LearnerActor")) == 2
    serve = psutil.Process(cluster.service.process.pid)
    assert cluster.service.stop() == 0, cluster.service.log
    assert not serve.is_running()
    cluster.service.reconnect()
    assert len(cluster.head.processes("LearnerActor")) == 1
    assert cluster.service.http.get("/readyz").status_code == 404
    assert cluster.service.http.get("/second/readyz").status_code == 200
    assert cluster.others_are_as_they_were()
    log = read_sql_log(f"sqlite:///{database(cluster.service)}")
    try:
        expected = Expected("gate", log.id, settings_of(LearnerConfig().rule), log.fingerprint, log.dim)
        checkpoints = CheckpointStore(str(database(cluster.service).parent / "checkpoints"), keep=99)
        assert_nothing_lost(cluster.load.books, log, checkpoints, expected)
    finally:
        log.close()


def test_down_takes_tidegate_off_the_cluster_and_nothing_else(cluster: Cluster) -> None:
    # One that restarts brings back what Serve has kept of it: the service, were it still in there.
    [controller] = cluster.head.processes("ServeController")
    kill(controller.pid)
    done = cluster.tidegate("down")
    assert done.stdout.strip() == "removed second", done.stderr
    assert cluster.pids("LearnerActor") == {"LearnerActor": []}
    assert cluster.service.http.get("/second/readyz").status_code == 404
    assert cluster.others_are_as_they_were()
    assert len(cluster.head.processes("gcs_server")) == 1
