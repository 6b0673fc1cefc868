"""The nodes of the Ray cluster, for `/v1/state`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

_FRESH_S = 2.0
_PATIENCE_S = 0.5
_HEAD = "node:__internal_head__"


class ClusterNodes:
    """What is known of the cluster's nodes. Ray's control store is asked at most every 2 s, and not waited for.

    While it is away, as it is when the head node restarts, the last answer is given, with its age.

    Args:
        fetch: gives the nodes; it may block.
        clock: seconds that only go forward.
    """

    def __init__(self, fetch: Callable[[], list[dict[str, Any]]], clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._nodes: list[dict[str, Any]] = []
        self._told_s: float | None = None
        self._asking: asyncio.Task[None] | None = None

    async def read(self) -> dict[str, Any]:
        """`nodes`, and `nodes_age_s`: since when that is known, None if it never was."""
        if self._asking is None and (self._told_s is None or self._clock() - self._told_s > _FRESH_S):
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None:
            # One that hangs is left to itself, and nobody asks again meanwhile.
            await asyncio.wait({self._asking}, timeout=_PATIENCE_S)
        age_s = None if self._told_s is None else round(self._clock() - self._told_s, 3)
        return {"nodes": self._nodes, "nodes_age_s": age_s}

    async def _ask(self) -> None:
        try:
            self._nodes = await asyncio.to_thread(self._fetch)
            self._told_s = self._clock()
        except (ray.exceptions.RayError, RuntimeError, OSError):
            # Told by the age.
            return
        finally:
            self._asking = None


def fetch_nodes() -> list[dict[str, Any]]:
    """The nodes that are alive, the head first. Blocks while Ray's control store is away."""
    alive = [describe_node(node) for node in ray.nodes() if node["Alive"]]
    return sorted(alive, key=lambda node: (not node["is_head"], node["ip"], node["id"]))


def describe_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """What matters of a node of `ray.nodes()`: who it is and what it has; memory in bytes."""
    resources = node["Resources"]
    return {
        "id": node["NodeID"],
        "ip": node["NodeManagerAddress"],
        "hostname": node["NodeManagerHostname"],
        "is_head": _HEAD in resources,
        "resources": {name: amount for name, amount in resources.items() if not name.startswith("node:")},
    }
