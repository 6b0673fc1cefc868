from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import free_port

from .service import ROOT, Service, serve_config, wait_for, write_roster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


def _services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def start(names: list[str], **args: dict[str, Any]) -> Service:
        folder = tmp_path_factory.mktemp("service")
        roster = folder / "roster.yaml"
        write_roster(roster, names)
        service = Service(serve_config(free_port(), roster, **args), folder)
        started.append(service)
        service.start()
        return service

    yield start
    for service in started:
        service.end()


@pytest.fixture(scope="module")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Starts services, and ends those that still run when the module is done."""
    yield from _services(tmp_path_factory)


@pytest.fixture(scope="session")
def default_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The repository's own config on another port. test_engine asks it, then test_readme, which ends it."""
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    config["http_options"]["port"] = free_port()
    service = Service(config, tmp_path_factory.mktemp("default"))
    service.start()
    yield service
    service.end()


@pytest.fixture(scope="session")
def durable_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two replicas, a log and checkpoints. test_deaths kills its parts, then test_durability stops and restarts it."""
    services = _services(tmp_path_factory)
    service = next(services)(
        [f"expert-{uid}" for uid in range(16)],
        learner={
            "rule": {"name": "adagrad"},
            "shadow": [{"name": "pooled_ridge", "label": "other"}],
            "compare_interval_s": 0.2,
            "heartbeat_s": 0.2,
            "log": {"lease_s": 2.0},
            "checkpoints": {"interval_s": 600.0, "keep": 3},
        },
        serving={"max_age_s": 0.5, "wait_timeout_s": 5.0},
        replica={"num_replicas": 2, "num_cpus": 0.5},
    )
    wait_for(lambda: len(service.replica_urls()) == 2)
    yield service
    next(services, None)
