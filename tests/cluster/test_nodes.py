"""One application over nodes that fail, come and are drained, one after the other, with load all the time.

The nodes' numbers of CPUs say what fits: a replica takes 0.6 and the learner 0.4, so one of each fills one CPU, and
`max_replicas_per_node` keeps a third replica off two. What a client knows of its own reports is compared with the log
at the end.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.client import GateClient
from learner.checkpoint import CheckpointStore, Expected
from learner.config import LearnerConfig, settings_of
from learner.sql import read_sql_log
from tests.chaos.books import Books
from tests.chaos.verdict import assert_nothing_lost
from tests.integration.service import serve_config, write_roster
from tests.integration.service import wait_for as wait_for_s
from tests.ports import free_port
from tests.postgres import PostgresServer

from .callers import Caller
from .conftest import PATIENCE_S, ClusterService
from .local_cluster import LocalCluster, Located

N = 600
"""Enough that the weights, 0.9 MB, are the largest thing by far in any object store."""
WEIGHTS_BYTES = N * 384 * 4
VERSIONS = 5
SETTINGS: dict[str, Any] = {
    "serving": {"max_age_s": 1.0, "wait_timeout_s": 5.0},
    "replica": {
        "num_replicas": 3,
        "num_cpus": 0.6,
        "max_replicas_per_node": 2,
        "learner_num_cpus": 0.4,
        "learner_node_labels": {"tidegate/role": "learner"},
    },
}

wait_for = partial(wait_for_s, timeout_s=PATIENCE_S)


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database("cluster")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for a shared folder: all nodes are on this machine."""
    return tmp_path_factory.mktemp("shared") / "checkpoints"


@pytest.fixture(scope="module")
def nodes(cluster: LocalCluster) -> dict[str, str]:
    """The nodes by the names that the tests give them."""
    return {"first": cluster.add_node(1, role="learner"), "second": cluster.add_node(2)}


@pytest.fixture(scope="module")
def service(
    cluster: LocalCluster,
    nodes: dict[str, str],
    database: str,
    checkpoints: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ClusterService]:
    folder = tmp_path_factory.mktemp("service")
    write_roster(folder / "roster.yaml", [f"expert-{uid}" for uid in range(N)])
    learner = {
        "heartbeat_s": 0.2,
        "log": {"url": database},
        "checkpoints": {"url": str(checkpoints), "interval_s": 5.0, "keep": 3},
    }
    config = serve_config(free_port(), folder / "roster.yaml", learner=learner, **SETTINGS)
    service = ClusterService(config, folder, cluster)
    service.start()
    yield service
    if service.process.poll() is None:
        service.stop()


@pytest.fixture(scope="module")
def books() -> Books:
    return Books()


@pytest.fixture(scope="module")
def reporter(service: ClusterService, books: Books) -> Iterator[Caller]:
    """Reports until it is acknowledged, from the first failure to the last."""
    with GateClient(service.url, retries=200, timeout_s=PATIENCE_S) as client:
        caller = Caller(client, books, name="reporter", reports=True)
        yield caller
        caller.stop()


@pytest.fixture
def asking(service: ClusterService, books: Books) -> Callable[..., Any]:
    """Another client beside it, which must not fail once while the body runs."""

    @contextmanager
    def ask(name: str, *, reports: bool = False, **patience: float) -> Iterator[Caller]:
        with GateClient(service.url, **patience) as client:
            caller = Caller(client, books, name=name, reports=reports)
            caller.start()
            try:
                go_on(caller)
                yield caller
                go_on(caller)
            finally:
                caller.stop()
        assert caller.failures == []
        longest = ", ".join(f"{what} {max(took_s):.2f} s" for what, took_s in caller.took_s.items())
        print(f"\n{name}: {caller.answers} answers; the longest {longest}")  # noqa: T201

    return ask


def replicas(service: ClusterService) -> Counter[str]:
    """How many replicas each node has."""
    return Counter(actor.node_id for actor in service.cluster.actors("ServeReplica"))


def the_learner(service: ClusterService) -> Located | None:
    """Where the learner is; None while it is nowhere."""
    found = service.cluster.actors("LearnerActor")
    return found[0] if found else None


def polling(service: ClusterService) -> list[dict[str, Any]]:
    """The replicas that have polled the learner lately; none while it is away."""
    return list(service.state().get("replicas", []))


def wait_for_replicas(service: ClusterService, expected: dict[str, int]) -> None:
    """Wait until replicas are where they are expected, follow the learner and answer."""
    wait_for(lambda: replicas(service) == expected or None)
    wait_for(lambda: len(polling(service)) == sum(expected.values()) or None)
    wait_for(lambda: len(reached(service)) == sum(expected.values()) or None)


def reached(service: ClusterService) -> set[str]:
    """The replicas that the proxy leads to, by what they put in front of a decision's id."""
    answers = [
        httpx.post(f"{service.url}/v1/select", json={"messages": ["who"], "k": 1}, timeout=30) for _ in range(12)
    ]
    return {a.json()["selections"][0]["decision_id"].partition("-")[0] for a in answers if a.is_success}


def go_on(caller: Caller) -> None:
    """Wait until more calls have been answered."""
    before = caller.answers
    wait_for(lambda: caller.answers > before + 10 or None)


