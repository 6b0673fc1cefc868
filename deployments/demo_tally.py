"""The books of a demo: what is counted while it runs, and the result that they close with."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .client import Reward, RewardReport, Weights
from .demo_data import RewardTable
from .exit_codes import FAILED, INTERRUPTED, OK

MOVING_WINDOW = 500
CTRL_C = "interrupted"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a run observed. Means are over the prompts done, and None where there were none.

    Attributes:
        prompts: how many were selected for and rewarded.
        first_choice_mean: reward of the uid that the gate put first.
        last_third_mean: the same over the last third of the prompts.
        all_choices_mean: reward of all the chosen uids.
        random_mean: expected reward of a random model on these prompts.
        best_fixed_mean: reward of `best_fixed_model`, the best single one on these prompts.
        oracle_mean: reward of the best model for each prompt.
        accepted: single rewards that the service took; `duplicates` and `rejected` likewise.
        rejected_codes: why, and how many.
        version: of the newest weights seen.
        stopped: why the run ended early; None if it did not.
    """

    prompts: int
    models: tuple[str, ...]
    k: int
    seed: int
    first_choice_mean: float | None
    last_third_mean: float | None
    all_choices_mean: float | None
    random_mean: float | None
    best_fixed_mean: float | None
    best_fixed_model: str | None
    oracle_mean: float | None
    prompts_per_s: float
    select_p50_ms: float | None
    select_p99_ms: float | None
    accepted: int
    duplicates: int
    rejected: int
    rejected_codes: dict[str, int]
    version: int | None
    stopped: str | None

    @property
    def exit_code(self) -> int:
        """0 for a whole run, 130 after Ctrl-C, 1 after a failure."""
        if self.stopped is None:
            return OK
        return INTERRUPTED if self.stopped == CTRL_C else FAILED


@dataclass(slots=True)
class Tally:
    """The books of a run in progress. `latencies_s` are kept sorted, `newest` is (epoch, version)."""

    first_choices: list[float] = field(default_factory=list)
    choices: int = 0
    choices_sum: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    accepted: int = 0
    duplicates: int = 0
    rejected_codes: Counter[str] = field(default_factory=Counter)
    newest: tuple[int, int] | None = None
    elapsed_s: float = 0.0

    def record(self, rewards: Sequence[Reward], report: RewardReport, weights: Weights, latency_s: float) -> None:
        """Book one request's selections, one `Reward` each, best first, and the account of reporting them."""
        for reward in rewards:
            self.first_choices.append(reward.rewards[0])
            self.choices += len(reward.rewards)
            self.choices_sum += sum(reward.rewards)
        insort(self.latencies_s, latency_s)
        self.accepted += report.accepted
        self.duplicates += report.duplicates
        for refusal in report.rejected:
            # An item rejected as a whole takes all of its rewards with it.
            self.rejected_codes[refusal.code] += len(rewards[refusal.index].uids) if refusal.uid is None else 1
        for seen in (weights, report.weights):
            if seen is not None:
                self.newest = max(self.newest or (0, 0), (seen.epoch, seen.version))

    @property
    def prompts(self) -> int:
        """How many prompts are done."""
        return len(self.first_choices)

    @property
    def moving(self) -> list[float]:
        """Rewards of the newest first choices."""
        return self.first_choices[-MOVING_WINDOW:]

    @property
    def version(self) -> int | None:
        """Version of the newest weights seen."""
        return self.newest[1] if self.newest else None

    @property
    def prompts_per_s(self) -> float:
        """Prompts selected for and rewarded a second."""
        return self.prompts / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def latency_ms(self, share: float) -> float | None:
        """The latency of a select that this share of them stays within (nearest rank)."""
        ranked = self.latencies_s
        return ranked[min(int(share * len(ranked)), len(ranked) - 1)] * 1000 if ranked else None


def close_books(tally: Tally, done: RewardTable, *, k: int, seed: int, stopped: str | None) -> DemoResult:
    """The result of a run that got as far as `done`; `stopped` says why it ended early."""
    some = tally.prompts > 0
    return DemoResult(
        prompts=tally.prompts,
        models=done.models,
        k=k,
        seed=seed,
        first_choice_mean=mean(tally.first_choices),
        last_third_mean=mean(tally.first_choices[-max(tally.prompts // 3, 1) :]),
        all_choices_mean=tally.choices_sum / tally.choices if tally.choices else None,
        random_mean=done.random_mean if some else None,
        best_fixed_mean=done.best_fixed_mean if some else None,
        best_fixed_model=done.best_fixed_model if some else None,
        oracle_mean=done.oracle_mean if some else None,
        prompts_per_s=tally.prompts_per_s,
        select_p50_ms=tally.latency_ms(0.5),
        select_p99_ms=tally.latency_ms(0.99),
        accepted=tally.accepted,
        duplicates=tally.duplicates,
        rejected=tally.rejected_codes.total(),
        rejected_codes=dict(tally.rejected_codes),
        version=tally.version,
        stopped=stopped,
    )


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return sum(values) / len(values) if values else None
