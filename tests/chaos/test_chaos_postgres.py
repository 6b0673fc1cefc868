"""A service on a real PostgreSQL under load: the server restarts and dies, commits are cut, and processes killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.integration.service import Service, wait_for
from tests.postgres import PostgresServer

from .conftest import ROUNDS, N, chaos, settings
from .tcp_proxy import CuttingProxy

NAMES = [f"expert-{uid}" for uid in range(N)]


def test_nothing_is_lost_when_the_database_or_the_service_s_processes_die_or_lose_each_other_in_a_commit(
    start_service: Callable[..., Service], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    direct = postgres_server.create_database("chaos")
    proxy = CuttingProxy(postgres_server.port)
    url = direct.replace(f":{postgres_server.port}/", f":{proxy.port}/")
    service = start_service(NAMES, **settings(log={"url": url}))
    checkpoints = service.config_path.parent / "tidegate-data" / "gate" / "checkpoints"
    try:
        with chaos(service, direct, checkpoints) as faults:
            for _ in range(ROUNDS):
                for when in ("before", "after", "after"):
                    cuts = proxy.cuts
                    proxy.cut_next_commit(when)
                    wait_for(lambda cuts=cuts: proxy.cuts > cuts or None)
                    faults.wait_for_progress()
                    faults.done.append(f"connection cut {when} a commit")
                postgres_server.stop("fast")
                postgres_server.start()
                faults.wait_for_progress()
                faults.done.append("database restarted")
                postgres_server.kill()
                wait_for(lambda: service.state()["learner"].get("log_error"))
                postgres_server.start()
                faults.wait_for_progress()
                faults.done.append("database killed")
                faults.kill_learner()
                faults.kill_controller()
                faults.kill_proxy()
    finally:
        proxy.close()
