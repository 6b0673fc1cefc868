"""How well it learns, in one pass, against chance, full information and the libraries that people use for this.

python -m benchmarks.learning --llmrouter PATH [--sets llmrouter paretobandit synthetic-256 narrow-8 ...]
    [--k 1 4 10] [--scenarios stationary drift ...] [--seeds 10 11 12] [--agents pooled_ridge adagrad ...]
    [--steps 500] [--jobs 2] [--out learning] [--fresh]

Every run is added to benchmarks/results/NAME.json as it ends; what is there is not made again, so that the benchmark
can be interrupted and go on. `python -m benchmarks.learning_report` makes tables and pictures of it. What is played and
what is measured is in docs/learning.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gating.policies import SquareCB
from learner.config import RuleConfig

from .agents import BuildAgent, RandomAgent, RuleAgent
from .hardware import RESULTS
from .peers import installed
from .play import Outcome, play
from .references import informed_share, references
from .runs import BusyError, Run, RunFile
from .sets import BenchSet, load_set
from .streams import SCENARIOS, Stream, stationary

RULES = ("pooled_ridge", "adagrad", "softmax_mse")
SETS = ("llmrouter", "paretobandit", "synthetic-256", "synthetic-1024", "narrow-8", "narrow-32")
SETS_ANYWHERE = (
    "paretobandit",
    "synthetic-256-paretobandit",
    "synthetic-1024-paretobandit",
    "narrow-8-paretobandit",
    "narrow-32-paretobandit",
)
WITH_CURVES = ("stationary", "drift")
"""The scenarios whose regret is kept over time."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def rule_config(name: str) -> RuleConfig:
    """A rule with its default settings."""
    config: RuleConfig = TypeAdapter(RuleConfig).validate_python({"name": name})
    return config


def agents() -> dict[str, BuildAgent]:
    """Who can play here, by name."""
    rules: dict[str, BuildAgent] = {name: partial(RuleAgent, rule_config(name)) for name in RULES}
    rules["adagrad, squarecb"] = partial(RuleAgent, rule_config("adagrad"), policy=SquareCB())
    return {"chance": RandomAgent} | rules | installed()


def default_agents() -> list[str]:
    """All but chance, whose figures the references have exactly."""
    return [name for name in agents() if name != "chance"]


def plan(args: argparse.Namespace, uids: dict[str, int]) -> list[Run]:
    """The runs that were asked for, but those with more to ask than can always be asked."""
    return [
        Run(set_name, scenario, k, seed, agent, args.steps)
        for set_name in args.sets
        for scenario in args.scenarios
        for seed in args.seeds
        for k in dict.fromkeys(args.k)
        if k <= uids[set_name] - (scenario == "cold-arm")
        for agent in ["references", *(args.agents or default_agents())]
    ]


def make(run: Run, llmrouter: Path | None) -> list[dict[str, Any]]:
    """Play it; its figures, one row an agent."""
    stream = _stream(run.set, run.scenario, run.seed, run.steps, llmrouter)
    informed = None
    if run.scenario == "cold-arm":
        informed = _informed_share(run.set, run.seed, run.steps, llmrouter, run.k)
    started_s = time.perf_counter()
    if run.agent == "references":
        outcomes = references(stream, run.k)
    else:
        agent = agents()[run.agent](stream.uids, stream.embedding.shape[1], run.seed)
        outcomes = {run.agent: play(stream, agent, run.k)}
    took_s = round(time.perf_counter() - started_s, 2)
    return [
        {"agent": name, "is_reference": run.agent == "references", **_row(outcome, run, informed), "took_s": took_s}
        for name, outcome in outcomes.items()
    ]


def _row(outcome: Outcome, run: Run, informed: float | None) -> dict[str, Any]:
    figures = {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in outcome.figures(informed).items()
    }
    return {**figures, **({"regret": outcome.regret()} if run.scenario in WITH_CURVES else {})}


