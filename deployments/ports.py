"""Ports for a service that is about to start: chosen long before they are bound, and by nobody else meanwhile.

HAProxy binds its ports, some seconds after `tidegate serve` has chosen them, so that others may share them. Of two
services that start in the same second each would see the same port free, and then each would get some of the other's
connections. So a port is claimed first. A claim is an abstract Unix socket, named after the port: the kernel lets one
process have it, whoever runs that, in the network namespace that the port belongs to, and ends it with the process.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from types import TracebackType

REPLICA_PORTS = range(30_000, 32_700)
_PORTS_OF_A_SERVICE = 100
_EVERY_INTERFACE = "0.0.0.0"


class PortClaims:
    """The ports that this process means to have used. They are given up by `close`, or by its end."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        """The claims' file descriptors, by port. They are not inherited by what this process starts."""

    def __enter__(self) -> PortClaims:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _where: TracebackType | None) -> None:
        self.close()

    def take(self, port: int) -> bool:
        """Claim a port; False if another has claimed it. Whether something listens there already is not looked at."""
        if port in self._held:
            return True
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Elsewhere there is no HAProxy: what binds a port has it alone, or fails.
            if sys.platform == "linux":
                claim.bind(f"\0tidegate-port-{port}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._held[port] = claim.detach()
        return True

    def close(self) -> None:
        """Give all of them up."""
        for claim in self._held.values():
            os.close(claim)
        self._held.clear()

    def take_range(self) -> tuple[int, int]:
        """Ports for the replicas and Serve's own proxy behind HAProxy, below those that Linux gives to clients.

        Every service has its own. On the port of a replica that died, the proxy of one service would find the replica
        of another, and hand it requests; and Serve's own proxies share a port that they are all told. Where there is
        none left, it is all of them.
        """
        count = len(REPLICA_PORTS) // _PORTS_OF_A_SERVICE
        for slot in range(os.getpid(), os.getpid() + count):
            first = REPLICA_PORTS.start + slot % count * _PORTS_OF_A_SERVICE
            ports = range(first, first + _PORTS_OF_A_SERVICE)
            if self._take_free(ports):
                return ports[0], ports[-1]
        return REPLICA_PORTS[0], REPLICA_PORTS[-1]

    def take_port(self, wanted: int) -> int:
        """The wanted port, or the next one to be had. Not any free one: the kernel gives those to clients as well."""
        return next(port for port in range(wanted, wanted + 1000) if self._take_free(range(port, port + 1)))

    def _take_free(self, ports: range) -> bool:
        """Claim ports, by the first of them, if nothing listens on any. Claimed first, lest it be bound in between."""
        if not self.take(ports[0]):
            return False
        if all(is_free(_EVERY_INTERFACE, port) for port in ports):
            return True
        os.close(self._held.pop(ports[0]))
        return False


def is_free(host: str, port: int) -> bool:
    """Whether nothing listens on a port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
