"""The bar that offline commands show while they replay a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

OnStart = Callable[[int, int], None]
"""Told the first and the last version."""
OnVersion = Callable[[int], None]
"""Told each version that was replayed."""


@contextmanager
def replay_progress(console: Console) -> Iterator[tuple[OnStart, OnVersion]]:
    """A bar while the body runs, and what moves it."""
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TextColumn("events"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("replay", total=None)
        start = 0

        def on_start(first: int, last: int) -> None:
            nonlocal start
            start = first
            progress.update(task, total=last - first)

        yield on_start, lambda version: progress.update(task, completed=version - start)
