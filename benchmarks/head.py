"""Scoring and selecting for a batch of 64 texts, against encoding it; how that grows with N and D.

python -m benchmarks.head [--rounds 15]

One thread. Encoding is that of the default encoder (D = 384) on texts of 8 to 180 words; a wider head would come with
a larger encoder, so its share is overstated. Score, select and encode take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from deployments.config import SelectionArgs
from gating import build_encoder
from gating.head import score
from gating.selection import ordinary_bonus, select

from .hardware import write_result
from .other_services import MODEL
from .texts import fill, make_texts

BATCH, K = 64, 4
SIZES = ((256, 384), (1024, 384), (4096, 384), (256, 768), (1024, 768), (4096, 768), (16384, 768))


def scoring_and_selecting(uids: int, dim: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Both, as the service does them, on random embeddings, weights and bonuses."""
    rng = np.random.default_rng(0)
    embedding, weight = torch.randn(BATCH, dim) / dim**0.5, torch.randn(uids, dim)
    bias, bonus = torch.zeros(uids), rng.random(uids).astype(np.float32)
    candidates, policy = np.arange(uids), SelectionArgs().build()
    scores = score(embedding, weight, bias).numpy()

    def choose() -> object:
        ordinary = ordinary_bonus(bonus)
        return select(scores, candidates, K, policy=policy, generator=rng, bonus=bonus, ordinary=ordinary)

    return lambda: score(embedding, weight, bias), choose


def interleaved_ms(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median ms of each; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for run in work.values():
        run()
    for _ in range(rounds):
        for name, run in work.items():
            started_s = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - started_s) * 1000)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder = build_encoder("sentence", MODEL, device="cpu", dtype="auto")
    texts = fill(make_texts("uniform", BATCH), "head")
    work: dict[str, Callable[[], object]] = {"encode": lambda: encoder.encode(texts)}
    for uids, dim in SIZES:
        work[f"score {uids} {dim}"], work[f"select {uids} {dim}"] = scoring_and_selecting(uids, dim)
    ms = interleaved_ms(work, args.rounds)
    results = []
    for uids, dim in SIZES:
        score_ms, select_ms = ms[f"score {uids} {dim}"], ms[f"select {uids} {dim}"]
        row = {"uids": uids, "dim": dim, "score_ms": score_ms, "select_ms": select_ms, "encode_ms": ms["encode"]}
        results.append({**row, "of_encode": (score_ms + select_ms) / ms["encode"]})
    table = Table("N", "D", "score, ms", "select, ms", "encode, ms", "of encode", title=f"a batch of {BATCH}")
    for row in results:
        table.add_row(*(f"{value:.4g}" for value in row.values()))
    Console().print(table)
    print(write_result("head", {"settings": {"batch": BATCH, "k": K, "rounds": args.rounds}, "results": results}))


if __name__ == "__main__":
    main()
