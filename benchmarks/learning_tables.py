"""The learning benchmark's results as Markdown: means over the seeds, and whether one agent is really ahead of another.

Every agent plays the same streams, so two are compared by their differences seed by seed: a difference that a t-test
at 95% cannot tell from none is a tie.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

HERO = "pooled_ridge"
Results = list[dict[str, Any]]

# Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom; afterwards the normal's, a little more.
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_T_95_MANY = 2.12
_FIGURES = {"first": "first choice", "first_last_third": "last third", "all": "all k", "best_of_k": "best of k"}
_STEPS = {"drift": "recovered_after", "cold-arm": "adopted_after"}


def distinct(results: Results, *keys: str) -> list[Any]:
    """The different values of these fields, in order of appearance."""
    values = dict.fromkeys(tuple(result[key] for key in keys) for result in results)
    return [value[0] for value in values] if len(keys) == 1 else list(values)


def only(results: Results, **wanted: Any) -> Results:
    """Those with these values."""
    return [result for result in results if all(result[key] == value for key, value in wanted.items())]


def per_seed(results: Results, agent: str, figure: str) -> dict[int, float]:
    """An agent's figure by seed, where it has one."""
    mine = only(results, agent=agent)
    return {result["seed"]: result[figure] for result in mine if result.get(figure) is not None}


def mean_and_error(values: Iterable[float]) -> tuple[float, float | None]:
    """The mean and its standard error; no error of a single value."""
    values = list(values)
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return statistics.fmean(values), error


def verdict(hero: Mapping[int, float], other: Mapping[int, float]) -> str:
    """How the first does against the second by the seeds that both have: `ahead`, `tie`, `behind`, or `one seed`."""
    differences = [hero[seed] - other[seed] for seed in hero if seed in other]
    if len(differences) < 2:
        return "one seed" if differences else ""
    mean, error = mean_and_error(differences)
    degrees = len(differences) - 1
    quantile = _T_95[degrees - 1] if degrees <= len(_T_95) else _T_95_MANY
    if abs(mean) <= quantile * (error or 0.0):
        return "tie"
    return "ahead" if mean > 0 else "behind"


def number(values: Iterable[float]) -> str:
    """`.6123 ± .0012`, or nothing where there are no values."""
    values = list(values)
    if not values:
        return ""
    mean, error = mean_and_error(values)
    return _decimal(mean) if error is None else f"{_decimal(mean)} ± {_decimal(error)}"


def steps(results: Results, figure: str) -> str:
    """The mean of the steps that it took, of those seeds in which it came to that."""
    told = [result[figure] for result in results if figure in result]
    reached = [value for value in told if value is not None]
    if not told:
        return ""
    if not reached:
        return "never"
    never = len(told) - len(reached)
    return f"{statistics.fmean(reached):,.0f}" + (f" (never in {never} of {len(told)})" if never else "")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def details(results: Results, hero: str = HERO) -> str:
    """One table for each set, scenario and k, with every figure."""
    parts = []
    for set_name, scenario, k in distinct(results, "set", "scenario", "k"):
        mine = only(results, set=set_name, scenario=scenario, k=k)
        extra = _STEPS.get(scenario)
        head = ["", *_FIGURES.values(), *([extra.replace("_", " ")] if extra else []), "first", "all k"]
        rows = [
            [
                agent,
                *(number(per_seed(mine, agent, figure).values()) for figure in _FIGURES),
                *([steps(only(mine, agent=agent), extra)] if extra else []),
                *(_against(mine, hero, agent, figure) for figure in ("first", "all")),
            ]
            for agent in distinct(mine, "agent")
        ]
        seeds = len(distinct(mine, "seed"))
        parts.append(f"## {set_name}, {scenario}, k = {k}\n\n{seeds} seeds.\n\n{table(head, rows)}")
    intro = f"The last two columns say how {hero} does against each agent, with the mean difference.\n\n"
    return intro + "\n".join(parts)


def overview(results: Results, hero: str = HERO) -> str:
    """For each set and k one table with a column a scenario, and one of the steps that changes took."""
    parts = []
    for set_name in distinct(results, "set"):
        parts.append(f"### {set_name}\n")
        mine = only(results, set=set_name)
        for k in sorted(distinct(mine, "k")):
            parts.append(_by_scenario(only(mine, k=k), k, hero))
        for scenario, figure in _STEPS.items():
            if changed := only(mine, scenario=scenario):
                parts.append(_by_k(changed, scenario, figure))
    return "\n".join(parts)


def _by_scenario(results: Results, k: int, hero: str) -> str:
    figure = "first" if k == 1 else "all"
    scenarios = distinct(results, "scenario")

    def cell(agent: str, scenario: str) -> str:
        mine = only(results, scenario=scenario)
        said = verdict(per_seed(mine, hero, figure), per_seed(mine, agent, figure)) if agent != hero else ""
        return f"{number(per_seed(mine, agent, figure).values())} {said}".strip()

    head = [f"k = {k}: {_FIGURES[figure]}", *scenarios]
    return table(head, _rows(results, lambda agent: [cell(agent, scenario) for scenario in scenarios]))


def _by_k(results: Results, scenario: str, figure: str) -> str:
    ks = sorted(distinct(results, "k"))
    # An expectation over chance has no steps.
    able = [result for result in results if figure in result]
    head = [f"{scenario}: {figure.replace('_', ' ')}", *(f"k = {k}" for k in ks)]
    return table(head, _rows(able, lambda agent: [steps(only(able, agent=agent, k=k), figure) for k in ks]))


def _rows(results: Results, cells: Callable[[str], list[str]]) -> list[list[str]]:
    return [[agent, *cells(agent)] for agent in distinct(results, "agent")]


def _against(results: Results, hero: str, agent: str, figure: str) -> str:
    mine, others = per_seed(results, hero, figure), per_seed(results, agent, figure)
    if agent == hero or not (said := verdict(mine, others)):
        return ""
    return f"{said} {statistics.fmean(mine[seed] - others[seed] for seed in mine if seed in others):+.4f}"


def _decimal(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")
