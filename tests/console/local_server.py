"""The real routes of a replica without Ray, where a browser can reach them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from tests.deployments.local_service import LocalService
from tests.ports import free_port


class LocalServer:
    """A service in a thread of its own.

    Attributes:
        url: the page's.
        service: to be touched only where that is safe from another thread.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/"
        self.service: LocalService
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="local-server", daemon=True)

    def start(self) -> None:
        """Start; returns when it listens."""
        self._thread.start()
        assert self._up.wait(30), "the server did not start"

    def stop(self) -> None:
        """End; returns when that is done."""
        self._server.should_exit = True
        self._thread.join()

    async def _run(self) -> None:
        self.service = LocalService(**self._settings)
        await self.service.subscriber.poll_once()
        config = uvicorn.Config(self.service.api, port=self._port, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:  # noqa: ASYNC110 (uvicorn tells in no other way)
            await asyncio.sleep(0.01)
        self._up.set()
        await serving
        await self.service.close()


@contextmanager
def local_server(**settings: Any) -> Iterator[LocalServer]:
    """A service that runs until it is stopped, at the latest at the end."""
    server = LocalServer(**settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
