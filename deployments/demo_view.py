"""How a demo looks: the live view while it runs, a line now and then without a terminal, and the closing table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .demo_data import RewardTable
from .demo_tally import DemoResult, Tally, mean

LIVE_EVERY_S = 0.1
PLAIN_EVERY_S = 5.0

Show = Callable[[Tally], None]


@contextmanager
def live_view(console: Console, table: RewardTable, clock: Callable[[], float]) -> Iterator[Show]:
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
        f"{tally.prompts}/{len(table.prompts)} prompts  reward (last {len(moving)}) {_number(mean(moving))}  "
        f"random {_number(table.random_mean)}  best fixed {_number(table.best_fixed_mean)}  "
        f"oracle {_number(table.oracle_mean)}  {_figures(tally)}"
    )
    console.print(Text(line), soft_wrap=True)


def _comparison(tally: Tally, table: RewardTable) -> Table:
    grid = Table.grid(padding=(0, 2))
    rows = (
        (f"moving reward (last {len(tally.moving)})", mean(tally.moving), "green"),
        ("random", table.random_mean, "bright_black"),
        (f"best fixed ({table.best_fixed_model})", table.best_fixed_mean, "blue"),
        ("oracle", table.oracle_mean, "magenta"),
    )
    for name, value, colour in rows:
        grid.add_row(Text(name), _number(value), Bar(1.0, 0.0, value or 0.0, width=40, color=colour))
    return grid


def closing_table(result: DemoResult) -> RenderableType:
    """What a run came to, beside random choice, the best fixed model and the oracle."""
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


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
