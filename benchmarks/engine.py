"""Engines side by side: speed, share of the machine's matrix-product rate, and how close to fp32 the results are.

python -m benchmarks.engine [--rounds 3] [--threads N] [--texts 512] [--only NAME ...] [--clock cpu]

The engines take turns, so that the machine's drift hits all alike. An engine whose library is missing is skipped
by name (`pip install 'tidegate[engines]'`). On a machine that is busy otherwise `--clock cpu --threads 1` counts the
process's own processor time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from deployments import svg
from deployments.demo_data import load_paretobandit
from gating import build_encoder, resolve_dtype

from .engines import ENGINES, MODEL, Encode, build_engine
from .hardware import RESULTS, write_result
from .synthetic import synthetic_world

WORDS = [
    *("tide", "gate", "moon", "salt", "harbour", "why", "compute", "the", "of", "proof"),
    *("river", "and", "a", "reward", "asks", "which", "expert", "knows", "best"),
]
BATCHES = {1: 24, 8: 64, 64: 128, 512: 512}
"""Texts an encode call, and how many texts a round encodes that way."""
K, NUM_UIDS = 10, 256
FITTED, JUDGED = 512, 256
"""Real prompts that the head is fitted to, and further ones that accuracy is taken on."""


def make_texts(count: int, seed: int) -> list[str]:
    """Texts of 8 to 180 words, uniform in length."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(8, 181))) for _ in range(count)]


def build_engines(names: Sequence[str], threads: int) -> tuple[dict[str, Encode], dict[str, str]]:
    """The engines that this machine has, each run once, and why it lacks the others."""
    built, skipped = {}, {}
    has_bf16 = resolve_dtype("auto", torch.device("cpu")) == torch.bfloat16
    for name in names:
        if name.endswith("bf16") and not has_bf16:
            skipped[name] = "the processor has no bf16"
            continue
        try:
            built[name] = build_engine(name, threads)
        except ImportError as error:
            skipped[name] = str(error)
            continue
        for count in (2, 1, 40):
            built[name](make_texts(count, seed=9))
    return built, skipped


def count_flops(tokens: Sequence[int]) -> float:
    """Operations of the matrix products for texts of these many tokens: those of the weights and of attention."""
    config: Any = build_encoder("sentence", MODEL, device="cpu").network.config  # type: ignore[attr-defined]
    hidden, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    return float(sum(2 * weights * length + 4 * layers * hidden * length**2 for length in tokens))


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def gemm_rate(dtype: torch.dtype, size: int, clock: Clock) -> float:
    """Operations a second of one large matrix product."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2 * size**3 / min(_timed(lambda: a @ b, 8, clock))


def measure_speed(
    engines: dict[str, Encode], texts: list[str], rounds: int, clock: Clock
) -> dict[str, dict[str, float]]:
    """Medians over the rounds: seconds a text by batch and for a text of 60 tokens, and an operation of the machine."""
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    one = _text_of_60_tokens()
    for _ in range(rounds):
        for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            rate = max(gemm_rate(dtype, size, clock) for size in (512, 1024, 2048))
            seconds["machine"][f"gemm_{precision}"].append(1 / rate)
        for name, encode in engines.items():
            for batch, count in BATCHES.items():
                some = texts[:count]
                start_s = clock()
                for part in _slices(some, batch):
                    encode(part)
                seconds[name][str(batch)].append((clock() - start_s) / len(some))
            seconds[name]["60_tokens"].extend(_timed(lambda encode=encode: encode([one]), 15, clock))  # type: ignore[misc]
    return {name: {key: statistics.median(of) for key, of in keys.items()} for name, keys in seconds.items()}


def measure_accuracy(engines: dict[str, Encode]) -> dict[str, dict[str, float]]:
    """Cosine to fp32, and the overlap of the top 10 of 256 uids under a head fitted to made-up experts' rewards."""
    prompts = load_paretobandit().prompts[: FITTED + JUDGED]
    exact = build_encoder("sentence", MODEL, device="cpu").encode(prompts).double()
    rewards = torch.from_numpy(synthetic_world(exact.numpy(), NUM_UIDS).rewards).double()
    known = torch.nn.functional.pad(exact, (0, 1), value=1.0)[:FITTED]
    gram = known.T @ known + torch.eye(known.shape[1], dtype=known.dtype)
    head = torch.linalg.solve(gram, known.T @ rewards[:FITTED])[:-1]
    best = (exact[FITTED:] @ head).topk(K).indices
    figures = {}
    for name, encode in engines.items():
        embeddings = encode(prompts[FITTED:]).double()
        cosine = torch.nn.functional.cosine_similarity(embeddings, exact[FITTED:])
        overlap = (best.unsqueeze(2) == (embeddings @ head).topk(K).indices.unsqueeze(1)).sum() / best.numel()
        figures[name] = {
            "cosine_least": float(cosine.min()),
            "cosine_mean": float(cosine.mean()),
            "top_10_overlap": float(overlap),
        }
    return figures


