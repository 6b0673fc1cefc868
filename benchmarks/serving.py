"""HTTP serving against the encoder alone, against infinity-emb, and against the seed's way.

python -m benchmarks.serving [--seconds 6] [--cases base repeated-64 ...] [--infinity-python X/bin/python]
    [--peer-rounds 3] [--out serving]

`wrk` (apt install wrk) sends `POST /v1/score` from one thread; it and everything else share this machine's cores. Each
case with fresh texts is measured between two measurements of the encoder alone on the same texts, once with the
service's number of threads and once with all cores, and every claim is a ratio of neighbours. Processor time is read
from all processes of the service. `engine` is the part of the replica's threads that encode: those that are busy while
it gets 32 texts a request; so "HTTP and routing" is what the others and the other processes take. Peers and the service
take turns. Without --infinity-python infinity-emb is left out; docs/performance.md says how to install it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from deployments.config import ServeArgs
from deployments.engine import engine_threads
from tests.integration.service import Service

from .engine_alone import EngineAlone, gemm_gflops
from .hardware import write_result
from .other_services import MODEL, Peer, infinity, seeds_way
from .services import CpuTimes, busiest, served
from .serving_cases import CASES, PEER_CASES, Case
from .serving_report import cases_table, peers_table
from .texts import make_bodies, make_texts
from .wrk import WrkResult, run_wrk

_WARM_S = 1.0
_QUIET_CORES = 0.25
"""What a service without requests takes at most: a tenth of a core, and twice that now and then."""
POOL, FRESH_POOL = 64, 512
CORES = os.cpu_count() or 1
# So that no case is turned away: the queue is to be measured, not its limit.
SERVING = {"max_queue_tokens": 2**20, "max_queue_delay_ms": 600_000}
_TAGS = (f"r{number}" for number in itertools.count())


def load(peer: Peer, case: Case, seconds: float) -> WrkResult:
    """Have wrk send a case's requests; returns when all of the work is done."""
    bodies = make_bodies(make_texts(case.lengths, FRESH_POOL if case.fresh else POOL), case.texts, peer.body)
    tag = next(_TAGS) if case.fresh else None
    headers = {"Accept": case.accept}
    result = run_wrk(peer.url, bodies, connections=case.connections, seconds=seconds, tag=tag, headers=headers)
    peer.drain()
    return result


def split_cpu(result: WrkResult, before: CpuTimes, after: CpuTimes, engine_threads: set[int]) -> dict[str, float]:
    """Core-ms a request by role: `engine` is taken out of `replica`, and `http` is all that the service takes else."""
    # What was on its way at the end has been worked on, too.
    requests = result.answers_per_s * result.duration_s
    taken = after.since(before)
    engine_s = sum(s for thread, s in after.threads_since(before).items() if thread in engine_threads)
    taken["replica"] = taken.get("replica", 0.0) - engine_s
    split = {role: seconds * 1000 / requests for role, seconds in taken.items()}
    http = sum(split.values())
    return {**split, "engine": engine_s * 1000 / requests, "http": http, "wrk": result.cpu_s * 1000 / requests}


class Bench:
    """One service under measurement, with the encoder alone beside it."""

    def __init__(self, service: Service, engine: EngineAlone, seconds: float) -> None:
        self.service, self.engine, self.seconds = service, engine, seconds
        self.threads = engine_threads(ServeArgs.model_validate(service.arguments()), torch.device("cpu"))
        self.engine_threads = self._find_engine_threads()

    def _find_engine_threads(self) -> set[int]:
        before = CpuTimes.read(self.service.processes())
        load(self._peer(CASES["texts-32"]), CASES["texts-32"], 3)
        return busiest(CpuTimes.read(self.service.processes()).threads_since(before))

    def _peer(self, case: Case) -> Peer:
        return Peer(f"{self.service.url}/v1/score", case.body)

    def over_http(self, case: Case) -> dict[str, Any]:
        """What wrk sees of a case, and the processor time that it takes."""
        peer = self._peer(case)
        load(peer, case, _WARM_S)
        before = CpuTimes.read(self.service.processes())
        result = load(peer, case, self.seconds * case.longer)
        after = CpuTimes.read(self.service.processes())
        return {
            **asdict(result),
            "requests_per_s": result.requests_per_s,
            "texts_per_s": result.requests_per_s * case.texts,
            "bytes_per_answer": result.bytes / max(result.requests, 1),
            "core_ms": split_cpu(result, before, after, self.engine_threads),
        }

    def measure(self, case: Case) -> dict[str, Any]:
        """A case between two measurements of the encoder alone, where texts are encoded at all."""
        if not case.fresh:
            return self.over_http(case)
        texts, half = make_texts(case.lengths, FRESH_POOL), max(self.seconds / 3, 1)

        def alone() -> tuple[float, float]:
            both = (self.engine.rate(texts, threads=threads, seconds=half) for threads in (self.threads, CORES))
            one, every = both
            return one, every

        self._wait_until_quiet()
        before = alone()
        http = self.over_http(case)
        self._wait_until_quiet()
        same, every = map(statistics.fmean, zip(before, alone(), strict=True))
        return {
            **http,
            "engine_texts_per_s": same,
            "engine_all_cores_texts_per_s": every,
            "of_engine": http["texts_per_s"] / same,
            "of_engine_all_cores": http["texts_per_s"] / every,
        }

    def _wait_until_quiet(self) -> None:
        """What is in work goes on after the last answer, for who has gone."""
        for _ in range(20):
            before = CpuTimes.read(self.service.processes())
            time.sleep(0.5)
            if sum(CpuTimes.read(self.service.processes()).since(before).values()) < 0.5 * _QUIET_CORES:
                return


