"""The nodes of the Ray cluster, and how many replicas there are to be, for `/v1/state`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from .serve_client import serve_client

_FRESH_S = 2.0
_PATIENCE_S = 0.5
_CONTROLLER_PATIENCE_S = 1.0
_HEAD = "node:__internal_head__"


class ClusterNodes:
    """What is known of the cluster. Ray's control store is asked at most every 2 s, and not waited for.

    While it is away, as it is when the head node restarts, the last answer is given, with its age.

    Args:
        fetch: gives what `read` does but for the age; it may block.
        clock: seconds that only go forward.
    """

    def __init__(self, fetch: Callable[[], dict[str, Any]], clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._told: dict[str, Any] = {"nodes": [], "target_replicas": None}
        self._told_s: float | None = None
        self._asking: asyncio.Task[None] | None = None

    async def read(self) -> dict[str, Any]:
        """`nodes`, `target_replicas`, and `nodes_age_s`: since when that is known, None if it never was."""
        if self._asking is None and (self._told_s is None or self._clock() - self._told_s > _FRESH_S):
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None:
            # One that hangs is left to itself, and nobody asks again meanwhile.
            await asyncio.wait({self._asking}, timeout=_PATIENCE_S)
        age_s = None if self._told_s is None else round(self._clock() - self._told_s, 3)
        return {**self._told, "nodes_age_s": age_s}

    async def _ask(self) -> None:
        try:
            self._told = await asyncio.to_thread(self._fetch)
            self._told_s = self._clock()
        except (RayError, RuntimeError, OSError):
            # Told by the age.
            return
        finally:
            self._asking = None


def fetch_cluster() -> dict[str, Any]:
    """The nodes, and how many replicas of the deployment that asks there are to be. Blocks as `fetch_nodes` does."""
    return {"nodes": fetch_nodes(), "target_replicas": fetch_target_replicas()}


def fetch_target_replicas() -> int | None:
    """How many replicas of this replica's deployment Serve wants: by its autoscaling policy, where it has one.

    None while Serve's controller does not answer, as when it restarts.
    """
    mine = serve.get_replica_context()
    asked = serve_client()._controller.get_serve_instance_details.remote()
    try:
        application = ray.get(asked, timeout=_CONTROLLER_PATIENCE_S)["applications"][mine.app_name]
        return int(application["deployments"][mine.deployment]["target_num_replicas"])
    except (RayError, KeyError):
        # It has just been removed, and this replica is about to stop.
        return None


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
