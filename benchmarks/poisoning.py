"""What lying authors cost, with and without reward trust.

python -m benchmarks.poisoning --llmrouter PATH [--sets llmrouter synthetic-256] [--rules adagrad pooled_ridge]
    [--attacks one-of-twenty ...] [--seeds 10 11 12]

Prompts come from authors at random, one prompt a second. Honest authors report the reward; a liar reports 1 - reward
(`invert`), or the contrary about a single uid only, the best one, and the truth about all others (`smear`). Each run
plays the same stream as the learner would: what authors report is judged, weighed or held, then learned. `loss` is the
mean reward without liars less the mean reward with them, both of them unguarded; `left` is the part of it that is
still lost with reward trust on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from gating.metagraph import MetagraphView
from gating.policies import TailExploration
from gating.selection import ordinary_bonus, select
from learner.config import RuleConfig, TrustConfig
from learner.events import Outcome, RewardEvent
from learner.learning import initial_state, learn_batch
from learner.rules import build_rule
from learner.state import HeadSnapshot, build_snapshot
from learner.trust import Trust

from .hardware import write_result
from .sets import load_set
from .streams import Stream, stationary

SECONDS_A_PROMPT = 1.0


@dataclass(frozen=True)
class Attack:
    """So many authors, so many of whom lie, and how."""

    authors: int
    liars: int
    kind: str = "invert"


ATTACKS = {
    "one-of-twenty": Attack(20, 1),
    "one-of-three": Attack(3, 1),
    "five-of-twenty": Attack(20, 5),
    "smear-one-of-twenty": Attack(20, 1, "smear"),
    "smear-five-of-twenty": Attack(20, 5, "smear"),
    "smear-one-of-three": Attack(3, 1, "smear"),
}


class GuardedAgent:
    """A rule as the service runs it, behind reward trust.

    Args:
        config: the rule and its settings.
        trust: reward trust's.
        uids: how many there are.
        dim: width of the embeddings.
        seed: of the rows and of the exploration.
    """

    def __init__(self, config: RuleConfig, trust: TrustConfig, uids: int, dim: int, seed: int) -> None:
        self.quarantined: dict[str, int] = {}
        self.seq = 0
        self._rule = build_rule(config)
        self._view = MetagraphView.from_hotkeys([f"owner-{uid}" for uid in range(uids)])
        self.trust = Trust(trust, {}, self._view, dim)
        self._state = initial_state(self._rule, self._view, dim, seed)
        self._generator = np.random.default_rng(seed)
        self._policy = TailExploration(epsilon=0.05)

    def snapshot(self) -> HeadSnapshot:
        """The weights now."""
        return build_snapshot(
            self._rule.head(self._state.rule), version=self._state.version, view=self._state.view, epoch=1
        )

    def choose(self, snapshot: HeadSnapshot, embedding: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """k uids for each prompt, best first."""
        chosen = select(
            embedding @ snapshot.weight.T + snapshot.bias,
            np.arange(self._view.n),
            k,
            policy=self._policy,
            generator=self._generator,
            bonus=snapshot.bonus,
            ordinary=ordinary_bonus(snapshot.bonus),
        )
        return np.stack([one.uids for one in chosen])

    def learn(self, events: list[RewardEvent], now_s: float) -> None:
        """One commit: what trust has found, what is reported, and learning from it."""
        found = [replace(event, seq=self.seq) for event in self.trust.verdicts(now_s)]
        for event in found:
            self.quarantined[event.arguments["author"]] = self.seq
        judged = self.trust.judge([*found, *events], now_s)
        self.trust.observe(judged, now_s)
        learned = [event for event in judged if isinstance(event, RewardEvent) and event.outcome is Outcome.LEARNED]
        if learned:
            self._rule.update(self._state.rule, learn_batch(learned))


def play(stream: Stream, author: NDArray[np.int64], lies: NDArray[np.float64], agent: GuardedAgent, k: int) -> float:
    """One pass; the mean reward of all that was chosen.

    Args:
        stream: prompts and rewards.
        author: of each prompt.
        lies: what that author reports of each uid.
        agent: who plays.
        k: how many uids are asked.
    """
    earned = []
    for steps in stream.requests():
        snapshot = agent.snapshot()
        chosen = agent.choose(snapshot, stream.embedding[steps], k)
        earned.append(np.take_along_axis(stream.rewards[steps], chosen, axis=1))
        agent.seq = int(steps[-1])
        events = [
            RewardEvent(
                uids=tuple(uids.tolist()),
                rewards=tuple(lies[step, uids].tolist()),
                outcome=Outcome.LEARNED,
                embedding=stream.embedding[step].astype(np.float16),
                author=f"author-{author[step]}",
            )
            for step, uids in zip(steps.tolist(), chosen, strict=True)
        ]
        agent.learn(events, steps[-1] * SECONDS_A_PROMPT)
    return float(np.concatenate(earned).mean())


def reports(stream: Stream, author: NDArray[np.int64], attack: Attack | None) -> NDArray[np.float64]:
    """What each prompt's author reports of each uid."""
    told = np.array(stream.rewards, np.float64)
    if attack is None:
        return told
    lies = np.flatnonzero(author < attack.liars)
    if attack.kind == "invert":
        told[lies] = 1.0 - told[lies]
    else:
        best = stream.rewards.mean(axis=0).argmax()
        told[lies, best] = 1.0 - told[lies, best]
    return told


