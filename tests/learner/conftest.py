"""Logs in every place that a log can be in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learner.event_log import EventLog
from learner.memory_log import MemoryEventLog
from learner.sql import SqlEventLog

from .logs import open_log

DATABASES = ("sqlite", "postgresql")


def _new_url(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{folder}/log/events.db"
    return request.getfixturevalue("postgres_server").create_schema()


@pytest.fixture(params=DATABASES)
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where there is no log yet."""
    return _new_url(request, tmp_path)


@pytest.fixture
def opened() -> Iterator[Callable[..., SqlEventLog]]:
    """Opens logs as `open_log` does, and closes them."""
    logs: list[SqlEventLog] = []

    def open_one(url: str, **settings: object) -> SqlEventLog:
        logs.append(open_log(url, **settings))
        return logs[-1]

    yield open_one
    for log in logs:
        log.close()


@pytest.fixture(params=("memory", *DATABASES))
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    """An empty log of each kind."""
    if request.param == "memory":
        yield MemoryEventLog(started_at_ms=1_000)
        return
    log = open_log(_new_url(request, tmp_path))
    yield log
    log.close()
