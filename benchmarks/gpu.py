"""The encoder on a CUDA device: tokens/s, and the share of the device's own dense rate, measured by a large product.

python -m benchmarks.gpu [--texts 16384] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from gating import build_encoder
from gating.encoders import DTYPES

from .engine import count_flops, make_texts
from .engines import MODEL
from .hardware import write_result

PACK_TOKENS = (8192, 32_768, 131_072)


def seconds_on_device(run: Callable[[], object], rounds: int) -> float:
    """Median wall time, the device's work included."""
    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start_s)
    return statistics.median(times[1:])


def dense_rate(dtype: torch.dtype, rounds: int) -> float:
    """Operations a second of the device's matrix products."""
    size, repeats = 8192, 8
    a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
    return repeats * 2 * size**3 / seconds_on_device(lambda: [a @ b for _ in range(repeats)], rounds)


def measure(precision: str, texts: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Texts/s, tokens/s and the share of the dense rate, by the tokens of a pass; tokenisation is not counted."""
    rate = dense_rate(DTYPES[precision], rounds)
    rows = {}
    for pack_tokens in PACK_TOKENS:
        encoder = build_encoder("sentence", MODEL, device="cuda", dtype=precision, batch_tokens=pack_tokens)
        tokenized = encoder.tokenize(texts)
        lengths = [len(chunk) for text in tokenized for chunk in text.chunks]
        seconds = seconds_on_device(lambda e=encoder, t=tokenized: e.embed(t), rounds)  # type: ignore[misc]
        rows[f"{precision} {pack_tokens}"] = {
            "texts_per_s": len(texts) / seconds,
            "tokens_per_s": sum(lengths) / seconds,
            "share_of_dense_rate": count_flops(lengths) / seconds / rate,
            "dense_tflops": rate / 1e12,
        }
    return rows


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here")
    texts = make_texts(args.texts, seed=0)
    rows = {name: row for precision in ("bf16", "fp16") for name, row in measure(precision, texts, args.rounds).items()}
    table = Table("precision, tokens a pass", "texts/s", "tokens/s", "of dense rate", "dense TFLOP/s")
    for name, row in rows.items():
        numbers = (f"{row['texts_per_s']:.0f}", f"{row['tokens_per_s']:.0f}")
        table.add_row(name, *numbers, f"{row['share_of_dense_rate']:.1%}", f"{row['dense_tflops']:.0f}")
    Console().print(table)
    settings = {"texts": args.texts, "rounds": args.rounds, "device": torch.cuda.get_device_name()}
    print(write_result("gpu", {"settings": settings, "results": rows}))


if __name__ == "__main__":
    main()
