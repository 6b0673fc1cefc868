"""A TCP proxy in front of PostgreSQL that can cut a connection in the middle of a commit."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Literal


class CuttingProxy:
    """Forwards to a port of 127.0.0.1, and cuts connections when told to."""

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._next_cut: Literal["before", "after"] | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_next_commit(self, when: Literal["before", "after"]) -> None:
        """Drop the connection of the next COMMIT: `before` the server gets it, or `after`, before its answer is out."""
        self._next_cut = when

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def take_cut(self, data: bytes) -> Literal["before", "after"] | None:
        """How to cut a connection on which the client has sent this."""
        if self._next_cut is None or b"COMMIT" not in data:
            return None
        cut, self._next_cut = self._next_cut, None
        self.cuts += 1
        return cut

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                _Connection(self, client, server)


class _Connection:
    """One client's connection, and its counterpart to the server."""

    def __init__(self, proxy: CuttingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._answer_is_lost = False
        for forward, source in ((self._to_server, client), (self._to_client, server)):
            threading.Thread(target=self._until_closed, args=(forward, source), daemon=True).start()

    def _until_closed(self, forward: Callable[[], None], source: socket.socket) -> None:
        with contextlib.suppress(OSError):
            forward()
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def _to_server(self) -> None:
        while data := self._client.recv(65536):
            cut = self._proxy.take_cut(data)
            if cut == "before":
                return
            self._answer_is_lost = cut == "after"
            self._server.sendall(data)
            if self._answer_is_lost:
                # Until the server has answered; then it has committed.
                self._client.recv(1)

    def _to_client(self) -> None:
        while data := self._server.recv(65536):
            if self._answer_is_lost:
                return
            self._client.sendall(data)
