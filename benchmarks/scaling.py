"""What one to three nodes do, against what docs/scaling.md predicts from one: texts/s, and how weights travel.

python -m benchmarks.scaling [--nodes 3] [--seconds 6]

All nodes are on this machine and share its cores: a head without CPUs and nodes with one replica each, which computes
on one core. So texts/s can grow until the cores are used up and no further, and that is what is predicted; what does
not depend on cores (objects and bytes a version, how long until every replica has it) is as on a real cluster, but for
the network.

Replicas are processes of Ray's and so of low priority: whatever else runs on the machine comes first. How many cores
they had, and how much processor time a text took them, therefore stands beside each figure, and with all of them the
machine's own matrix rate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from deployments.client import GateClient, Reward
from tests.cluster.conftest import ClusterService
from tests.cluster.local_cluster import LocalCluster
from tests.integration.service import serve_config, wait_for, write_roster
from tests.ports import free_port

from .hardware import write_result
from .other_services import Peer
from .serving import limits, load
from .serving_cases import CASES

N, ROUNDS = 256, 30
CORES = os.cpu_count() or 1
CASE = CASES["base"]


def measure(service: ClusterService, nodes: list[str], seconds: float) -> dict[str, Any]:
    """Texts a second over HTTP; objects and bytes that a version puts on each node; how long a version takes."""
    peer = Peer(f"{service.url}/v1/score", CASE.body)
    load(peer, CASE, 1.0)
    before, started_s = cpu_s(service), time.monotonic()
    result = load(peer, CASE, seconds)
    took_s, used_s = time.monotonic() - started_s, cpu_s(service) - before
    stored = {node: service.cluster.stored(node) for node in nodes}
    took_ms = []
    with GateClient(service.url) as client:
        for _ in range(ROUNDS):
            selection = client.select(["how long does a version take?"], k=1).selections[0]
            started_s = time.monotonic()
            report = client.report([Reward(selection.uids, [0.5], decision_id=selection.decision_id)])
            wait_for(
                lambda version=report.version: all(r["version"] >= version for r in replicas(service)), every_s=0.002
            )
            took_ms.append(1000 * (time.monotonic() - started_s))
    after = {node: service.cluster.stored(node) for node in nodes}
    return {
        "nodes": len(nodes),
        "texts_per_s": result.requests_per_s,
        "replicas_cores": used_s / took_s,
        "core_ms_per_text": 1000 * used_s / result.requests,
        "objects_per_version_and_node": statistics.fmean(
            (after[node].objects - stored[node].objects) / ROUNDS for node in nodes
        ),
        "bytes_per_version_and_node": statistics.fmean(
            (after[node].bytes - stored[node].bytes) / ROUNDS for node in nodes
        ),
        "version_everywhere_p50_ms": statistics.median(took_ms),
    }


def cpu_s(service: ClusterService) -> float:
    """Processor seconds that all replicas have taken."""
    times = [psutil.Process(actor.pid).cpu_times() for actor in service.cluster.actors("ServeReplica")]
    return sum(time.user + time.system for time in times)


def replicas(service: ClusterService) -> list[dict[str, Any]]:
    """What the replicas tell of themselves."""
    told: list[dict[str, Any]] = service.state().get("replicas", [])
    return told


def run(count: int, seconds: float) -> dict[str, Any]:
    """A cluster of so many nodes, measured."""
    cluster = LocalCluster({})
    try:
        nodes = [cluster.add_node(1) for _ in range(count)]
        with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
            folder = Path(name)
            write_roster(folder / "roster.yaml", [f"expert-{uid}" for uid in range(N)])
            sections: dict[str, dict[str, Any]] = {
                "encoder": {"threads": 1},
                "replica": {"num_replicas": count, "num_cpus": 1, "max_replicas_per_node": 1},
                "serving": {"max_queue_tokens": 2**20},
                "learner": {"heartbeat_s": 0.5},
            }
            service = ClusterService(serve_config(free_port(), folder / "roster.yaml", **sections), folder, cluster)
            service.start()
            try:
                wait_for(lambda: len(replicas(service)) == count, timeout_s=120)
                return measure(service, nodes, seconds)
            finally:
                service.stop()
    finally:
        cluster.shutdown()


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    args = parser.parse_args()
    gemm_gflops = limits()
    results = [run(count, args.seconds) for count in range(1, args.nodes + 1)]
    one = results[0]["texts_per_s"]
    for row in results:
        row["predicted_texts_per_s"] = one * min(row["nodes"], CORES)
        row["of_prediction"] = row["texts_per_s"] / row["predicted_texts_per_s"]
    table = Table(
        *("nodes", "texts/s", "predicted", "of it", "replicas' cores", "core-ms a text"),
        *("objects", "bytes", "version everywhere, ms"),
        title="scaling",
    )
    columns = ("nodes", "texts_per_s", "predicted_texts_per_s", "of_prediction", "replicas_cores", "core_ms_per_text")
    for row in results:
        table.add_row(
            *(f"{row[name]:.4g}" for name in columns),
            f"{row['objects_per_version_and_node']:.2f}",
            f"{row['bytes_per_version_and_node']:,.0f}",
            f"{row['version_everywhere_p50_ms']:.1f}",
        )
    Console().print(table)
    settings = {"uids": N, "case": "base", "seconds": args.seconds}
    print(write_result("scaling", {"settings": settings, "gemm_gflops": gemm_gflops, "results": results}))


if __name__ == "__main__":
    main()
