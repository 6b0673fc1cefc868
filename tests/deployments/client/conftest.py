from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deployments.client import AsyncGateClient, GateClient

from .scripted import ScriptedServer

Connect = Callable[..., GateClient]
"""A client of a `ScriptedServer`, with the client's own options."""


class Blocking:
    """An asynchronous client whose methods block, so that one suite is run over both."""

    def __init__(self, client: AsyncGateClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __enter__(self) -> Blocking:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.run(self._client.__aexit__(*exc_info))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))


@pytest.fixture(scope="module", params=["GateClient", "AsyncGateClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of the one kind, then of the other."""
    if request.param == "GateClient":
        yield lambda server, **options: server.client(**options)
        return

    def connect_async(server: ScriptedServer, **options: Any) -> Blocking:
        return Blocking(server.async_client(**options), runner)

    with asyncio.Runner() as runner:
        yield connect_async
