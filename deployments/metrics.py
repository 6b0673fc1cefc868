"""A replica's figures in Ray's metrics, there `ray_tidegate_...`; see docs/metrics.md."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import ray.util.metrics

from learner.meters import REPORT_EVERY_S

from .replica_metrics import ReplicaMetrics, ReplicaParts

__all__ = ["build_replica_metrics", "report_until_cancelled"]


def build_replica_metrics(parts: ReplicaParts, *, app: str, replica: str) -> ReplicaMetrics:
    """The figures of one replica, with Ray's instruments. See `ReplicaMetrics`."""
    return ReplicaMetrics(parts, app=app, replica=replica, instruments=ray.util.metrics)


async def report_until_cancelled(report: Callable[[], None]) -> None:
    """Report once a second, in a thread: some thousand observations would hold the event loop up."""
    while True:
        await asyncio.to_thread(report)
        await asyncio.sleep(REPORT_EVERY_S)