def said(what: str, since_s: float) -> None:
    print(f"\n{what} after {time.monotonic() - since_s:.1f} s")  # noqa: T201 (docs/cluster.md has such figures)


def test_the_learner_is_on_a_node_with_its_labels_and_replicas_are_spread(
    service: ClusterService, nodes: dict[str, str]
) -> None:
    learner = the_learner(service)
    assert learner is not None
    assert learner.node_id == nodes["first"]
    wait_for_replicas(service, {nodes["first"]: 1, nodes["second"]: 2})


def test_a_version_of_the_weights_reaches_a_node_once_however_many_replicas_it_has(
    service: ClusterService, nodes: dict[str, str], reporter: Caller
) -> None:
    everywhere = {service.cluster.head_id, *nodes.values()}
    before = {node: service.cluster.stored(node) for node in everywhere}
    for _ in range(VERSIONS):
        report = reporter.turn(durable=True, wait="published")
        assert report.reached
        wait_for(lambda version=report.version: {status["version"] for status in polling(service)} == {version})
    after = {node: service.cluster.stored(node) for node in everywhere}
    taken = {node: after[node].objects - before[node].objects for node in everywhere}
    # One that the learner put, and one that two replicas share; nothing where there is neither.
    assert taken == {nodes["first"]: VERSIONS, nodes["second"]: VERSIONS, service.cluster.head_id: 0}
    for node in nodes.values():
        assert WEIGHTS_BYTES <= (after[node].bytes - before[node].bytes) / VERSIONS < 1.1 * WEIGHTS_BYTES


def test_no_call_fails_for_a_killed_node(
    service: ClusterService, nodes: dict[str, str], reporter: Caller, asking: Callable[..., Any]
) -> None:
    reporter.start()
    with asking("a node is killed"):
        killed_s = time.monotonic()
        service.cluster.kill_node(nodes["second"])
        wait_for(lambda: nodes["second"] not in service.cluster.alive())
        said("Ray has found the node dead", killed_s)
        wait_for(lambda: replicas(service) == {nodes["first"]: 1} or None)
    go_on(reporter)


def test_replicas_that_did_not_fit_start_on_a_node_that_is_added_under_load(
    service: ClusterService, nodes: dict[str, str], asking: Callable[..., Any]
) -> None:
    with asking("a node is added"):
        added_s = time.monotonic()
        nodes["third"] = service.cluster.add_node(2)
        wait_for_replicas(service, {nodes["first"]: 1, nodes["third"]: 2})
        said("replicas on the new node answer", added_s)


def test_no_request_fails_while_a_node_is_drained(
    service: ClusterService, nodes: dict[str, str], reporter: Caller, asking: Callable[..., Any]
) -> None:
    nodes["fourth"] = service.cluster.add_node(2)
    # Not one retry: whoever drains a node has the time to do it right.
    with asking("a node is drained", reports=True, retries=0):
        drained_s = time.monotonic()
        service.cluster.drain_node(nodes["third"])
        wait_for_replicas(service, {nodes["first"]: 1, nodes["fourth"]: 2})
        said("the node has no replicas any more", drained_s)
        wait_for(lambda: nodes["third"] not in service.cluster.alive())
        said("the drained node has left", drained_s)
    service.cluster.forget_node(nodes["third"])
    go_on(reporter)


def test_the_learner_of_a_killed_node_goes_on_elsewhere(
    service: ClusterService, nodes: dict[str, str], reporter: Caller, asking: Callable[..., Any]
) -> None:
    nodes["fifth"] = service.cluster.add_node(1)
    before, epoch = the_learner(service), service.state()["learner"]["epoch"]
    assert before is not None
    assert before.node_id == nodes["first"]
    with asking("the learner's node is killed"):
        killed_s = time.monotonic()
        service.cluster.kill_node(nodes["first"])
        wait_for(lambda: nodes["first"] not in service.cluster.alive())
        said("Ray has found the node dead", killed_s)
        wait_for(lambda: service.state()["learner"].get("epoch") == epoch + 1)
        go_on(reporter)
        said("rewards are acknowledged again", killed_s)
        wait_for_replicas(service, {nodes["fourth"]: 2, nodes["fifth"]: 1})
        said("all replicas answer", killed_s)
    after = the_learner(service)
    assert after is not None
    assert after.node_id in (nodes["fourth"], nodes["fifth"])
    assert (after.id, after.restarts) == (before.id, before.restarts + 1)


def test_nothing_that_was_acknowledged_is_lost(
    service: ClusterService,
    reporter: Caller,
    books: Books,
    database: str,
    checkpoints: Path,
    postgres_server: PostgresServer,
) -> None:
    reporter.stop()
    assert reporter.failures == []
    assert service.stop() == 0, service.log
    assert service.cluster.actors("LearnerActor") == service.cluster.actors("ServeReplica") == []
    assert postgres_server.execute("SELECT epoch FROM writer", "cluster") == [(2,)]
    log = read_sql_log(database)
    try:
        expected = Expected("gate", log.id, settings_of(LearnerConfig().rule), log.fingerprint, log.dim)
        assert_nothing_lost(books, log, CheckpointStore(str(checkpoints), keep=3), expected)
    finally:
        log.close()
    print(f"\n{len(books.acknowledged)} rewards acknowledged, {dict(books.counts)}")  # noqa: T201
