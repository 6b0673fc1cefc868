"""The demo: streams real prompts through a running gate, and shows its choices getting better.

Every prompt is selected for and then rewarded with what the chosen models are known to earn on it, so the
figures shown are observed, and random choice, the best fixed model and an oracle can be compared exactly.
"""

from __future__ import annotations

import random
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .client import GateClient, GateError, GateUnavailableError, Reward, RewardReport, Selection, Weights
from .demo_data import RewardTable, load_paretobandit, load_table

MOVING_WINDOW = 500
LIVE_EVERY_S = 0.1
PLAIN_EVERY_S = 5.0
MAX_BATCH = 256
OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
CTRL_C = "interrupted"

Show = Callable[["Tally"], None]


class DemoError(Exception):
    """The data does not fit the service; the message says how to make it."""


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


def demo(
    url: str,
    data: Path | None,
    k: int,
    limit: int | None,
    seed: int,
    batch: int,
    json_output: bool,
    *,
    console: Console | None = None,
    connect: Callable[[str], GateClient] = GateClient,
) -> int:
    """Run the demo against the service at `url`; answers the exit code.

    With `json_output` standard output holds the result as JSON, and everything else goes to standard error.

    Returns:
        0 done, 1 the service failed or does not fit the data, 2 bad input, 130 interrupted.
    """
    console = console or Console(stderr=json_output)
    try:
        table = load_paretobandit() if data is None else load_table(data)
        with connect(url) as client:
            result = run_demo(client, table, k=k, limit=limit, seed=seed, batch=batch, console=console)
    except GateUnavailableError as error:
        _complain(console, f"{error}\nIs the service running? Start it with `make run`.")
        return FAILED
    except (GateError, DemoError) as error:
        _complain(console, str(error))
        return FAILED
    except ValueError as error:
        _complain(console, str(error))
        return BAD_INPUT
    if json_output:
        Console().print_json(data=asdict(result))
    return result.exit_code


def run_demo(
    client: GateClient,
    table: RewardTable,
    *,
    k: int = 4,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 8,
    console: Console,
    clock: Callable[[], float] = time.perf_counter,
) -> DemoResult:
    """Stream up to `limit` prompts, in an order drawn with `seed`, and print the closing table.

    Model number i of the table plays uid i; each request asks for `k` uids for each of `batch` prompts. A failure
    or Ctrl-C on the way ends the run, not the account of it.

    Raises:
        DemoError: the service knows fewer uids than the table has models.
        GateError: the service does not answer, or not as it should.
        ValueError: `k`, `limit` or `batch` is out of range.
    """
    if k < 1 or not 1 <= batch <= MAX_BATCH or (limit is not None and limit < 1):
        raise ValueError(f"k is {k}, limit {limit}, batch {batch}; all must be 1 or more, batch at most {MAX_BATCH}")
    _check_uids(client.state(), len(table.models))
    table = table.take(random.Random(seed).sample(range(len(table.prompts)), len(table.prompts))[:limit])
    tally, stopped, started_s = Tally(), None, clock()
    try:
        with _view(console, table, clock) as show:
            for _ in _stream(client, table, k=k, batch=batch, tally=tally, clock=clock):
                tally.elapsed_s = clock() - started_s
                show(tally)
    except KeyboardInterrupt:
        stopped = CTRL_C
    except (GateError, DemoError) as error:
        stopped = str(error)
    result = _result(tally, table.take(range(tally.prompts)), k=k, seed=seed, stopped=stopped)
    console.print(_closing_table(result))
    if stopped:
        _complain(console, f"stopped early: {stopped}")
    return result


def _stream(
    client: GateClient, table: RewardTable, *, k: int, batch: int, tally: Tally, clock: Callable[[], float]
) -> Iterator[None]:
    """Select and reward, one request after the other; yields after each is booked in `tally`."""
    candidates = range(len(table.models))
    for start in range(0, len(table.prompts), batch):
        rows = range(start, min(start + batch, len(table.prompts)))
        sent_s = clock()
        answer = client.select([table.prompts[row] for row in rows], k=k, uids=candidates)
        latency_s = clock() - sent_s
        rewards = [
            _earned(selection, table.rewards[row]) for row, selection in zip(rows, answer.selections, strict=True)
        ]
        report = client.report(rewards, wait="logged")
        tally.record(rewards, report, answer.weights, latency_s)
        yield


def _earned(selection: Selection, rewards: Sequence[float]) -> Reward:
    if not selection.uids:
        raise DemoError(f"none of the uids 0 to {len(rewards) - 1}, which play the models, is available")
    return Reward(selection.uids, [rewards[uid] for uid in selection.uids], decision_id=selection.decision_id)