def runs(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every figure, as it comes."""
    for set_name in args.sets:
        played = load_set(set_name, args.llmrouter)
        for rule in args.rules:
            clean: Clean = {}
            for name in args.attacks:
                for seed in args.seeds:
                    stream = stationary(played.embedding, played.rewards, np.random.default_rng(seed))
                    of = {"set": set_name, "rule": rule, "attack": name, "seed": seed}
                    yield {**of, **measure(stream, rule, ATTACKS[name], args.k, seed, clean)}


Clean = dict[tuple[int, int], dict[str, Any]]
"""The figures without liars, by seed and number of authors: the same whatever the attack."""


def measure(stream: Stream, rule: str, attack: Attack, k: int, seed: int, clean: Clean | None = None) -> dict[str, Any]:
    """One stream, clean and attacked, each with trust off and on. What is in `clean` is not played again."""
    config: RuleConfig = TypeAdapter(RuleConfig).validate_python({"name": rule})
    author = np.random.default_rng([seed, 2]).integers(attack.authors, size=stream.steps)

    def played(world: str, attacked: Attack | None) -> dict[str, Any]:
        told = reports(stream, author, attacked)
        figures: dict[str, Any] = {}
        for guard in (False, True):
            agent = GuardedAgent(config, TrustConfig(enabled=guard), stream.uids, stream.embedding.shape[1], seed)
            figures[f"{world}{'_guarded' if guard else ''}"] = play(stream, author, told, agent, k)
        liars = {f"author-{number}" for number in range(attacked.liars if attacked else 0)}
        figures[f"{world}_honest_quarantined"] = sorted(set(agent.quarantined) - liars)
        figures[f"{world}_found_after"] = {a: s for a, s in agent.quarantined.items() if a in liars}
        return figures

    known = {} if clean is None else clean
    if (seed, attack.authors) not in known:
        known[seed, attack.authors] = played("clean", None)
    return {**known[seed, attack.authors], **played("poisoned", attack)}


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, and what part of the loss is left."""
    groups = dict.fromkeys((one["set"], one["rule"], one["attack"]) for one in results)
    rows = []
    for group in groups:
        mine = [one for one in results if (one["set"], one["rule"], one["attack"]) == group]
        names = ("clean", "clean_guarded", "poisoned", "poisoned_guarded")
        mean = {name: statistics.mean(one[name] for one in mine) for name in names}
        loss, left = mean["clean"] - mean["poisoned"], mean["clean"] - mean["poisoned_guarded"]
        spread = statistics.stdev(one["clean"] - one["poisoned"] for one in mine) if len(mine) > 1 else None
        rows.append(
            {
                **dict(zip(("set", "rule", "attack"), group, strict=True)),
                **mean,
                "loss": loss,
                "loss_deviation": spread,
                "guarded_loss": left,
                "ratio": left / loss if loss > 0 else None,
            }
        )
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """One line a set, rule and attack."""
    columns = ("set", "rule", "attack", "clean", "clean_guarded", "poisoned", "poisoned_guarded", "loss", "ratio")
    table = Table(*columns)
    for row in rows:
        table.add_row(*(f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name]) for name in columns))
    console.print(table)


def main() -> None:
    """Measure, show and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmrouter", type=Path, default=None)
    parser.add_argument("--sets", nargs="+", default=["llmrouter", "synthetic-256"])
    parser.add_argument("--rules", nargs="+", default=["adagrad", "pooled_ridge"])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--out", default="poisoning", help="name of the result in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    results = []
    for result in runs(args):
        results.append(result)
        console.print(result, soft_wrap=True)
    rows = summary(results)
    show(rows, console)
    write_result(args.out, {"k": args.k, "seeds": args.seeds, "summary": rows, "results": results})


if __name__ == "__main__":
    main()
