"""Whether the service learns as the benchmark says: the same stream through a running `tidegate serve`, over HTTP.

python -m benchmarks.learning_http --llmrouter PATH [--rule pooled_ridge] [--steps 400] [--seeds 10 11 12]
    [--cases llmrouter:1 llmrouter:4 synthetic-256:4] [--dtype auto] [--fresh]

For each case and seed a service of its own is started, with a roster of as many uids as the set has and a fresh log.
Eight texts a request are selected for, with `explore: true`, and rewarded with `wait: published`. Its figures are
held against those of `benchmarks.learning` for the same prompts in the same order; the difference, a mean over the
seeds, should be .005 at most. It is not 0: each explores by its own chance, and the service's encoder has its own
precision (`--dtype`, as in its configuration), the benchmark's fp32. One choice that turns out otherwise for it
changes all that is learned afterwards. What was measured with the same settings before is kept and not measured
again, but for `--fresh`. With `--rule adagrad --dtype fp32` and k = 1 nothing is left to chance, and the choices are
the same; pooled_ridge takes uids without rewards for equal but for rounding, and so at k = 1 a last bit may decide.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deployments.client import GateClient, Reward
from tests.integration.service import Service, serve_config, write_roster
from tests.ports import free_port

from .agents import RuleAgent
from .hardware import RESULTS, write_result
from .learning import RULES, rule_config
from .learning_tables import mean_and_error
from .play import Outcome, play
from .sets import BenchSet, load_set
from .streams import Stream, stationary

WANTED = 0.005
_FIGURES = ("first", "first_last_third", "all", "best_of_k")


def play_over_http(gate: GateClient, stream: Stream, prompts: list[str], k: int, console: Console) -> Outcome:
    """One pass through a service: each request is learned, and in the weights, before the next one."""
    chosen = np.zeros((stream.steps, k), np.int64)
    for steps in track(stream.requests(), "requests", console=console, transient=True):
        answer = gate.select([prompts[step] for step in steps], k=k, uids=range(stream.uids), explore=True)
        earned = []
        for step, selection in zip(steps.tolist(), answer.selections, strict=True):
            chosen[step] = selection.uids
            rewards = [float(stream.rewards[step, uid]) for uid in selection.uids]
            earned.append(Reward(selection.uids, rewards, decision_id=selection.decision_id))
        report = gate.report(earned, wait="published")
        if not report.reached:
            raise RuntimeError(f"version {report.version} was not published in time; is the machine overloaded?")
        if report.rejected or report.accepted != len(steps) * k:
            raise RuntimeError(f"{report.accepted} of {len(steps) * k} rewards were taken: {report.rejected}")
    return Outcome.of(stream, chosen)


def serve_and_play(stream: Stream, prompts: list[str], k: int, args: argparse.Namespace, console: Console) -> Outcome:
    """`play_over_http` with a service of its own, which is stopped afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        roster = folder / "roster.yaml"
        write_roster(roster, [f"expert-{uid}" for uid in range(stream.uids)])
        sections: dict[str, Any] = {"learner": {"rule": {"name": args.rule}}, "encoder": {"dtype": args.dtype}}
        service = Service(serve_config(free_port(), roster, **sections), folder)
        service.start()
        try:
            with GateClient(service.url) as gate:
                return play_over_http(gate, stream, prompts, k, console)
        finally:
            service.stop()


def compare(data: BenchSet, k: int, seed: int, args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Both figures, and how often both had the same first choice."""
    stream = stationary(data.embedding, data.rewards, np.random.default_rng(seed), args.steps)
    agent = RuleAgent(rule_config(args.rule), stream.uids, stream.embedding.shape[1], seed)
    offline = play(stream, agent, k)
    assert stream.rows is not None
    started_s = time.perf_counter()
    served = serve_and_play(stream, [data.prompts[row] for row in stream.rows], k, args, console)
    assert offline.chosen is not None
    assert served.chosen is not None
    return {
        "seed": seed,
        "offline": offline.figures(),
        "over_http": served.figures(),
        "same_first_choice": float((offline.chosen[:, 0] == served.chosen[:, 0]).mean()),
        "took_s": round(time.perf_counter() - started_s, 1),
    }


def differences(runs: list[dict[str, Any]], figure: str) -> list[float]:
    """Over HTTP less offline, seed by seed."""
    return [run["over_http"][figure] - run["offline"][figure] for run in runs]


def said(found: dict[str, tuple[float, float | None]]) -> str:
    """Whether the differences are small, or may be but for chance (two standard errors), or are not."""
    if all(abs(mean) <= WANTED for mean, _ in found.values()):
        return f"within {WANTED}"
    chance = all(error is None or abs(mean) <= WANTED + 2 * error for mean, error in found.values())
    return f"beyond {WANTED}, which " + ("so few seeds cannot tell from chance" if chance else "is no chance")


def show(cases: dict[str, list[dict[str, Any]]], console: Console) -> None:
    """Each case's figures, means over the seeds: offline, over HTTP, and the difference with its standard error."""
    table = Table("", "", *(name.replace("_", " ") for name in _FIGURES), "same first choice")
    for case, runs in cases.items():
        for how in ("offline", "over_http"):
            figures = (f"{statistics.fmean(run[how][name] for run in runs):.4f}" for name in _FIGURES)
            table.add_row(case, how.replace("_", " "), *figures)
        found = {name: mean_and_error(differences(runs, name)) for name in _FIGURES}
        cells = (f"{mean:+.4f}" + ("" if error is None else f" ± {error:.4f}") for mean, error in found.values())
        same = statistics.fmean(run["same_first_choice"] for run in runs)
        table.add_row(case, "difference", *cells, f"{same:.1%}")
        table.add_row(case, "first, all", said({name: found[name] for name in ("first", "all")}), end_section=True)
    console.print(table)


def main() -> None:
    """Measure, show and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmrouter", type=Path, default=None, help="llmrouter_train.json")
    parser.add_argument("--cases", nargs="+", default=["llmrouter:1", "llmrouter:4", "synthetic-256:4"], help="SET:K")
    parser.add_argument("--rule", default="pooled_ridge", choices=RULES)
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16", "fp16"], help="of the service")
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--steps", type=int, default=None, help="only so many prompts")
    parser.add_argument("--out", default="learning-http", help="name of the file in benchmarks/results")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    settings = {"rule": args.rule, "dtype": args.dtype, "steps": args.steps}
    cases = {} if args.fresh else kept(RESULTS / f"{args.out}.json", settings)
    for case in args.cases:
        set_name, _, k = case.partition(":")
        runs = cases.setdefault(case, [])
        for seed in sorted(set(args.seeds) - {run["seed"] for run in runs}):
            runs.append(compare(load_set(set_name, args.llmrouter), int(k), seed, args, console))
            console.print(f"{case} seed {seed}: {runs[-1]['took_s']} s", highlight=False)
            write_result(args.out, {**settings, "cases": cases})
    show(cases, console)


def kept(path: Path, settings: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The runs in the file, if they are of these settings."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    cases: dict[str, list[dict[str, Any]]] = found.get("cases", {})
    return cases if {name: found.get(name) for name in settings} == settings else {}


if __name__ == "__main__":
    main()
