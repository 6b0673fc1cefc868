"""How long a learner that is killed with 1,000,000 events in its log takes to learn again.

python -m benchmarks.restart [--events 1000000] [--kills 5]

The log is SQLite, N = 256, D = 384; each event is one reward of a decision with k = 4. The newest checkpoint is as old
as the settings allow (`checkpoints.interval_events`), so the tail that is replayed is the longest there can be. The
learner's process gets SIGKILL; the clock stops when a new reward is acknowledged and in the state (`wait: applied`).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from ray.exceptions import RayError
from rich.console import Console

from learner.actor import get_or_create_learner
from learner.config import CheckpointConfig
from learner.housekeeping import Housekeeper
from learner.protocol import DecisionBatch, RewardItem
from learner.startup import LearnerArgs, start_learner
from learner.storage import log_clock, open_storage

from .durable import CALL, DIM, FINGERPRINT, K, decisions, learner_args, status
from .hardware import write_result

APP = "restart"
TAIL = CheckpointConfig().interval_events - 100
"""Events since the newest checkpoint: nearly as many as there can be, and still so after a few restarts."""


def fill(args: LearnerArgs, events: int) -> None:
    """Write a log of so many events, and the checkpoint that a learner would have written last."""
    storage = open_storage(args.config, application=APP, fingerprint=FINGERPRINT, dim=DIM, holder="bench")
    learner, _ = start_learner(args, storage, log_clock(storage.log), on_crash=lambda: os._exit(1))
    housekeeper = Housekeeper(
        learner,
        storage.checkpoints,
        application=APP,
        clock=log_clock(storage.log),
        on_crash=lambda: os._exit(1),
    )
    rng = np.random.default_rng(0)
    saved_at = events - TAIL
    made = 0
    while made < events:
        batch = decisions(CALL, rng, incarnation=f"fill{made}")
        learner.add_decisions(DecisionBatch.of(FINGERPRINT, batch))
        items = [RewardItem((uid,), (float(rng.random()),), decision_id=d.id) for d in batch for uid in d.uids]
        items = items[: events - made]
        # The learner saves between two batches.
        for part in (items[: max(0, saved_at - made)], items[max(0, saved_at - made) :]):
            if part:
                learner.add_rewards(part)
                made += len(part)
                while learner.learn():
                    pass
                if made == saved_at:
                    housekeeper.save()
    storage.log.close()


def wait_until_it_learns(learner: Any, name: str) -> None:
    """Report one reward until it is in the state."""
    item = RewardItem((0,), (0.5,), reward_id=name, embedding=np.ones(DIM, np.float16))
    while True:
        try:
            call = learner.add_rewards.options(concurrency_group="reports").remote([item], "applied", 60.0)
            if ray.get(call, timeout=60).reached:
                return
        except RayError:
            continue


def learner_pid() -> int:
    """The process of the learner's actor."""
    for process in psutil.Process().children(recursive=True):
        if "LearnerActor" in " ".join(process.cmdline()):
            return process.pid
    raise RuntimeError("no learner runs")


def main() -> None:
    """Measure, show and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where the database lies; default: a temporary one")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        args = learner_args(folder, APP, f"sqlite:///{folder}/events.db", interval_s=3600.0)
        console.print(f"writing a log of {options.events:,} events ...")
        fill(args, options.events)
        size_mb = sum(path.stat().st_size for path in folder.glob("events.db*")) / 2**20
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        learner = get_or_create_learner(args, num_cpus=0.0)
        ray.get(learner.poll.options(concurrency_group="polls").remote(status(), 60.0))
        wait_until_it_learns(learner, "first")
        times_s = []
        for kill in range(options.kills):
            os.kill(learner_pid(), signal.SIGKILL)
            started_s = time.perf_counter()
            wait_until_it_learns(learner, f"kill-{kill}")
            times_s.append(time.perf_counter() - started_s)
        ray.kill(learner, no_restart=True)
        ray.shutdown()
    result = {
        "events": options.events,
        "tail_events": TAIL,
        "database_mb": round(size_mb),
        "k": K,
        "times_s": [round(one, 3) for one in times_s],
        "median_s": round(statistics.median(times_s), 3),
        "worst_s": round(max(times_s), 3),
    }
    console.print(result)
    write_result("restart", result)


if __name__ == "__main__":
    main()
