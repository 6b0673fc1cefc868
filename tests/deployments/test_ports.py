from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployments import ports
from deployments.ports import PortClaims, is_free
from tests.ports import free_port

from .test_local import listening

IN_TURN = """
import sys
from deployments.ports import PortClaims
claims = PortClaims()
print(claims.take_port(int(sys.argv[1])), *claims.take_range(), flush=True)
sys.stdin.read()
"""
"""A process that is where two services are that start in the same second: the ports are chosen, none is bound."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no two processes can bind a port")


@pytest.fixture
def claims() -> Iterator[PortClaims]:
    with PortClaims() as claims:
        yield claims


@pytest.fixture
def others() -> Iterator[PortClaims]:
    """Another process's, as far as the kernel is concerned."""
    with PortClaims() as claims:
        yield claims


@linux_only
def test_services_that_start_at_once_choose_different_ports() -> None:
    wanted = free_port()
    command = [sys.executable, "-c", IN_TURN, str(wanted)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=".") for _ in range(3)
    ]
    try:
        with ThreadPoolExecutor() as pool:
            chosen = list(pool.map(lambda process: process.stdout.readline().split(), started))  # type: ignore[union-attr]
    finally:
        for process in started:
            process.communicate("")
    assert len({stats for stats, _, _ in chosen}) == 3
    assert min(int(stats) for stats, _, _ in chosen) == wanted
    assert len({first for _, first, _ in chosen}) == 3
    with PortClaims() as later:
        # What they had ended with them.
        assert later.take(wanted)


@linux_only
def test_a_claim_holds_until_it_is_given_up(claims: PortClaims, others: PortClaims) -> None:
    port = free_port()
    assert claims.take(port)
    assert claims.take(port)
    assert not others.take(port)
    claims.close()
    assert others.take(port)


def test_a_port_where_something_listens_is_passed_over_and_not_claimed(claims: PortClaims, others: PortClaims) -> None:
    with listening("0.0.0.0") as taken:
        assert claims.take_port(taken) > taken
        assert others.take(taken)
        others.close()
    assert claims.take_port(taken) == taken


def test_each_service_has_ports_of_its_own_for_its_replicas(
    claims: PortClaims, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: set[int] = set()
    monkeypatch.setattr(ports, "is_free", lambda _host, port: port not in taken)
    # Services that run on this machine have claims too.
    monkeypatch.setattr(ports.sys, "platform", "elsewhere")
    found = set()
    for _ in range(27):
        first, last = claims.take_range()
        assert last - first == 99
        found.add(first)
        taken.add(last)
    assert found == set(range(30_000, 32_700, 100))
    assert claims.take_range() == (30_000, 32_699)


@linux_only
def test_a_range_that_another_has_claimed_is_not_chosen_although_nothing_listens_there(
    claims: PortClaims, others: PortClaims
) -> None:
    first, _ = others.take_range()
    assert is_free("0.0.0.0", first)
    assert claims.take_range()[0] != first
