"""What the serving benchmarks have found, as markdown tables and PNG pictures.

python -m benchmarks.serving_report [--no-docs] [--no-plots]

Reads serving.json, footprint.json, broadcast.json and head.json in benchmarks/results, as far as they are there; prints
the tables, writes them between the marks in docs/performance.md, and draws the pictures, which needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .hardware import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
Rows = list[dict[str, Any]]


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A markdown table; all columns but the first are numbers."""
    names = list(header)
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figure(value: float | None, unit: str = "") -> str:
    """A number with three digits that count; a dash for none."""
    if value is None:
        return "-"
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return digits + unit


def cases_table(cases: Rows) -> str:
    """How fast, how long one waits, and how that is to the encoder alone."""
    header = ("case", "requests/s", "texts/s", "p50 ms", "p99 ms", "of engine", "of engine, all cores", "failed")
    rows = (
        [
            case["case"],
            *(figure(case[name]) for name in ("requests_per_s", "texts_per_s", "p50_ms", "p99_ms")),
            figure(case.get("of_engine")),
            figure(case.get("of_engine_all_cores")),
            str(case["bad_statuses"] + case["socket_errors"]),
        ]
        for case in cases
    )
    return table(header, rows)


def cpu_table(cases: Rows) -> str:
    """Core-ms a request, by who took it."""
    roles = ("engine", "http", "replica", "haproxy", "learner", "controller", "other", "wrk")
    header = ("case", "encoding", "HTTP + routing", *(f"of which {role}" for role in roles[2:-1]), "beside it wrk")
    rows = ([case["case"], *(figure(case["core_ms"].get(role, 0.0)) for role in roles)] for case in cases)
    return table(header, rows)


def peers_table(peers: Rows) -> str:
    """The service against others."""
    header = ("load", "service", "texts/s", "p50 ms", "tidegate is times", "failed")
    rows = (
        [
            row["case"],
            row["service"],
            *(figure(row[name]) for name in ("texts_per_s", "p50_ms", "tidegate_is_times")),
            str(row["failed"]),
        ]
        for row in peers
    )
    return table(header, rows)


def serving(found: dict[str, Any]) -> str:
    """The section Serving."""
    gemm = ", ".join(f"{name}: {figure(value)}" for name, value in found["gemm_gflops"].items())
    threads = ", ".join(sorted({str(case["threads"]) for case in found["cases"]}))
    settings = f"Threads that the service encodes with: {threads}. The machine's GEMM, GFLOP/s: {gemm}."
    return f"{settings}\n\n{cases_table(found['cases'])}\n\nCore-ms a request:\n\n{cpu_table(found['cases'])}"


def footprint(found: dict[str, Any]) -> str:
    """The tables of memory and of cold starts."""
    header = ("roster", "RSS, MiB", "USS, MiB", "head, MiB")
    memory = (
        [f"N = {row['uids']:,}, D = {row['dim']}", *(figure(row[name]) for name in ("rss_mib", "uss_mib", "head_mib"))]
        for row in found["memory"]
    )
    starts = ", ".join(figure(seconds) for seconds in found["cold_start_s"])
    return f"{table(header, memory)}\n\nCold start, `tidegate serve` to a ready service, s: {starts}."


def broadcast(found: dict[str, Any]) -> str:
    """How long new weights take to all replicas."""
    header = ("head", "replicas", "p50 ms", "p99 ms", "max ms", "of the first prompts, max ms")
    rows = (
        [
            f"{row['uids']:,} x {row['dim']}",
            str(row["replicas"]),
            *(figure(row[name]) for name in ("p50_ms", "p99_ms", "max_ms", "first_max_ms")),
        ]
        for row in found["results"]
    )
    return table(header, rows)


def head(found: dict[str, Any]) -> str:
    """What scoring and selecting cost beside encoding."""
    header = ("N", "D", "score, ms", "select, ms", "encode, ms", "score + select of encode")
    rows = (
        [
            f"{row['uids']:,}",
            str(row["dim"]),
            *(figure(row[name]) for name in ("score_ms", "select_ms", "encode_ms")),
            f"{row['of_encode']:.1%}",
        ]
        for row in found["results"]
    )
    return table(header, rows)


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "serving": ("serving", serving),
    "peers": ("serving", lambda found: peers_table(found["peers"])),
    "footprint": ("footprint", footprint),
    "broadcast": ("broadcast", broadcast),
    "head": ("head", head),
}
"""Mark in the page -> the result that it is written from, and how."""


def between_marks(page: str, name: str, content: str) -> str:
    """The page with this content between the marks of that name.

    Raises:
        ValueError: a mark is missing, or twice there.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page must have {begin} and {end} once each")
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{content.strip()}\n\n{end}{rest.split(end)[1]}"


def measured_on(machine: dict[str, Any]) -> str:
    """One line: on what, when, with which versions."""
    names = ("processor", "cores", "date", "python", "torch", "transformers", "ray")
    return "Measured on " + ", ".join(f"{name} {machine[name]}" for name in names if name in machine) + "."


def main() -> None:
    """Print and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-docs", action="store_true", help="leave docs/performance.md as it is")
    parser.add_argument("--no-plots", action="store_true", help="draw nothing")
    args = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    for name, (result, write) in SECTIONS.items():
        path = RESULTS / f"{result}.json"
        if not path.exists():
            print(f"{path} is missing; make it with python -m benchmarks.{result}")
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        content = f"{measured_on(found['machine'])}\n\n{write(found)}"
        print(f"## {name}\n\n{content}\n")
        page = between_marks(page, name, content)
    if not args.no_docs:
        PAGE.write_text(page, encoding="utf-8")
    if not args.no_plots:
        # Drawing needs matplotlib, tables do not.
        from .serving_plot import draw_all

        for path in draw_all():
            print(path)


if __name__ == "__main__":
    main()
