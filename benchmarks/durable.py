"""How many rewards a second the learner logs and learns, through its Ray actor: on SQLite, and in memory.

python -m benchmarks.durable [--decisions 51200]

N = 256, D = 384, k = 4, the default rule. Calls of 256 decisions' rewards each, as replicas under load send them, 16
on the way at a time; a reward counts once the state has it (`wait: applied`). The decisions are in the log before. On
SQLite every acknowledgement has been synced to the disk (WAL, synchronous=FULL).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
from rich.console import Console
from rich.table import Table

from learner.actor import get_or_create_learner
from learner.config import CheckpointConfig, LearnerConfig, LogConfig, RosterChain
from learner.events import Decision
from learner.protocol import DecisionBatch, ReplicaStatus, RewardItem
from learner.startup import LearnerArgs

from .hardware import write_result

N, DIM, K = 256, 384, 4
CALL = 256
ON_THE_WAY = 16
FINGERPRINT = "f" * 64


def write_roster(folder: Path) -> Path:
    """A roster of N experts."""
    path = folder / "roster.yaml"
    path.write_text("experts:\n" + "".join(f"  - name: expert-{uid}\n" for uid in range(N)), encoding="utf-8")
    return path


def decisions(
    count: int, rng: np.random.Generator, *, incarnation: str = "bench", dim: int = DIM, uids: int = N
) -> list[Decision]:
    """Random decisions of one replica."""
    embeddings = rng.normal(size=(count, dim)).astype(np.float16)
    chosen = np.argpartition(rng.random((count, uids)), K, axis=1)[:, :K].tolist()
    return [
        Decision(
            id=f"{incarnation}-{number + 1}",
            time_s=0.0,
            epoch=1,
            version=0,
            embedding=embeddings[number],
            uids=tuple(asked),
            scores=(0.5,) * K,
            propensities=(1.0,) * K,
            hotkeys=tuple(f"expert-{uid}" for uid in asked),
            candidates=uids,
            candidates_digest="0" * 16,
        )
        for number, asked in enumerate(chosen)
    ]


def calls(made: list[Decision], rng: np.random.Generator) -> Iterator[list[RewardItem]]:
    """The decisions' rewards, CALL decisions a call."""
    for start in range(0, len(made), CALL):
        yield [
            RewardItem(decision.uids, tuple(rng.random(K).tolist()), decision_id=decision.id)
            for decision in made[start : start + CALL]
        ]


def learner_args(folder: Path, app: str, url: str, **checkpoints: float) -> LearnerArgs:
    """A learner with the default rule."""
    config = LearnerConfig(
        log=LogConfig(url=url), checkpoints=CheckpointConfig(url=str(folder / f"{app}-checkpoints"), **checkpoints)
    )
    return LearnerArgs(app, RosterChain(roster=str(write_roster(folder))), config, DIM, FINGERPRINT)


def status() -> ReplicaStatus:
    """What the one replica says of itself."""
    return ReplicaStatus("bench", 1, "bench", 0, 0, 0, None, 0, 0, 0)


def keep_busy(submit: Any, work: Iterator[Any], on_the_way: int) -> None:
    """Have so many calls on the way until there are no more."""
    pending: list[Any] = []
    for item in work:
        if len(pending) == on_the_way:
            done, pending = ray.wait(pending, num_returns=1)
            ray.get(done)
        pending.append(submit(item))
    ray.get(pending)


def measure(folder: Path, app: str, url: str, count: int) -> dict[str, Any]:
    """Log and learn the rewards of so many decisions."""
    rng = np.random.default_rng(0)
    learner = get_or_create_learner(learner_args(folder, app, url), num_cpus=0.0)
    ray.get(learner.poll.options(concurrency_group="polls").remote(status(), 30.0))
    made = decisions(count, rng)
    batches = [
        ray.put(DecisionBatch.of(FINGERPRINT, made[start : start + CALL])) for start in range(0, len(made), CALL)
    ]
    reports = [ray.put(items) for items in calls(made, rng)]
    group = {"concurrency_group": "reports"}
    started_s = time.perf_counter()
    keep_busy(learner.add_decisions.options(**group).remote, iter(batches), ON_THE_WAY)
    decided_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    keep_busy(
        lambda items: learner.add_rewards.options(**group).remote(items, "applied", 60.0), iter(reports), ON_THE_WAY
    )
    learned_s = time.perf_counter() - started_s
    described = ray.get(learner.describe.options(concurrency_group="operator").remote())["learner"]
    assert described["version"] == len(made), described
    ray.get(learner.stop.options(concurrency_group="operator").remote())
    ray.kill(learner, no_restart=True)
    return {
        "log": url.partition(":")[0],
        "decisions_per_s": len(made) / decided_s,
        "rewards_per_s": len(made) * K / learned_s,
        "rewards": len(made) * K,
    }


def main() -> None:
    """Measure, show and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=51_200)
    parser.add_argument("--folder", type=Path, default=None, help="where the database lies; default: a temporary one")
    args = parser.parse_args()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        results = [
            measure(folder, "durable", f"sqlite:///{folder}/events.db", args.decisions),
            measure(folder, "memory", "memory", args.decisions),
        ]
    ray.shutdown()
    table = Table("log", "decisions/s", "rewards learned/s", title=f"N = {N}, D = {DIM}, k = {K}")
    for result in results:
        table.add_row(result["log"], f"{result['decisions_per_s']:,.0f}", f"{result['rewards_per_s']:,.0f}")
    Console().print(table)
    write_result("durable", {"n": N, "dim": DIM, "k": K, "items_per_call": CALL, "results": results})


if __name__ == "__main__":
    main()
