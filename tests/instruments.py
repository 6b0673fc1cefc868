"""Instruments that keep what was told to them, and are as strict as Ray's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Instruments:
    """Stands for `ray.util.metrics`.

    Attributes:
        values: what gauges are at and counters have counted: name, and further tags as `name{tag=value}` -> number.
        observed: what came to histograms, likewise.
    """

    def __init__(self, **common: str) -> None:
        self.values: dict[str, float] = {}
        self.observed: dict[str, list[float]] = {}
        self.declared: dict[str, str] = {}
        self._common = common

    def namespace(self) -> Any:
        return SimpleNamespace(
            Gauge=self._of("gauge", "set", self.values.__setitem__),
            Counter=self._of("counter", "inc", self._increase),
            Histogram=self._of(
                "histogram", "observe", lambda name, value: self.observed.setdefault(name, []).append(value)
            ),
        )

    def _increase(self, name: str, value: float) -> None:
        assert value > 0
        self.values[name] = self.values.get(name, 0) + value

    def _of(self, kind: str, verb: str, keep: Callable[[str, float], Any]) -> Any:
        def build(name: str, description: str, *others: Any) -> Any:
            assert description
            *boundaries, names = others
            assert (kind == "histogram") == bool(boundaries)
            assert isinstance(names, tuple)
            self.declared[name] = kind

            def update(value: float, tags: dict[str, str]) -> None:
                assert isinstance(value, int | float)
                assert set(tags) == set(names)
                assert self._common.items() <= tags.items()
                own = ",".join(f"{tag}={tags[tag]}" for tag in names if tag not in self._common)
                keep(f"{name}{{{own}}}" if own else name, value)

            return SimpleNamespace(**{verb: update})

        return build