def summarise(speed: dict[str, dict[str, float]], accuracy: dict[str, dict[str, float]], flops: float) -> dict:
    """One row an engine."""
    rows = {}
    machine = speed["machine"]
    for name, figures in accuracy.items():
        own = speed[name]
        precision = name.split()[-1]
        plain = speed.get(f"sentence-transformers {precision}")
        rows[name] = {
            "texts_per_s": {str(batch): 1 / own[str(batch)] for batch in BATCHES},
            "ratio_to_sentence_transformers": {
                str(batch): plain[str(batch)] / own[str(batch)] for batch in BATCHES if plain
            },
            "latency_60_tokens_ms": 1e3 * own["60_tokens"],
            "share_of_bf16_gemm": flops * machine["gemm_bf16"] / own["512"],
            "share_of_fp32_gemm": flops * machine["gemm_fp32"] / own["512"],
            **figures,
        }
    return rows


def draw(rows: dict[str, Any], title: str) -> str:
    """Texts/s at 64 texts a call as bars."""
    longest = max(row["texts_per_s"]["64"] for row in rows.values())
    parts = [svg.text(20, 26, title, size=14)]
    for index, (name, row) in enumerate(rows.items()):
        y, rate = 52 + 26 * index, row["texts_per_s"]["64"]
        colour = "#0b6e99" if name.startswith("packed ") else "#b8c4cc"
        parts += [
            svg.text(210, y + 4, name, size=12, anchor="end"),
            svg.line(220, y, 220 + 400 * rate / longest, y, colour, 16),
            svg.text(226 + 400 * rate / longest, y + 4, f"{rate:.0f}", size=12),
        ]
    return svg.document(680, 52 + 26 * len(rows), title, parts)


def print_table(rows: dict[str, Any]) -> None:
    """The rows on the console."""
    columns = (
        "engine",
        *(f"{b} a call" for b in BATCHES),
        "x ST at 64",
        "60 tokens ms",
        "of bf16 GEMM",
        "of fp32 GEMM",
    )
    table = Table(*columns, "cosine least", "mean", "top-10", title="texts/s")
    for name, row in rows.items():
        ratio = row["ratio_to_sentence_transformers"].get("64")
        table.add_row(
            name,
            *(f"{rate:.0f}" for rate in row["texts_per_s"].values()),
            f"{ratio:.2f}" if ratio else "",
            f"{row['latency_60_tokens_ms']:.2f}",
            *(f"{row[f'share_of_{precision}_gemm']:.0%}" for precision in ("bf16", "fp32")),
            *(f"{row[figure]:.5f}" for figure in ("cosine_least", "cosine_mean", "top_10_overlap")),
        )
    Console(width=160).print(table)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--texts", type=int, default=max(BATCHES))
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    texts = make_texts(args.texts, seed=0)
    engines, skipped = build_engines(args.only, args.threads)
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    speed = measure_speed(engines, texts, args.rounds, CLOCKS[args.clock])
    flops = count_flops([text.num_tokens for text in _tokenized(texts)]) / len(texts)
    rows = summarise(speed, measure_accuracy(engines), flops)
    print_table(rows)
    rates = {key: 1e-9 / value for key, value in speed["machine"].items()}
    print("machine, GFLOP/s:", ", ".join(f"{key} {rate:.0f}" for key, rate in rates.items()))
    settings = {name: getattr(args, name) for name in ("texts", "rounds", "threads", "clock")} | {"words": [8, 180]}
    result = {"settings": settings, "gflops": rates, "results": rows, "skipped": skipped}
    print(write_result("engine", result))
    (RESULTS / "engine.svg").write_text(draw(rows, f"texts/s, 64 a call, {args.threads} threads"), encoding="utf-8")


def _text_of_60_tokens() -> str:
    words = WORDS * 4
    lengths = [text.num_tokens for text in _tokenized([" ".join(words[:count]) for count in range(1, 70)])]
    return " ".join(words[: 1 + max(index for index, length in enumerate(lengths) if length <= 60)])


def _tokenized(texts: list[str]) -> list[Any]:
    return build_encoder("sentence", MODEL, device="cpu").tokenize(texts)


def _slices(texts: list[str], size: int) -> Iterator[list[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _timed(run: Callable[[], object], repeats: int, clock: Clock) -> list[float]:
    seconds = []
    for _ in range(repeats):
        start_s = clock()
        run()
        seconds.append(clock() - start_s)
    return seconds


if __name__ == "__main__":
    main()
