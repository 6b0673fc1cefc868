"""From an acknowledged reward to weights that have it on every replica.

python -m benchmarks.freshness [--rewards 500]

A real `tidegate serve` on this machine: two replicas, SQLite, the default settings (a version at most every 50 ms). A
reward is reported; once it is acknowledged, both replicas are asked, at their own ports, for a score with the report's
version as `min_version`, and the clock stops when the second one has answered. So the figure has the answer's own time
in it, which is told apart (`score_ms`: the same request for a version that the replicas have). `busy` is the same while
another client selects and rewards as fast as it is answered.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.integration.service import Service, serve_config, wait_for, write_roster
from tests.ports import free_port

from .hardware import write_result

N = 256


def report_one(http: httpx.Client, text: str) -> int:
    """Select and reward once; the version that has the reward, as acknowledged."""
    selection = http.post("/v1/select", json={"messages": [text], "k": 4}).raise_for_status().json()["selections"][0]
    item = {"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": [1.0, 0.0, 0.5, 0.2]}
    return int(http.post("/v1/rewards", json={"rewards": [item]}).raise_for_status().json()["version"])


def see(replica: httpx.Client, version: int) -> None:
    """Returns once the replica answers from that version or a later one."""
    body = {"messages": ["tide"], "uids": [0], "min_version": version}
    replica.post("/v1/score", json=body).raise_for_status()


def measure(service: Service, rewards: int) -> dict[str, float]:
    """Percentiles, in ms."""
    replicas = [httpx.Client(base_url=url, timeout=30.0) for url in service.replica_urls()]
    score_ms, visible_ms = [], []
    with ThreadPoolExecutor(len(replicas)) as pool:
        for number in range(rewards):
            version = report_one(service.http, f"text {number}")
            acknowledged_s = time.perf_counter()
            list(pool.map(see, replicas, [version] * len(replicas)))
            visible_s = time.perf_counter()
            list(pool.map(see, replicas, [version] * len(replicas)))
            visible_ms.append((visible_s - acknowledged_s) * 1000)
            score_ms.append((time.perf_counter() - visible_s) * 1000)
    for replica in replicas:
        replica.close()
    return {
        "p50_ms": float(np.percentile(visible_ms, 50)),
        "p99_ms": float(np.percentile(visible_ms, 99)),
        "max_ms": max(visible_ms),
        "score_ms": float(np.percentile(score_ms, 50)),
    }


def with_another_client(service: Service, rewards: int) -> dict[str, float]:
    """`measure` while another client selects and rewards one by one."""
    stop = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=service.url, timeout=30.0) as http:
            number = 0
            while not stop.is_set():
                number += 1
                report_one(http, f"other text {number}")

    other = threading.Thread(target=load)
    other.start()
    try:
        return measure(service, rewards)
    finally:
        stop.set()
        other.join()


def main() -> None:
    """Measure, show and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rewards", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        roster = folder / "roster.yaml"
        write_roster(roster, [f"expert-{uid}" for uid in range(N)])
        config: dict[str, Any] = serve_config(free_port(), roster, replica={"num_replicas": 2, "num_cpus": 0.5})
        service = Service(config, folder)
        service.start()
        wait_for(lambda: len(service.replica_urls()) == 2 or None)
        results = {
            "quiet": measure(service, args.rewards),
            "busy": with_another_client(service, args.rewards),
        }
        service.stop()
    table = Table(
        "", "p50, ms", "p99, ms", "max, ms", "of which the answer, ms", title="acknowledged -> on both replicas"
    )
    for how, result in results.items():
        table.add_row(how, *(f"{result[key]:.1f}" for key in ("p50_ms", "p99_ms", "max_ms", "score_ms")))
    Console().print(table)
    write_result("freshness", {"replicas": 2, "rewards": args.rewards, **results})


if __name__ == "__main__":
    main()
