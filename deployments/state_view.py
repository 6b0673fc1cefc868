"""What `/v1/state` shows: the learner's account of itself, or that it is away, and this replica's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from learner.events import ReplicaStatus

from .errors import LearnerAway
from .learner_client import LearnerClient
from .weights import Subscriber


class StateView:
    """Answers `/v1/state`, also when the learner does not answer.

    Args:
        client: the learner.
        subscriber: this replica's weights.
        status: this replica's account of itself.
    """

    def __init__(self, client: LearnerClient, subscriber: Subscriber, status: Callable[[], ReplicaStatus]) -> None:
        self._client = client
        self._subscriber = subscriber
        self._status = status

    async def read(self) -> dict[str, Any]:
        """Learner, metagraph, replicas; `answered_by` is the replica that tells."""
        own = asdict(self._status())
        try:
            state = await self._client.describe()
        except LearnerAway:
            state = self._without_learner(own)
        current = self._subscriber.current
        return {
            **state,
            "weights": {
                "epoch": current.snapshot.epoch if current else None,
                "version": current.snapshot.version if current else None,
                "age_s": self._subscriber.age_s,
            },
            "degraded": self._subscriber.degraded,
            "answered_by": own["id"],
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