@lru_cache(maxsize=2)
def _set(name: str, llmrouter: Path | None) -> BenchSet:
    return load_set(name, llmrouter)


@lru_cache(maxsize=2)
def _stream(set_name: str, scenario: str, seed: int, steps: int | None, llmrouter: Path | None) -> Stream:
    data = _set(set_name, llmrouter)
    base = stationary(data.embedding, data.rewards, np.random.default_rng(seed), steps)
    return SCENARIOS[scenario](base, np.random.default_rng([seed, 1]))


@lru_cache(maxsize=8)
def _informed_share(set_name: str, seed: int, steps: int | None, llmrouter: Path | None, k: int) -> float:
    return informed_share(_stream(set_name, "cold-arm", seed, steps, llmrouter), k)


def results(
    runs: list[Run], llmrouter: Path | None, jobs: int, console: Console
) -> Iterator[tuple[Run, list[dict[str, Any]]]]:
    """Make runs, so many at a time, each in one thread; each result as it comes."""
    # The processes begin anew and read this before they load what has threads.
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with (
        ProcessPoolExecutor(jobs, get_context("spawn"), _begin) as pool,
        Progress(TextColumn("{task.description}"), *columns, console=console, speed_estimate_period=600) as progress,
    ):
        task = progress.add_task("", total=len(runs))
        todo, running = iter(runs), dict[Future[list[dict[str, Any]]], Run]()
        try:
            while True:
                for run in todo:
                    running[pool.submit(make, run, llmrouter)] = run
                    # One more than can run, so that none waits for this loop.
                    if len(running) > jobs:
                        break
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    run = running.pop(done)
                    progress.update(task, advance=1, description=f"{run.set}, {run.scenario}, k = {run.k}")
                    yield run, done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """In each process, at its start."""
    torch.set_num_threads(1)
    # Ctrl-C is for all of the group, and this process has nothing to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def describe(run: Run, rows: list[dict[str, Any]]) -> str:
    """A line for the log."""
    where = f"{run.set} {run.scenario} k={run.k} seed={run.seed}"
    figures = "; ".join(f"{row['agent']} first {row['first']:.4f} all {row['all']:.4f}" for row in rows)
    return f"{where}: {figures} ({rows[0]['took_s']:.1f} s)"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmrouter", type=Path, default=None, help="llmrouter_train.json")
    parser.add_argument(
        "--sets", nargs="+", default=None, help="by default all that can be had; see benchmarks/sets.py"
    )
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    parser.add_argument("--k", nargs="+", type=int, default=[1, 4, 10])
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--agents", nargs="+", default=None, choices=list(agents()))
    parser.add_argument("--steps", type=int, default=None, help="only so many prompts")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each of one thread")
    parser.add_argument("--out", default="learning", help="name of the file in benchmarks/results")
    parser.add_argument("--fresh", action="store_true", help="make runs again that are in the file")
    return parser


def main() -> None:
    """Make what is missing."""
    args = build_parser().parse_args()
    console = Console()
    if args.llmrouter is not None:
        args.llmrouter = args.llmrouter.resolve()
    args.sets = args.sets or (SETS if args.llmrouter else SETS_ANYWHERE)
    try:
        # Here, and not in each process: embedding the prompts takes a minute the first time.
        uids = {name: load_set(name, args.llmrouter).rewards.shape[1] for name in args.sets}
        with RunFile(RESULTS / f"{args.out}.json") as file:
            runs = plan(args, uids)
            if args.fresh:
                file.forget(runs)
            missing = [run for run in runs if run not in file]
            console.print(f"{len(runs)} runs, {len(runs) - len(missing)} of them in {file.path} already")
            for run, rows in results(missing, args.llmrouter, args.jobs, console):
                file.add(run, rows)
                console.print(describe(run, rows), soft_wrap=True, highlight=False)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on")
        raise SystemExit(130) from None
    except (BusyError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
