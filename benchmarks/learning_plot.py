"""The learning benchmark's pictures: regret over the prompts, and the first choice's reward of everybody."""

from __future__ import annotations

import math
import statistics

from deployments import svg

from .learning_tables import HERO, Results, distinct, mean_and_error, only, per_seed

_COLOURS = ("#1f6f8b", "#2a9d57", "#8b5fbf", "#b8860b", "#d1708f", "#5b6ee1", "#7f5539", "#3aa6a6")
_HERO, _REFERENCE = "#c0562f", "#999999"
_DASHES = ("2 3", "6 3", "10 3 2 3", "4 2", "12 4")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 440, 64, 290, 50, 44
_TICKS = 5
_ROW = 26


def draw_regret(results: Results, title: str, hero: str = HERO) -> str:
    """Lines of regret, means over the seeds, of the results of one set, scenario and k; references are dashed."""
    curves = {agent: _curve(only(results, agent=agent)) for agent in distinct(results, "agent")}
    steps = max(curve[-1][0] for curve in curves.values())
    highest = max(regret for curve in curves.values() for _, regret in curve) or 1.0
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(step: float, regret: float) -> tuple[float, float]:
        return _round(_LEFT + step / steps * (right - _LEFT)), _round(bottom - regret / highest * (bottom - _TOP))

    parts = [svg.text(_LEFT, 26, title, size=15)]
    for regret in ticks(0.0, highest):
        y = place(0.0, regret)[1]
        parts.append(svg.line(_LEFT, y, right, y, "#dddddd", 1))
        parts.append(svg.text(_LEFT - 8, y + 4, f"{regret:,.0f}", size=11, anchor="end"))
    for step in ticks(0.0, steps):
        parts.append(svg.text(place(step, 0.0)[0], bottom + 18, f"{step:,.0f}", size=11, anchor="middle"))
    parts.append(svg.text((_LEFT + right) / 2, bottom + 36, "prompts", size=12, anchor="middle"))
    styles = _styles(results, hero)
    by_end = sorted(curves, key=lambda agent: -curves[agent][-1][1])
    for row, agent in enumerate(by_end):
        colour, dashes = styles[agent]
        width, y = 3.0 if agent == hero else 1.6, _TOP + 8 + row * 22
        parts += [
            svg.path([place(*point) for point in curves[agent]], colour, width, dashes=dashes),
            svg.path([(right + 16, y), (right + 44, y)], colour, width, dashes=dashes),
            svg.text(right + 50, y + 4, f"{agent} ({curves[agent][-1][1]:,.0f})", size=11),
        ]
    return svg.document(_WIDTH, max(_HEIGHT, _TOP + 22 * (len(curves) + 1)), title, parts)


def draw_first(results: Results, title: str, hero: str = HERO) -> str:
    """A row an agent, a point a k: the first choice's reward with twice its standard error, of one set's results."""
    ks, agents = sorted(distinct(results, "k")), distinct(results, "agent")
    cells = {
        (agent, k): mean_and_error(values)
        for agent in agents
        for k in ks
        if (values := per_seed(only(results, k=k), agent, "first").values())
    }
    low, high = min(mean for mean, _ in cells.values()), max(mean for mean, _ in cells.values())
    low, high = low - 0.05 * (high - low or 1.0), high + 0.05 * (high - low or 1.0)
    left, bottom = 230, _TOP + _ROW * len(agents) + 10

    def x(value: float) -> float:
        return _round(left + (value - low) / (high - low) * (_WIDTH - left - 30))

    parts = [svg.text(20, 26, title, size=15)]
    for value in ticks(low, high):
        parts.append(svg.line(x(value), _TOP, x(value), bottom, "#dddddd", 1))
        parts.append(svg.text(x(value), bottom + 16, f"{value:.3g}", size=11, anchor="middle"))
    agents.sort(key=lambda agent: -cells[agent, ks[0]][0] if (agent, ks[0]) in cells else 0.0)
    for row, agent in enumerate(agents):
        y = _TOP + 14 + _ROW * row
        parts.append(svg.text(left - 10, y + 4, f"> {agent}" if agent == hero else agent, size=12, anchor="end"))
        for k, colour in zip(ks, _COLOURS, strict=False):
            if (agent, k) in cells:
                mean, error = cells[agent, k]
                parts.append(svg.line(x(mean - 2 * (error or 0)), y, x(mean + 2 * (error or 0)), y, colour, 2))
                parts.append(svg.circle(x(mean), y, 4, colour))
    for place, (k, colour) in enumerate(zip(ks, _COLOURS, strict=False)):
        parts += [
            svg.circle(left + 70 * place, bottom + 32, 4, colour),
            svg.text(left + 70 * place + 10, bottom + 36, f"k = {k}", size=12),
        ]
    return svg.document(_WIDTH, bottom + 48, title, parts)


def ticks(low: float, high: float) -> list[float]:
    """At most six round numbers between the two, at even distances."""
    step = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= _TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * place, 9) for place in range(first, last + 1)]


def _curve(results: Results) -> list[tuple[float, float]]:
    columns = zip(*(result["regret"] for result in results), strict=True)
    return [(column[0][0], statistics.fmean(regret for _, regret in column)) for column in columns]


def _styles(results: Results, hero: str) -> dict[str, tuple[str, str]]:
    references = distinct([result for result in results if result["is_reference"]], "agent")
    others = [agent for agent in distinct(results, "agent") if agent not in references and agent != hero]
    styles = {agent: (_COLOURS[place % len(_COLOURS)], "") for place, agent in enumerate(others)}
    styles |= {agent: (_REFERENCE, _DASHES[place % len(_DASHES)]) for place, agent in enumerate(references)}
    return {**styles, hero: (_HERO, "")}


def _round(value: float) -> float:
    return round(value, 1)
