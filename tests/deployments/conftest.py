from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from .local_service import LocalService


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    """A test whose future never comes fails, and does not hold up the others for ever."""

    def expire(_number: int, _frame: object) -> None:
        raise TimeoutError("the test has run for too long")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, 60.0, 5.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Awaitable[LocalService]]]:
    """Starts replicas with settings of the test's own; they have the learner's first weights unless told not to."""
    services: list[LocalService] = []

    async def start_one(*, subscribed: bool = True, **settings: Any) -> LocalService:
        service = LocalService(**settings)
        services.append(service)
        if subscribed:
            await service.subscriber.poll_once()
        return service

    yield start_one
    for service in services:
        await service.close()


@pytest.fixture
async def service(start: Callable[..., Awaitable[LocalService]]) -> LocalService:
    """A replica with default settings and the learner's first weights."""
    return await start()
