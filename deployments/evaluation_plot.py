"""An evaluation as a picture: each estimate with its interval, in an SVG file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import svg

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 640, 90, 30, 44, 64
_ROWS = (("logged", "#7a7a7a"), ("ips", "#1f6f8b"), ("snips", "#1f6f8b"), ("dr", "#c0562f"))
_TICKS = 5


def draw_evaluation(result: Mapping[str, Any]) -> str:
    """The SVG document. An estimate without a number has its status in its place.

    Args:
        result: of `run_evaluation`.
    """
    low, high = _span(result)

    def x(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT), 1)

    bottom = _TOP + _ROW * len(_ROWS)
    k = "as logged" if result["k"] is None else result["k"]
    title = f"{result['selection']['policy']} on {result['rule']['name']}, k {k}: {result['decisions']} decisions"
    parts = [
        svg.text(_LEFT, 28, title, size=15),
        svg.text(_LEFT, 46, "mean reward per asked uid, 95% intervals", size=12),
    ]
    for tick in range(_TICKS + 1):
        value = low + (high - low) * tick / _TICKS
        parts.append(svg.line(x(value), _TOP, x(value), bottom, "#dddddd", 1))
        parts.append(svg.text(x(value), bottom + 18, f"{value:.3g}", size=11, anchor="middle"))
    for index, (name, colour) in enumerate(_ROWS):
        estimate, y = result[name], _TOP + _ROW * index + _ROW // 2
        parts.append(svg.text(_LEFT - 12, y + 4, name, size=13, anchor="end"))
        if estimate["status"] != "ok":
            parts.append(svg.text(_LEFT + 8, y + 4, estimate["status"], size=12))
            continue
        parts.append(svg.line(x(estimate["low"]), y, x(estimate["high"]), y, colour, 3))
        parts.append(svg.circle(x(estimate["value"]), y, 5, colour))
    return svg.document(_WIDTH, bottom + 32, title, parts)


def _span(result: Mapping[str, Any]) -> tuple[float, float]:
    known = [result[name] for name, _ in _ROWS if result[name]["status"] == "ok"]
    low = min((estimate["low"] for estimate in known), default=0.0)
    high = max((estimate["high"] for estimate in known), default=1.0)
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin
