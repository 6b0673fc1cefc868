"""Memory of a replica with a small and a large head, and how long a service takes from nothing to ready.

python -m benchmarks.footprint [--starts 3]

A replica's RSS counts what it shares with others, such as the head in Ray's object store; its USS does not. Both are
read after a few requests. A start is timed from the command `tidegate serve` to a 200 of /readyz, with a fresh log and
the files of Python and of the model already in the page cache, as on any second start.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from tests.integration.service import Service, serve_config, write_roster
from tests.ports import free_port

from .hardware import write_result
from .services import served
from .texts import fill, make_texts

SIZES = (256, 4096)
DIM = 384
_MIB = 2**20


def memory(uids: int) -> dict[str, Any]:
    """One replica's memory with so many uids, in MiB; `head_mib` is the size of weights and biases alone."""
    with served(uids, log="memory") as service:
        for number in range(8):
            service.post("/v1/score", {"messages": fill(make_texts("uniform", 32), f"m{number}")})
        used = psutil.Process(service.replica_pids()[0]).memory_full_info()
    head_mib = uids * (DIM + 1) * 4 / _MIB
    return {"uids": uids, "dim": DIM, "rss_mib": used.rss / _MIB, "uss_mib": used.uss / _MIB, "head_mib": head_mib}


def cold_start_s(uids: int) -> float:
    """Seconds from the command to ready."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
        roster = Path(name) / "roster.yaml"
        write_roster(roster, [f"expert-{uid}" for uid in range(uids)])
        service = Service(serve_config(free_port(), roster), Path(name))
        started_s = time.perf_counter()
        try:
            service.start()
            return time.perf_counter() - started_s
        finally:
            service.stop()


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=3)
    args = parser.parse_args()
    rows = [memory(uids) for uids in SIZES]
    starts = [cold_start_s(SIZES[0]) for _ in range(args.starts)]
    table = Table("N", "RSS, MiB", "USS, MiB", "head alone, MiB", title="a replica")
    for row in rows:
        table.add_row(str(row["uids"]), *(f"{row[name]:.1f}" for name in ("rss_mib", "uss_mib", "head_mib")))
    Console().print(table)
    if starts:
        print(
            f"cold start: {', '.join(f'{seconds:.1f}' for seconds in starts)} s; median {statistics.median(starts):.1f}"
        )
    print(write_result("footprint", {"memory": rows, "cold_start_s": starts}))


if __name__ == "__main__":
    main()
