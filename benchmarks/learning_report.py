"""What the learning benchmark has found, as tables and pictures.

python -m benchmarks.learning_report [--out learning] [--steps 500] [--no-docs]

Reads benchmarks/results/NAME.json and writes beside it NAME.md, with every figure, and the pictures; and, between the
two marks in docs/learning.md, the tables that a reader wants first. Only whole streams count, or with --steps those of
that many prompts, which leave docs/learning.md as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .hardware import RESULTS
from .learning import RULES, SETS, SETS_ANYWHERE
from .learning_plot import draw_first, draw_regret
from .learning_tables import Results, details, distinct, only, overview
from .references import REFERENCES
from .runs import RunFile, read_machine
from .streams import SCENARIOS

PAGE = Path(__file__).parents[1] / "docs" / "learning.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def between_marks(page: str, content: str) -> str:
    """The page with this content between its marks.

    Raises:
        ValueError: a mark is missing, or twice there.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page must have {BEGIN} and {END} once each")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{content.strip()}\n\n{END}{rest.split(END)[1]}"


def measured_on(machine: dict[str, Any], results: Results) -> str:
    """One line: on what, when, with which seeds."""
    seeds = ", ".join(str(seed) for seed in sorted(distinct(results, "seed")))
    return f"{machine['processor']}, {machine['cores']} cores, {machine['date']}; seeds {seeds}.\n"


def pictures(results: Results, name: str) -> dict[str, str]:
    """File name -> SVG."""
    drawn = {}
    with_curves = [result for result in results if result.get("regret")]
    for set_name, scenario, k in distinct(with_curves, "set", "scenario", "k"):
        title = f"{set_name}, {scenario}, k = {k}: what the best first choices would have earned more"
        mine = only(with_curves, set=set_name, scenario=scenario, k=k)
        drawn[f"{name}-regret-{set_name}-{scenario}-k{k}.svg"] = draw_regret(mine, title)
    stationary = only(results, scenario="stationary")
    for set_name in distinct(stationary, "set"):
        title = f"{set_name}, stationary: mean reward of the first choice, with two standard errors"
        drawn[f"{name}-first-{set_name}.svg"] = draw_first(only(stationary, set=set_name), title)
    return drawn


def ordered(results: Results) -> Results:
    """In the benchmark's own order, whenever they were made; what it does not know comes last, by name."""
    orders = [(*SETS, *SETS_ANYWHERE), tuple(SCENARIOS), (*REFERENCES, *RULES)]

    def place(result: dict[str, Any]) -> tuple[Any, ...]:
        names = [result["set"], result["scenario"], result["agent"]]
        known = [order.index(name) if name in order else len(order) for name, order in zip(names, orders, strict=True)]
        return (known[0], names[0], known[1], names[1], result["k"], result["seed"], known[2], names[2])

    return sorted(results, key=place)


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="learning", help="name of the file in benchmarks/results")
    parser.add_argument("--steps", type=int, default=None, help="of the runs of so many prompts")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/learning.md as it is")
    args = parser.parse_args()
    path = RESULTS / f"{args.out}.json"
    results = ordered(only(RunFile(path).results, steps=args.steps))
    if not results:
        raise SystemExit(f"{path} has no such runs; make them with python -m benchmarks.learning")
    line = measured_on(read_machine(path), results)
    written = {RESULTS / f"{args.out}.md": f"# Learning\n\n{line}\n{details(results)}"}
    written |= {RESULTS / file: drawing for file, drawing in pictures(results, args.out).items()}
    if args.steps is None and not args.no_docs:
        written[PAGE] = between_marks(PAGE.read_text(encoding="utf-8"), f"{line}\n{overview(results)}")
    for file, content in written.items():
        file.write_text(content, encoding="utf-8")
        print(file)


if __name__ == "__main__":
    main()
