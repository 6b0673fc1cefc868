"""What `/v1/state` shows: the learner's account of itself, or that it is away, and this replica's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from learner.protocol import ReplicaStatus

from .errors import LearnerAway
from .learner_client import LearnerClient
from .nodes import ClusterNodes
from .weights import Subscriber


class StateView:
    """Answers `/v1/state`, also when the learner does not answer.

    Args:
        client: the learner.
        subscriber: this replica's weights.
        status: this replica's account of itself.
        auth_failures: calls that this replica has refused, by code.
        nodes: the cluster's.
    """

    def __init__(
        self,
        client: LearnerClient,
        subscriber: Subscriber,
        status: Callable[[], ReplicaStatus],
        auth_failures: Mapping[str, int],
        nodes: ClusterNodes,
    ) -> None:
        self._client = client
        self._subscriber = subscriber
        self._status = status
        self._auth_failures = auth_failures
        self._nodes = nodes

    async def read(self) -> dict[str, Any]:
        """Learner, metagraph, replicas, nodes; `answered_by` is the replica that tells, and whose failures are told."""
        own = asdict(self._status())
        nodes = await self._nodes.read()
        try:
            state = await self._client.describe()
        except LearnerAway:
            state = self._without_learner(own)
        current, age_s = self._subscriber.current, self._subscriber.age_s
        return {
            **state,
            **nodes,
            "weights": {
                "epoch": current.snapshot.epoch if current else None,
                "version": current.snapshot.version if current else None,
                "age_s": age_s,
            },
            "degraded": self._subscriber.is_degraded(age_s),
            "answered_by": own["id"],
            "auth_failures": dict(self._auth_failures),
            "time": time.time(),
        }

    def _without_learner(self, own: dict[str, Any]) -> dict[str, Any]:
        current = self._subscriber.current
        view = current.snapshot.view if current else None
        return {
            "learner": {
                "status": "away",
                "last_seen_s": self._subscriber.age_s,
                "reason": self._subscriber.away_because,
            },
            "metagraph": {"netuid": view.netuid, "block": view.block, "n": view.n} if view else None,
            "replicas": [own],
        }
