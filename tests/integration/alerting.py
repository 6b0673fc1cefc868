"""What the tests of alerts have in common: a Prometheus whose rules go faster, and work that goes on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .prometheus import PACKAGE, Prometheus, find_prometheus
from .service import Service

TELLS_EACH_SECOND = ("RAY_metrics_report_interval_ms", "1000")
"""Ray tells every ten seconds by itself, and a gauge of a process that is gone for twenty more."""


def prometheus_beside(service: Service, folder: Path, rules: dict[str, Any]) -> Iterator[Prometheus]:
    """One that scrapes the service, with these rules, for as long as a fixture lives."""
    binary = find_prometheus()
    if binary is None:
        pytest.skip(f"no Prometheus here; on Debian and Ubuntu: apt install {PACKAGE}")
    server = Prometheus(binary, folder, target=service.metrics_url(), rules=rules)
    server.start()
    yield server
    server.stop()


@contextmanager
def meanwhile(work: Callable[[], object], *, every_s: float = 0.05) -> Iterator[None]:
    """Do that again and again in a thread of its own while the body runs."""
    stopping, errors = threading.Event(), []

    def run() -> None:
        try:
            while not stopping.wait(every_s):
                work()
        except Exception as error:  # noqa: BLE001 (told below)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    assert not errors, errors
