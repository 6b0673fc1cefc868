"""Steady mixed load for minutes on a cluster of three nodes, while processes are killed and experts change hands.

`make soak MINUTES=10`. What was killed, how long calls took, and how memory and open files grew is printed, and kept in
benchmarks/results/soak.json. What fills up by design is filled first (`fill`), and the allocator has few arenas
(`deployments.local.ray_environment`), so that what is left of growth is a leak.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import write_result
from deployments.client import GateClient
from learner.checkpoint import CheckpointStore, Expected
from learner.config import LearnerConfig, settings_of
from learner.sql import read_sql_log
from tests.chaos.books import Books
from tests.chaos.verdict import assert_nothing_lost
from tests.cluster.callers import Caller
from tests.cluster.conftest import PATIENCE_S, ClusterService, cluster
from tests.cluster.local_cluster import LocalCluster
from tests.integration.service import kill, serve_config, wait_for, write_roster
from tests.ports import free_port
from tests.postgres import PostgresServer

from .fill import fill
from .watch import Life, Watch

__all__ = ["cluster"]

pytestmark = [pytest.mark.integration, pytest.mark.long]

N = 256
DURATION_S = float(os.environ.get("TIDEGATE_SOAK_MINUTES", "10")) * 60
PAUSE_S = 15.0
LEARNERS_DIE_FOR = 0.3
"""Of the time; none that had to fill up again could be held to grow no more."""
MIN_WATCHED_S = 90.0
"""Only of processes that were watched so long is it held that they do not grow."""
MAX_MIB_PER_MINUTE = 1.0
MAX_FILES_PER_MINUTE = 1.0

recovered = partial(wait_for, timeout_s=PATIENCE_S)


class Troubles:
    """What happens to the service, drawn at random; each returns once the service is whole again.

    One replica is spared, so that there is one old enough to tell whether it grows.
    """

    def __init__(self, service: ClusterService, roster: Path, database: str) -> None:
        self.service = service
        self.took_s: dict[str, list[float]] = {}
        """What has happened, and for how long something was missing each time."""
        self._roster = roster
        self._database = database
        self._names = [f"expert-{uid}" for uid in range(N)]
        self._chance = random.Random(0)
        self._spared = min(actor.pid for actor in service.cluster.actors("ServeReplica"))

    def next(self, *, learner: bool) -> None:
        kinds: list[tuple[str, Callable[[], None]]] = [
            ("replica killed", self.kill_replica),
            ("haproxy killed", self.kill_proxy),
            ("owner changed", self.change_hands),
            ("owner changed", self.change_hands),
        ]
        if learner:
            kinds.append(("learner killed", self.kill_learner))
        name, cause = self._chance.choice(kinds)
        started_s = time.monotonic()
        cause()
        self.took_s.setdefault(name, []).append(time.monotonic() - started_s)

    def kill_learner(self) -> None:
        [learner] = self.service.cluster.actors("LearnerActor")
        kill(learner.pid)
        recovered(lambda: [a.pid for a in self.service.cluster.actors("LearnerActor")] not in ([], [learner.pid]))
        recovered(lambda: self.service.state()["learner"].get("epoch", 0) > 0)

    def kill_replica(self) -> None:
        pids = {actor.pid for actor in self.service.cluster.actors("ServeReplica")}
        victim = self._chance.choice(sorted(pids - {self._spared}))
        kill(victim)

        def is_replaced() -> bool:
            now = {actor.pid for actor in self.service.cluster.actors("ServeReplica")}
            return victim not in now and len(now) == len(pids) and len(self.service.state()["replicas"]) >= len(pids)

        recovered(is_replaced)

    def kill_proxy(self) -> None:
        before = self._haproxies()
        for pid in before:
            with contextlib.suppress(ProcessLookupError):
                kill(pid)
        recovered(lambda: self._haproxies() - before)
        recovered(lambda: self.service.http.get("/readyz").is_success)

    def change_hands(self) -> None:
        """One expert leaves and another takes its uid."""
        uid = self._chance.randrange(N)
        self._names[uid] = f"newcomer-{len(self.took_s.get('owner changed', []))}"
        write_roster(self._roster, self._names)
        with GateClient(self.service.url, retries=100, timeout_s=PATIENCE_S) as operator:
            assert uid in operator.resync()["reset"]

    def _haproxies(self) -> set[int]:
        mine = str(self.service.port)
        found = set()
        for process in psutil.process_iter(["name", "status"]):
            with contextlib.suppress(psutil.Error):
                if process.info["name"] == "haproxy" and process.info["status"] != psutil.STATUS_ZOMBIE:
                    ports = {str(connection.laddr.port) for connection in process.net_connections("tcp")}
                    found |= {process.pid} if mine in ports else set()
        return found


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database("soak")


@pytest.fixture(scope="module")
def service(cluster: LocalCluster, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterService]:
    for _ in range(2):
        cluster.add_node(2)
    folder = tmp_path_factory.mktemp("service")
    write_roster(folder / "roster.yaml", [f"expert-{uid}" for uid in range(N)])
    learner = {
        "heartbeat_s": 0.5,
        "log": {"url": database},
        "checkpoints": {"url": str(folder / "checkpoints"), "interval_s": 20.0, "keep": 3},
    }
    replica = {"num_replicas": 3, "num_cpus": 0.6, "max_replicas_per_node": 2, "learner_num_cpus": 0.4}
    config = serve_config(free_port(), folder / "roster.yaml", learner=learner, replica=replica)
    service = ClusterService(config, folder, cluster)
    service.start()
    recovered(lambda: len(service.state()["replicas"]) == 3)
    yield service
    if service.process.poll() is None:
        service.stop()


def test_nothing_grows_and_nothing_is_lost(service: ClusterService, database: str) -> None:
    books, folder = Books(), service.config_path.parent
    troubles = Troubles(service, folder / "roster.yaml", database)
    watch = Watch(lambda: processes(service))
    clients = [GateClient(service.url, retries=200, timeout_s=PATIENCE_S) for _ in range(3)]
    callers = [Caller(client, books, name=f"soak-{n}", reports=n != 1) for n, client in enumerate(clients)]
    for caller in callers:
        caller.start()
    watch.start()
    started_s, is_full = time.monotonic(), False
    try:
        while time.monotonic() < started_s + DURATION_S:
            if not is_full and time.monotonic() > started_s + LEARNERS_DIE_FOR * DURATION_S:
                fill(clients[0], books)
                watch.is_full()
                is_full = True
            troubles.next(learner=not is_full)
            # How long it is left in peace is the load itself, and no condition to wait for.
            time.sleep(PAUSE_S)
    finally:
        lives = watch.stop()
        for caller in callers:
            caller.stop()
        for client in clients:
            client.close()
    report(troubles, callers, books, lives)
    assert [failure for caller in callers for failure in caller.failures] == []
    assert service.stop() == 0, service.log
    log = read_sql_log(database)
    try:
        expected = Expected("gate", log.id, settings_of(LearnerConfig().rule), log.fingerprint, log.dim)
        checkpoints = CheckpointStore(str(folder / "checkpoints"), keep=3)
        assert_nothing_lost(books, log, checkpoints, expected, owners_stay=False)
    finally:
        log.close()
    assert grown(lives) == []


def processes(service: ClusterService) -> dict[int, str]:
    """The service's own processes that are to be followed, by pid."""
    kinds = {"ServeReplica": "replica", "LearnerActor": "learner", "SERVE_CONTROLLER": "controller"}
    return {actor.pid: name for title, name in kinds.items() for actor in service.cluster.actors(title)}