def _check_uids(state: dict[str, object], n_models: int) -> None:
    metagraph = state.get("metagraph")
    n = metagraph.get("n") if isinstance(metagraph, dict) else None
    if n is not None and n < n_models:
        raise DemoError(
            f"the data has {n_models} models, the service only {n} uids; "
            "give it a roster with more uids, or the demo data with fewer models"
        )


def _result(tally: Tally, done: RewardTable, *, k: int, seed: int, stopped: str | None) -> DemoResult:
    some = tally.prompts > 0
    return DemoResult(
        prompts=tally.prompts,
        models=done.models,
        k=k,
        seed=seed,
        first_choice_mean=_mean(tally.first_choices),
        last_third_mean=_mean(tally.first_choices[-max(tally.prompts // 3, 1) :]),
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


@contextmanager
def _view(console: Console, table: RewardTable, clock: Callable[[], float]) -> Iterator[Show]:
    """What shows a run while it goes on: drawn in place on a terminal, else a line now and then."""
    if not console.is_terminal:
        yield _at_most_every(PLAIN_EVERY_S, clock, lambda tally: _print_line(console, tally, table))
        return
    columns = (TextColumn("prompts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console)
    task = progress.add_task("prompts", total=len(table.prompts))
    with Live(progress, console=console, auto_refresh=False, transient=True) as live:

        def draw(tally: Tally) -> None:
            progress.update(task, completed=tally.prompts)
            figures = Text(_figures(tally), style="dim")
            live.update(Group(progress, _comparison(tally, table), figures), refresh=True)

        yield _at_most_every(LIVE_EVERY_S, clock, draw)


def _at_most_every(every_s: float, clock: Callable[[], float], show: Show) -> Show:
    next_s = clock() + every_s

    def show_if_due(tally: Tally) -> None:
        nonlocal next_s
        if clock() >= next_s:
            show(tally)
            next_s = clock() + every_s

    return show_if_due


def _print_line(console: Console, tally: Tally, table: RewardTable) -> None:
    moving = tally.moving
    line = (
        f"{tally.prompts}/{len(table.prompts)} prompts  reward (last {len(moving)}) {_number(_mean(moving))}  "
        f"random {_number(table.random_mean)}  best fixed {_number(table.best_fixed_mean)}  "
        f"oracle {_number(table.oracle_mean)}  {_figures(tally)}"
    )
    console.print(Text(line), soft_wrap=True)


def _comparison(tally: Tally, table: RewardTable) -> Table:
    grid = Table.grid(padding=(0, 2))
    rows = (
        (f"moving reward (last {len(tally.moving)})", _mean(tally.moving), "green"),
        ("random", table.random_mean, "bright_black"),
        (f"best fixed ({table.best_fixed_model})", table.best_fixed_mean, "blue"),
        ("oracle", table.oracle_mean, "magenta"),
    )
    for name, value, colour in rows:
        grid.add_row(Text(name), _number(value), Bar(1.0, 0.0, value or 0.0, width=40, color=colour))
    return grid


def _closing_table(result: DemoResult) -> RenderableType:
    table = Table(title=f"{result.prompts} prompts, {len(result.models)} models, k = {result.k}", min_width=50)
    table.add_column("")
    table.add_column("mean reward", justify="right")
    table.add_column("over random", justify="right")
    for name, value in (
        ("first choice", result.first_choice_mean),
        ("first choice, last third", result.last_third_mean),
        ("all chosen", result.all_choices_mean),
        ("random", result.random_mean),
        (f"best fixed ({result.best_fixed_model})", result.best_fixed_mean),
        ("oracle", result.oracle_mean),
    ):
        over = "-" if value is None or result.random_mean is None else f"{value - result.random_mean:+.4f}"
        table.add_row(Text(name), _number(value), over)
    codes = "".join(f", {count} {code}" for code, count in sorted(result.rejected_codes.items()))
    footer = (
        f"{result.prompts_per_s:.1f} prompts/s, select p50 {_number(result.select_p50_ms, 1)} ms, "
        f"p99 {_number(result.select_p99_ms, 1)} ms, version {result.version}\n"
        f"rewards: {result.accepted} accepted, {result.duplicates} duplicates, {result.rejected} rejected{codes}"
    )
    return Group(table, Text(footer))


def _figures(tally: Tally) -> str:
    return (
        f"version {tally.version}  select p50 {_number(tally.latency_ms(0.5), 1)} ms "
        f"p99 {_number(tally.latency_ms(0.99), 1)} ms  {tally.prompts_per_s:.1f} prompts/s  "
        f"rejected {tally.rejected_codes.total()}"
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _complain(console: Console, message: str) -> None:
    console.print(Text(message, style="red"), soft_wrap=True)
