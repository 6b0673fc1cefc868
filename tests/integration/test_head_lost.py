"""The head node is lost with everything on it, and comes again: replicas and learner, on another node, go on meanwhile.

Its tables are in Redis and the log in PostgreSQL. Only the proxy is on the head, as what else a cluster's head has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from ray.util import get_node_ip_address

from deployments.ports import REPLICA_PORTS
from learner.checkpoint import CheckpointStore, Expected
from learner.config import LearnerConfig, settings_of
from learner.sql import read_sql_log
from tests.chaos.load import Load
from tests.chaos.verdict import assert_nothing_lost
from tests.ports import free_port
from tests.postgres import PostgresServer, postgres_server
from tests.redis_server import running_redis

from .books import tidegate
from .ray_head import RayHead
from .service import Service, kill, serve_config, wait_for, write_roster

__all__ = ["postgres_server"]

pytestmark = pytest.mark.long

ON_THE_WORKER = ("ServeReplica", "LearnerActor", "raylet")


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database("head_lost")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "checkpoints"


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with running_redis() as redis_address:
        head = RayHead(redis_address, num_cpus=0, ip=get_node_ip_address())
        try:
            head.start()
            head.add_worker(2)
            yield head
        finally:
            head.remove()


@pytest.fixture(scope="module")
def service(
    head: RayHead, database: str, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    write_roster(folder / "roster.yaml", [f"expert-{uid}" for uid in range(16)])
    learner = {"heartbeat_s": 0.2, "log": {"url": database}, "checkpoints": {"url": str(checkpoints), "keep": 99}}
    replica = {"num_replicas": 1, "num_cpus": 0.5, "learner_num_cpus": 0.5}
    config = serve_config(free_port(), folder / "roster.yaml", learner=learner, replica=replica)
    # All nodes are on this machine, whose port one proxy has.
    service = Service({**config, "proxy_location": "HeadOnly"}, folder)
    try:
        service.join(head.address, head.environment)
        yield service
    finally:
        service.end()


def pids(head: RayHead) -> dict[str, list[int]]:
    return {name: sorted(process.pid for process in head.processes(name, node="worker")) for name in ON_THE_WORKER}


def behind_the_proxy(head: RayHead, service: Service) -> Service:
    """The same service as its only replica answers for it, at its own address."""
    [replica] = head.processes("ServeReplica", node="worker")
    [port] = {
        connection.laddr.port
        for connection in psutil.Process(replica.pid).net_connections("tcp4")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port in REPLICA_PORTS
    }
    folder = service.config_path.parent / "replica"
    folder.mkdir()
    return Service({"http_options": {"port": port}}, folder)


def test_a_lost_head_keeps_nobody_from_scoring_and_learning_and_another_one_takes_its_place(
    head: RayHead, service: Service, database: str, checkpoints: Path
) -> None:
    replica, before, load = behind_the_proxy(head, service), pids(head), Load(service.url)
    direct = Load(replica.url, seed=1, books=load.books)
    assert [len(found) for found in before.values()] == [1, 1, 1]
    load.start()
    try:
        wait_for(lambda: load.acknowledged >= 50)
        version = wait_for(lambda: (state := replica.state())["nodes"] and state["learner"]["version"])
        service.process.kill()
        head.kill()
        service.wait()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{service.url}/readyz")
        direct.start()
        try:
            acknowledged = load.acknowledged
            wait_for(lambda: load.acknowledged >= acknowledged + 50)
            state = wait_for(lambda: (state := replica.state())["nodes_age_s"] > 3 and state)
        finally:
            direct.stop()
        assert state["learner"]["version"] > version
        assert (state["degraded"], state["learner"]["epoch"]) == (False, 1)
        head.start()
        acknowledged = load.acknowledged
        wait_for(lambda: load.acknowledged >= acknowledged + 50, timeout_s=120)
        assert pids(head) == before
        # The new head brings back what dies.
        kill(before["LearnerActor"][0])
        wait_for(lambda: replica.state()["learner"].get("epoch") == 2)
        acknowledged = load.acknowledged
        wait_for(lambda: load.acknowledged >= acknowledged + 50)
    finally:
        load.stop()
        replica.http.close()
    down = tidegate("down", "--address", head.address, timeout_s=150, **head.environment)
    assert down.stdout.strip() == "removed gate", down.stderr
    log = read_sql_log(database)
    try:
        expected = Expected("gate", log.id, settings_of(LearnerConfig().rule), log.fingerprint, log.dim)
        assert_nothing_lost(load.books, log, CheckpointStore(str(checkpoints), keep=99), expected)
    finally:
        log.close()
