"""The serving benchmarks' pictures, as PNG: what a text or a batch costs against connections, length, N and D.

Needs matplotlib, which the extra `bench` brings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .hardware import RESULTS

Series = dict[str, list[tuple[float, float]]]
LENGTHS_IN_WORDS = {"short": 8, "16": 16, "64": 64, "uniform": 94, "long": 160}
"""Mean words of a text."""


def by_connections(cases: list[dict[str, Any]]) -> tuple[Series, Series]:
    """Requests a second, and p50 in ms, against connections, of fresh and of repeated texts."""
    rates: Series = {}
    waits: Series = {}
    for case in cases:
        if case["texts"] != 1 or case["top_k"] is None or case["uids"] != 256:
            continue
        kinds = {("uniform", True): "fresh, 8-180 words", ("short", False): "repeated, 4-12 words"}
        kind = kinds.get((case["lengths"], case["fresh"]))
        if kind is not None:
            rates.setdefault(kind, []).append((case["connections"], case["requests_per_s"]))
            waits.setdefault(kind, []).append((case["connections"], case["p50_ms"]))
    return rates, waits


def by_length(cases: list[dict[str, Any]]) -> Series:
    """Ms a text against mean words, over HTTP and of the encoder alone, 64 connections with one text each."""
    found: Series = {"over HTTP": [], "encoder alone": []}
    for case in cases:
        words = LENGTHS_IN_WORDS.get(case["lengths"])
        is_base = (case["connections"], case["texts"], case["uids"]) == (64, 1, 256)
        if words is not None and is_base and case["fresh"]:
            found["over HTTP"].append((words, 1000 / case["texts_per_s"]))
            found["encoder alone"].append((words, 1000 / case["engine_texts_per_s"]))
    return found


def by_uids(rows: list[dict[str, Any]]) -> Series:
    """Ms a batch against N, for each D, and of encoding the batch."""
    found: Series = {}
    for row in rows:
        for name in ("score", "select"):
            found.setdefault(f"{name}, D = {row['dim']}", []).append((row["uids"], row[f"{name}_ms"]))
        found.setdefault("encode (D = 384)", []).append((row["uids"], row["encode_ms"]))
    return found


def by_dim(rows: list[dict[str, Any]]) -> Series:
    """Ms of scoring a batch against D, for each N that has several."""
    found: Series = {}
    for row in rows:
        found.setdefault(f"N = {row['uids']:,}", []).append((row["dim"], row["score_ms"]))
    return {name: points for name, points in found.items() if len(points) > 1}


def draw(path: Path, series: Series, *, title: str, x: str, y: str) -> Path:
    """One picture with both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), dpi=130, layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        axes.plot(*zip(*sorted(set(points)), strict=True), marker="o", label=name)
    ticks = sorted({point[0] for points in series.values() for point in points})
    axes.set(title=title, xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
    return path


def draw_all() -> Iterable[Path]:
    """Every picture that there are results for; where they lie."""
    wanted: list[tuple[str, Series, str, str, str]] = []
    if found := _read("serving"):
        cases = found["cases"]
        rates, waits = by_connections(cases)
        wanted += [
            ("serving-connections", rates, "One text a request, N = 256", "connections", "requests/s"),
            ("serving-latency", waits, "One text a request, N = 256", "connections", "p50, ms"),
            ("serving-length", by_length(cases), "64 connections, one fresh text each", "words a text", "ms a text"),
        ]
    if found := _read("head"):
        rows = found["results"]
        wanted += [
            ("head-uids", by_uids(rows), "A batch of 64 texts, one thread", "N", "ms a batch"),
            ("head-dim", by_dim(rows), "Scoring a batch of 64 texts, one thread", "D", "ms a batch"),
        ]
    for name, series, title, x, y in wanted:
        drawable = {label: points for label, points in series.items() if points}
        if drawable:
            yield draw(RESULTS / f"{name}.png", drawable, title=title, x=x, y=y)


def _read(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
