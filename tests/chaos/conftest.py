from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from learner.checkpoint import CheckpointStore, Expected
from learner.config import LearnerConfig, settings_of
from learner.sql import read_sql_log
from tests.integration.conftest import start_service
from tests.integration.service import Service

from .faults import Faults
from .load import Load
from .verdict import assert_nothing_lost

__all__ = ["start_service"]

N = 16
ROUNDS = int(os.environ.get("TIDEGATE_CHAOS_ROUNDS", "1"))
"""How often every fault happens: once in the suite, more often by `make chaos`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


def settings(**learner: Any) -> dict[str, dict[str, Any]]:
    """A service of two replicas whose learner saves often, so that restarts begin at different checkpoints."""
    return {
        "learner": {"heartbeat_s": 0.2, "checkpoints": {"interval_s": 2.0, "keep": 3}, **learner},
        "serving": {"max_age_s": 1.0, "wait_timeout_s": 2.0},
        "replica": {"num_replicas": 2, "num_cpus": 0.5},
    }


@contextmanager
def chaos(service: Service, log_url: str, checkpoints: Path) -> Iterator[Faults]:
    """Load on a service while the body breaks it; afterwards everything is stopped and the books are compared."""
    load = Load(service.url)
    started_s = time.monotonic()
    load.start()
    faults = Faults(service, load)
    try:
        faults.wait_for_progress()
        yield faults
        faults.wait_for_progress()
    finally:
        load.stop()
    lasted_s = time.monotonic() - started_s
    assert service.stop() == 0, service.log
    log = read_sql_log(log_url)
    try:
        expected = Expected("gate", log.id, settings_of(LearnerConfig().rule), log.fingerprint, log.dim)
        assert_nothing_lost(load.books, log, CheckpointStore(str(checkpoints), keep=3), expected)
        counts = ", ".join(f"{name} {count}" for name, count in sorted(load.books.counts.items()))
        print(  # noqa: T201 (what a chaos run is read for)
            f"\nfaults: {'; '.join(faults.done)}\nload: {len(load.books.acknowledged)} rewards acknowledged in "
            f"{lasted_s:.0f} s ({len(load.books.acknowledged) / lasted_s:.0f}/s), {counts}\n"
            f"log: {log.last_seq} events, epoch {max(order[0] for order in load.books.orders.values())}; lost = 0"
        )
    finally:
        log.close()
