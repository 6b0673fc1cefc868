"""Where a request's time goes at 64 connections: matrix products, attention, other operations, tokenizer, HTTP, idle.

python -m benchmarks.serving --cases base && python -m benchmarks.breakdown

The processor time of the service's processes is from the base case in benchmarks/results/serving.json. What its
engine's threads take is split as torch's profiler splits the same forward passes here, on one thread, and by a stop
watch around the tokenizer.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gating import build_encoder

from .hardware import RESULTS, write_result
from .other_services import MODEL
from .serving_cases import CASES
from .texts import make_texts

_TEXTS, _BATCH = 512, 16
ATTENTION = ("bmm", "softmax", "scaled_dot_product")
PRODUCTS = ("linear", "addmm", "aten::mm", "mkldnn")


def part_of(operation: str) -> str:
    """What an operation of torch's counts as."""
    if any(name in operation for name in ATTENTION):
        return "attention"
    return "matrix products" if any(name in operation for name in PRODUCTS) else "other operations"


def profile_encoder(texts: list[str]) -> dict[str, float]:
    """Milliseconds a text by part, of one thread."""
    torch.set_num_threads(1)
    encoder = build_encoder("sentence", MODEL, device="cpu", dtype="auto")
    batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
    encoder.encode(batches[0])
    started_s = time.perf_counter()
    tokenized = [encoder.tokenize(batch) for batch in batches]
    parts = {"tokenizer": (time.perf_counter() - started_s) * 1000}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for batch in tokenized:
            encoder.embed(batch)
    for event in profile.key_averages():
        part = part_of(event.key)
        parts[part] = parts.get(part, 0.0) + event.self_cpu_time_total / 1000
    return {part: spent_ms / len(texts) for part, spent_ms in parts.items()}


def split(base: dict[str, Any], encoder: dict[str, float], cores: int) -> dict[str, float]:
    """Core-ms a request by part; together they are what the cores had."""
    core_ms = base["core_ms"]
    total = sum(encoder.values())
    parts = {part: core_ms["engine"] * spent / total for part, spent in encoder.items()}
    parts["HTTP and routing in the replica"] = core_ms["replica"]
    parts["HAProxy"] = core_ms["haproxy"]
    parts["learner and Ray"] = core_ms["learner"] + core_ms["controller"] + core_ms["other"]
    parts["wrk"] = core_ms["wrk"]
    parts["idle"] = max(0.0, cores * 1000 / base["requests_per_s"] - sum(parts.values()))
    return parts


def main() -> None:
    """Measure, show and keep the figures."""
    found = json.loads((RESULTS / "serving.json").read_text(encoding="utf-8"))
    base = next(case for case in found["cases"] if case["case"] == "base")
    parts = split(base, profile_encoder(make_texts(CASES["base"].lengths, _TEXTS)), os.cpu_count() or 1)
    whole = sum(parts.values())
    table = Table("part", "core-ms a request", "share", title=f"{base['requests_per_s']:.0f} requests/s")
    for part, spent_ms in sorted(parts.items(), key=lambda one: -one[1]):
        table.add_row(part, f"{spent_ms:.2f}", f"{spent_ms / whole:.1%}")
    Console().print(table)
    write_result("breakdown", {"requests_per_s": base["requests_per_s"], "core_ms": parts})


if __name__ == "__main__":
    main()