def measure_cases(names: list[str], engine: EngineAlone, seconds: float, console: Console) -> list[dict[str, Any]]:
    """Each case on a service with its roster; those of one size share one."""
    results = []
    for uids in sorted({CASES[name].uids for name in names}):
        with served(uids, log="memory", serving=SERVING) as service:
            bench = Bench(service, engine, seconds)
            for name in (name for name in names if CASES[name].uids == uids):
                case = CASES[name]
                results.append({"case": name, **asdict(case), "threads": bench.threads, **bench.measure(case)})
                said = f"{name}: {results[-1]['texts_per_s']:.0f} texts/s, p50 {results[-1]['p50_ms']:.2f} ms"
                console.print(said, highlight=False)
    return results


@contextlib.contextmanager
def contenders(infinity_python: Path | None) -> Iterator[dict[str, Peer]]:
    """All services that take turns; each is idle while another works."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(served(256, log="memory", serving=SERVING))
        found = {"tidegate": Peer(f"{service.url}/v1/score", CASES["base"].body)}
        if infinity_python is not None:
            found["infinity-emb"] = stack.enter_context(infinity(infinity_python))
        found["the seed's way"] = stack.enter_context(seeds_way())
        yield found


def measure_peers(infinity_python: Path | None, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Texts a second of each, a median over rounds in which they take turns."""
    found: dict[tuple[str, str], list[WrkResult]] = {}
    with contenders(infinity_python) as peers:
        for _, (case_name, case), (name, peer) in itertools.product(range(rounds), PEER_CASES.items(), peers.items()):
            if case.texts > 1 and not peer.takes_many:
                continue
            load(peer, case, _WARM_S)
            found.setdefault((case_name, name), []).append(load(peer, case, seconds * case.longer))
    results = []
    for (case_name, name), runs in found.items():
        rates = [run.requests_per_s * PEER_CASES[case_name].texts for run in runs]
        ours = [run.requests_per_s * PEER_CASES[case_name].texts for run in found[case_name, "tidegate"]]
        row = {"case": case_name, "service": name, "texts_per_s": statistics.median(rates)}
        ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, rates, strict=True))
        bad = sum(run.bad_statuses + run.socket_errors for run in runs)
        p50_ms = statistics.median(run.p50_ms for run in runs)
        results.append({**row, "p50_ms": p50_ms, "failed": bad, "tidegate_is_times": ratio})
    return results


def limits() -> dict[str, float]:
    """The machine's own rates of a product as large as the encoder's, GFLOP/s."""
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return {
        f"{name}, {threads} threads": gemm_gflops(dtype, threads=threads)
        for name, dtype in kinds.items()
        for threads in sorted({1, CORES})
    }


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--infinity-python", type=Path, default=None, help="the interpreter beside infinity_emb")
    parser.add_argument("--peer-rounds", type=int, default=3, help="0: no peers")
    parser.add_argument("--out", default="serving", help="name of the file in benchmarks/results")
    args = parser.parse_args()
    console = Console()
    found: dict[str, Any] = {"settings": {"seconds": args.seconds, "peer_rounds": args.peer_rounds}}
    found["gemm_gflops"] = limits()
    engine = EngineAlone(MODEL, dtype="auto")
    found["cases"] = measure_cases(args.cases, engine, args.seconds, console) if args.cases else []
    # What there is by now is kept, whatever becomes of the peers.
    write_result(args.out, {**found, "peers": []})
    rounds = args.peer_rounds
    found["peers"] = measure_peers(args.infinity_python, rounds, args.seconds) if rounds else []
    for table in (cases_table(found["cases"]), peers_table(found["peers"])):
        print(table)
    console.print(str(write_result(args.out, found)), soft_wrap=True)


if __name__ == "__main__":
    main()
