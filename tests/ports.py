"""Ports for servers that the tests start."""

from __future__ import annotations

import random
import socket

_FIRST, _LAST = 12_000, 29_000
_chance = random.SystemRandom()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on.

    It is none of those that the kernel gives to whoever asks for any: one of them could be gone, to some outgoing
    connection, by the time that the server binds it, or while the server restarts.
    """
    while True:
        port = _chance.randrange(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
