"""Reading a subnet of 256 and of 4,096 uids through the real SDK from a node on this machine.

python -m benchmarks.chain [--rounds 20]

The node is that of the tests, in this process: its part (encoding the answer) is timed apart, and network time is not
in the figure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from learner.chain import BittensorSource
from learner.config import BittensorChain
from tests.chain_node.sdist import read_golden

from .hardware import write_result

SIZES = (256, 4096)
NETUID = 23


def median_ms(work: Callable[[], object], rounds: int) -> float:
    """Median time of one call."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1000


def measure(n: int, rounds: int) -> dict[str, float]:
    """Times of a subnet of n uids, in ms."""
    from tests.chain_node.answers import RuntimeAnswers
    from tests.chain_node.node import ChainNode
    from tests.chain_node.subnet import Subnet

    answers, subnet = RuntimeAnswers(read_golden()), Subnet(NETUID, n=n)
    node = ChainNode(answers, subnet)
    node.start()
    source = BittensorSource(BittensorChain(source="bittensor", network=node.url, netuid=NETUID))
    start = time.perf_counter()
    source.fetch_view()
    first_ms = (time.perf_counter() - start) * 1000

    def read() -> None:
        subnet.advance()
        source.fetch_view()

    result = {
        "uids": n,
        "first_read_ms": first_ms,
        "read_ms": median_ms(read, rounds),
        "look_ms": median_ms(source.fetch_block, rounds),
        "of_which_node_ms": median_ms(lambda: answers.metagraph(subnet, f"{NETUID:02x}00", subnet.head), rounds),
    }
    source.close()
    node.stop()
    return result


def main() -> None:
    """Measure, show and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["BITTENSOR_RUNTIME_CACHE_DIR"] = str(Path(home) / "runtime-cache")
        os.environ["BTCLI_TOKEN_SYMBOLS_CACHE"] = str(Path(home) / "token-symbols.json")
        results = [measure(n, args.rounds) for n in SIZES]
    table = Table("uids", "first read, ms", "read, ms", "block alone, ms", "of a read the node's part, ms")
    for row in results:
        table.add_row(*(f"{value:.4g}" for value in row.values()))
    Console().print(table)
    print(write_result("chain", {"settings": {"rounds": args.rounds}, "results": results}))


if __name__ == "__main__":
    main()
