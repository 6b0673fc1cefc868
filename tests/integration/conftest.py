from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

from .service import Service, serve_config, write_roster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="module")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Starts services, and ends those that still run when the module is done."""
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