def grown(lives: list[Life]) -> list[dict[str, Any]]:
    """Those that lived long enough to tell, and grew."""
    told = [life.describe() for life in lives if life.watched_s >= MIN_WATCHED_S]
    return [
        life
        for life in told
        if float(life["rss_mib_per_minute"]) > MAX_MIB_PER_MINUTE
        or float(life["files_per_minute"]) > MAX_FILES_PER_MINUTE
    ]


def quantiles(took_ms: np.ndarray) -> dict[str, float]:
    return {name: round(float(np.percentile(took_ms, q)), 1) for name, q in (("p50", 50), ("p99", 99), ("max", 100))}


def report(troubles: Troubles, callers: list[Caller], books: Books, lives: list[Life]) -> None:
    """Print and keep what happened."""
    took_ms = {
        what: 1000 * np.concatenate([caller.took_s[what] for caller in callers if what in caller.took_s])
        for what in ("score", "select", "select, durable", "report")
    }
    figures = {
        "minutes": DURATION_S / 60,
        "troubles_s": {name: [round(s, 1) for s in took_s] for name, took_s in sorted(troubles.took_s.items())},
        "calls": {what: len(took) for what, took in took_ms.items()},
        "call_ms": {what: quantiles(took) for what, took in took_ms.items()},
        "rewards_acknowledged": len(books.acknowledged),
        "counts": dict(books.counts),
        "processes": [life.describe() for life in lives if life.watched_s >= MIN_WATCHED_S],
    }
    table = Table(
        "process", "lived, s", "watched, s", "RSS, MiB", "MiB a minute", "files", "files a minute", title="soak"
    )
    for row in figures["processes"]:  # type: ignore[attr-defined]
        table.add_row(*(str(value) for value in row.values()))
    console = Console()
    console.print(table)
    console.print({name: value for name, value in figures.items() if name != "processes"})
    console.print(write_result("soak", figures))
