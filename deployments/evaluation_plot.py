"""An evaluation as a picture: each estimate with its interval, in an SVG file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

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
    parts = [_text(_LEFT, 28, title, size=15), _text(_LEFT, 46, "mean reward per asked uid, 95% intervals", size=12)]
    for tick in range(_TICKS + 1):
        value = low + (high - low) * tick / _TICKS
        parts.append(_line(x(value), _TOP, x(value), bottom, "#dddddd", 1))
        parts.append(_text(x(value), bottom + 18, f"{value:.3g}", size=11, anchor="middle"))
    for index, (name, colour) in enumerate(_ROWS):
        estimate, y = result[name], _TOP + _ROW * index + _ROW // 2
        parts.append(_text(_LEFT - 12, y + 4, name, size=13, anchor="end"))
        if estimate["status"] != "ok":
            parts.append(_text(_LEFT + 8, y + 4, estimate["status"], size=12))
            continue
        parts.append(_line(x(estimate["low"]), y, x(estimate["high"]), y, colour, 3))
        parts.append(f'<circle cx="{x(estimate["value"])}" cy="{y}" r="5" fill="{colour}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{bottom + 32}" '
        f'viewBox="0 0 {_WIDTH} {bottom + 32}" role="img" font-family="sans-serif" fill="#222222">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{_WIDTH}" height="{bottom + 32}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _span(result: Mapping[str, Any]) -> tuple[float, float]:
    known = [result[name] for name, _ in _ROWS if result[name]["status"] == "ok"]
    low = min((estimate["low"] for estimate in known), default=0.0)
    high = max((estimate["high"] for estimate in known), default=1.0)
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, size: int, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
