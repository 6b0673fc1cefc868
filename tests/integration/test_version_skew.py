"""A replica that the learner cannot be reached from stays behind the others, and TidegateVersionSkew fires."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from tests.alerts import hastened_rules

from .alerting import TELLS_EACH_SECOND, meanwhile, prometheus_beside
from .prometheus import Prometheus
from .service import Service, wait_for

pytestmark = pytest.mark.long

TIMES = 50
"""By so much faster than this, and a window would have too few of the values that are scraped once a second."""
PIDFD_GETFD = 438
SO_ATTACH_FILTER, SO_DETACH_FILTER, BPF_RETURN = 26, 27, 0x06
_LIBC = ctypes.CDLL(None)


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service]) -> Service:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*TELLS_EACH_SECOND)
        service = start_service(
            [f"expert-{uid}" for uid in range(4)],
            learner={"heartbeat_s": 0.5},
            replica={"num_replicas": 2, "num_cpus": 0.5},
        )
    wait_for(lambda: len(service.replicas()) == 2)
    return service


@pytest.fixture(scope="module")
def prometheus(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    yield from prometheus_beside(service, tmp_path_factory.mktemp("prometheus"), hastened_rules(TIMES))


def connections(pid: int, peer: int) -> Iterator[socket.socket]:
    """Copies of the sockets by which a process is connected to what another one listens on."""
    listening = {one.laddr.port for one in _tcp(peer) if one.status == psutil.CONN_LISTEN}
    process = os.pidfd_open(pid)
    try:
        for one in _tcp(pid):
            if one.raddr and one.raddr.port in listening:
                copy = _LIBC.syscall(PIDFD_GETFD, process, one.fd, 0)
                if copy >= 0:
                    with socket.socket(fileno=copy) as connection:
                        yield connection
    finally:
        os.close(process)


def _tcp(pid: int) -> list[Any]:
    return psutil.Process(pid).net_connections("tcp")


@contextmanager
def cut_off(pid: int, peer: int) -> Iterator[None]:
    """The one process hears nothing of the other: whatever comes is dropped before it gets there, as by a firewall."""
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(nothing))

    def cut() -> None:
        for connection in connections(pid, peer):
            connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    assert list(connections(pid, peer)), "they are not connected"
    with meanwhile(cut, every_s=0.01):
        yield
    for connection in connections(pid, peer):
        connection.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def teach(replica: httpx.Client) -> None:
    """One decision and its rewards, by way of this replica: a newer version."""
    [made] = replica.post("/v1/select", json={"messages": ["why?"], "k": 2}).raise_for_status().json()["selections"]
    report = {"decision_id": made["decision_id"], "uids": made["uids"], "rewards": [0.5, 0.5]}
    replica.post("/v1/rewards", json={"rewards": [report]}).raise_for_status()


def test_a_replica_that_is_cut_off_from_the_learner_is_told_of(service: Service, prometheus: Prometheus) -> None:
    (behind, url_behind), (_, url) = service.replicas().items()
    with httpx.Client(base_url=url, timeout=30.0) as replica, meanwhile(lambda: teach(replica)):
        wait_for(lambda: len(prometheus.query("ray_tidegate_weights_version > 0")) == 2, every_s=0.2)
        assert "TidegateVersionSkew" not in prometheus.firing()
        with cut_off(behind, service.learner_pid()):
            prometheus.wait_until_firing("TidegateVersionSkew", "TidegateWeightsStale")
            answer = httpx.post(f"{url_behind}/v1/score", json={"messages": ["why?"], "top_k": 1}).raise_for_status()
            assert answer.json()["degraded"]
        prometheus.wait_until_quiet("TidegateVersionSkew", "TidegateWeightsStale")
