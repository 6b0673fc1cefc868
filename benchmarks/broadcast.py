"""New weights on their way from the learner to every replica of a node: heads of three sizes, one to four replicas.

python -m benchmarks.broadcast [--rounds 100]

The real learner actor with the default rule (log in memory) and real subscribers, each in a Ray actor. A reward is
reported and learned; the clock starts when the learning thread begins to recompute the head, and stops when the last
subscriber has taken it. All clocks are this machine's. The publish interval is the least, so nothing waits for it.
The rounds are taken once the rule knows the prompts' directions and nearly every uid has rewards; the first prompts,
during which directions are found and all rows change at once, are measured too, and shown apart.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from rich.console import Console
from rich.table import Table

from deployments.ray_learner import RayLearner
from deployments.weights import Subscriber
from learner.actor import CONCURRENCY_GROUPS, LearnerActor
from learner.config import LearnerConfig, LogConfig, RosterChain
from learner.on_ray import NAMESPACE, learner_name
from learner.protocol import DecisionBatch, ReplicaStatus, RewardItem
from learner.startup import LearnerArgs
from learner.state import HeadSnapshot
from tests.integration.service import write_roster

from .durable import CALL, FINGERPRINT, calls, decisions
from .hardware import write_result

HEADS = ((256, 384), (4096, 384), (4096, 768))
REPLICAS = (1, 2, 4)
FIRST, LEARNED = 40, 4096
"""How many prompts are the first, and how many more are learned before the rounds."""


class TimedLearner(LearnerActor):
    """The learner's actor, which notes when each version's recomputing began and how long it and the put took."""

    def __init__(self, args: LearnerArgs) -> None:
        self._began: dict[int, tuple[float, float]] = {}
        super().__init__(args)

    def _build_threads(self, args: LearnerArgs) -> None:
        learner: Any = self._learner
        compute = learner.snapshot

        def timed() -> HeadSnapshot:
            began_s = time.time()
            snapshot = compute()
            self._began[snapshot.version] = (began_s, time.time())
            return snapshot

        learner.snapshot = timed
        super()._build_threads(args)

    async def began(self, version: int) -> tuple[float, float]:
        """When recomputing this version's head began and ended, seconds since 1970."""
        return self._began[version]


class Replica:
    """What of a replica follows the learner."""

    def __init__(self, args: LearnerArgs, number: int) -> None:
        self._seen: dict[int, float] = {}
        self._args, self._number = args, number

    async def start(self) -> None:
        """Follow from now on."""
        self._subscriber = Subscriber(
            RayLearner(self._args, num_cpus=0.0),
            status=self._status,
            fingerprint=FINGERPRINT,
            device=torch.device("cpu"),
            heartbeat_s=2.0,
            max_age_s=10.0,
        )
        await self._subscriber.start(lambda: None)
        self._following = asyncio.get_running_loop().create_task(self._subscriber.run())

    async def seen(self, version: int) -> float:
        """When the weights had this version, seconds since 1970; waits for it."""
        if not await self._subscriber.wait_for_version(version, 30.0):
            raise TimeoutError(f"version {version} has not arrived")
        return time.time()

    def _status(self) -> ReplicaStatus:
        current = self._subscriber.current
        order = current.snapshot.order if current else (0, 0)
        return ReplicaStatus(f"r{self._number}", 1, f"r{self._number}", 0, *order, None, 0, 0, 0)


def start_learner(args: LearnerArgs) -> Any:
    """The actor, as `get_or_create_learner` would start it."""
    decorate: Any = ray.remote
    actor = decorate(concurrency_groups=CONCURRENCY_GROUPS)(TimedLearner)
    return actor.options(name=learner_name(args.app), namespace=NAMESPACE, lifetime="detached", num_cpus=0.0).remote(
        args
    )


def broadcast_once(learner: Any, replicas: list[Any], item: RewardItem, version: int) -> tuple[float, float]:
    """Ms from the begin of recomputing to the last replica, and of recomputing alone."""
    waiting = [replica.seen.remote(version) for replica in replicas]
    # Each is at its wait by the time that the reward is learned.
    time.sleep(0.05)
    report(learner, [item])
    seen_s = max(ray.get(waiting))
    began_s, computed_s = ray.get(learner.began.options(concurrency_group="operator").remote(version))
    return (seen_s - began_s) * 1000, (computed_s - began_s) * 1000


def report(learner: Any, items: list[RewardItem]) -> int:
    """The version that has learned them."""
    reply = learner.add_rewards.options(concurrency_group="reports").remote(items, "published", 30.0)
    version: int = ray.get(reply).published_version
    return version


def learner_args(folder: Path, uids: int, dim: int, app: str) -> LearnerArgs:
    """A learner of a head of that size."""
    roster = folder / f"{app}.yaml"
    write_roster(roster, [f"expert-{uid}" for uid in range(uids)])
    config = LearnerConfig(log=LogConfig(url="memory"), publish_interval_ms=1)
    return LearnerArgs(app, RosterChain(roster=str(roster)), config, dim, FINGERPRINT)


def measure(folder: Path, uids: int, dim: int, count: int, rounds: int) -> dict[str, Any]:
    """Percentiles for one head and so many replicas."""
    args = learner_args(folder, uids, dim, f"broadcast-{uids}-{dim}-{count}")
    learner = start_learner(args)
    decorate: Any = ray.remote(num_cpus=0)
    replicas = [decorate(Replica).remote(args, number) for number in range(count)]
    ray.get([replica.start.remote() for replica in replicas])
    rng = np.random.default_rng(0)
    made = decisions(FIRST + LEARNED + rounds, rng, dim=dim, uids=uids)
    group = {"concurrency_group": "reports"}
    for start in range(0, len(made), CALL):
        batch = DecisionBatch.of(FINGERPRINT, made[start : start + CALL])
        ray.get(learner.add_decisions.options(**group).remote(batch))
    items = list(itertools.chain.from_iterable(calls(made, rng)))

    def publish(some: list[RewardItem], after: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        times = [broadcast_once(learner, replicas, item, after + place) for place, item in enumerate(some, start=1)]
        total, computing = zip(*times, strict=True)
        return total, computing

    first, _ = publish(items[:FIRST], 0)
    version = 0
    for start in range(FIRST, FIRST + LEARNED, CALL):
        version = report(learner, items[start : start + CALL])
    total, computing = publish(items[FIRST + LEARNED :], version)
    for actor in (*replicas, learner):
        ray.kill(actor, no_restart=True)
    return {
        "uids": uids,
        "dim": dim,
        "replicas": count,
        "p50_ms": float(np.percentile(total, 50)),
        "p99_ms": float(np.percentile(total, 99)),
        "max_ms": max(total),
        "first_max_ms": max(first),
        "recompute_p50_ms": float(np.percentile(computing, 50)),
    }


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        results = [
            measure(Path(name), uids, dim, count, args.rounds)
            for (uids, dim), count in itertools.product(HEADS, REPLICAS)
        ]
    ray.shutdown()
    table = Table("head", "replicas", "p50, ms", "p99, ms", "recomputing, p50, ms", f"slowest of the first {FIRST}, ms")
    for row in results:
        cells = (row["p50_ms"], row["p99_ms"], row["recompute_p50_ms"], row["first_max_ms"])
        table.add_row(f"{row['uids']} x {row['dim']}", str(row["replicas"]), *(f"{cell:.1f}" for cell in cells))
    Console().print(table)
    print(write_result("broadcast", {"settings": {"rounds": args.rounds}, "results": results}))


if __name__ == "__main__":
    main()
