"""Metrics by a table: what there is, and the figures as they are now. No ray here: the instruments are passed in.

Figures are taken over about once a second, never by each request. So a counter here is told how many there have been
so far, and passes on what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Boundaries for what takes a request's time."""
REPORT_EVERY_S = 1.0
"""How often figures are taken over."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as Ray takes it; it puts `ray_` before it and `_total` behind a counter's.
        kind: what it is.
        help: what it tells, in a line.
        tags: tags besides those that all metrics of its table have.
        boundaries: of a histogram's buckets.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[int | float, ...] = ()

    @property
    def scraped_name(self) -> str:
        """Its name in Prometheus; a histogram's series have `_bucket`, `_count` or `_sum` behind it."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


class Meters:
    """The instruments of a table.

    Args:
        instruments: has `Gauge`, `Counter` and `Histogram`, as `ray.util.metrics` does.
        table: what there is.
        tags: what all of them are tagged with.
    """

    def __init__(self, instruments: Any, table: Sequence[Metric], tags: Mapping[str, str]) -> None:
        self._tags = dict(tags)
        self._instruments = {metric.name: _build(instruments, metric, tuple(tags)) for metric in table}
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}
        self._shown: dict[str, set[str]] = {}

    def set(self, name: str, value: int | float | None, **tags: str) -> None:
        """A gauge is now at `value`; one of which nothing is known stays as it was."""
        if value is not None:
            self._instruments[name].set(float(value), {**self._tags, **tags})

    def set_each(self, name: str, tag: str, values: Mapping[str, int | float]) -> None:
        """A gauge is at these values, by a tag's; those that are no longer among them go to 0."""
        gone = self._shown.get(name, set()) - set(values)
        for value, number in {**dict.fromkeys(gone, 0.0), **values}.items():
            self.set(name, number, **{tag: value})
        self._shown[name] = set(values)

    def count(self, name: str, total: int | float, **tags: str) -> None:
        """There have been `total` so far."""
        key = (name, tuple(tags.values()))
        new = total - self._counted.get(key, 0.0)
        self._counted[key] = total
        if new > 0:
            self._instruments[name].inc(new, {**self._tags, **tags})

    def begin_at(self, name: str, total: int | float) -> None:
        """The first `total` of a counter were told of in an earlier life."""
        self._counted[(name, ())] = total

    def observe(self, name: str, values: Iterable[int | float], **tags: str) -> None:
        """These values have come to a histogram."""
        for value in values:
            self._instruments[name].observe(value, {**self._tags, **tags})


def _build(instruments: Any, metric: Metric, names: tuple[str, ...]) -> Any:
    tags = (*names, *metric.tags)
    if metric.kind == "histogram":
        return instruments.Histogram(metric.name, metric.help, list(metric.boundaries), tags)
    kind = instruments.Gauge if metric.kind == "gauge" else instruments.Counter
    return kind(metric.name, metric.help, tags)
