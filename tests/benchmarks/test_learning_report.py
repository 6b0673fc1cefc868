from xml.etree import ElementTree

import pytest

from benchmarks.learning_plot import draw_first, draw_regret, ticks
from benchmarks.learning_report import BEGIN, END, PAGE, between_marks, ordered, pictures
from benchmarks.learning_tables import details, mean_and_error, number, overview, per_seed, steps, verdict


def row(agent, seed, first, **other):
    defaults = {"set": "llmrouter", "scenario": "stationary", "k": 1, "steps": None, "is_reference": False}
    figures = {"first": first, "first_last_third": first, "all": first, "best_of_k": first}
    curve = {"regret": [[1, 0.0], [100, 100 * (1 - first)]]}
    return {**defaults, **figures, **curve, "agent": agent, "seed": seed, **other}


def rows(**firsts):
    return [row(agent, 10 + place, first) for agent, many in firsts.items() for place, first in enumerate(many)]


def seeds(*values):
    return dict(enumerate(values))


def test_a_difference_that_is_the_same_with_every_seed_is_none_of_chance():
    # The seeds differ among each other by far more than the agents do.
    assert verdict(seeds(0.5, 0.6, 0.7), seeds(0.49, 0.589, 0.691)) == "ahead"
    assert verdict(seeds(0.49, 0.589, 0.691), seeds(0.5, 0.6, 0.7)) == "behind"


def test_a_difference_within_the_noise_is_a_tie():
    assert verdict(seeds(0.5, 0.6, 0.7), seeds(0.4, 0.65, 0.68)) == "tie"
    assert verdict(seeds(0.5, 0.6), seeds(0.5, 0.6)) == "tie"


def test_the_noise_is_judged_by_students_t():
    # Mean .02, standard error .01: t is 2, below 4.303 for three seeds; with nine of the kind t is 4, above 2.306.
    differences = (0.02, 0.02 + 0.01 * 3**0.5, 0.02 - 0.01 * 3**0.5)
    zero = (0.0,) * 9
    assert verdict(seeds(*differences), seeds(*zero)) == "tie"
    assert verdict(seeds(*differences * 3), seeds(*zero)) == "ahead"
    # t is 3: enough for a normal distribution, not for three seeds.
    assert verdict(seeds(0.03, 0.03 + 0.01 * 3**0.5, 0.03 - 0.01 * 3**0.5), seeds(*zero)) == "tie"


def test_only_seeds_that_both_have_are_compared():
    assert verdict({1: 0.5, 2: 0.6, 3: 0.9}, {2: 0.5, 1: 0.401}) == "ahead"
    assert verdict({1: 0.5}, {1: 0.4}) == "one seed"
    assert verdict({1: 0.5}, {2: 0.4}) == ""


def test_a_number_is_a_mean_with_its_standard_error():
    assert mean_and_error([0.1, 0.2, 0.3]) == (pytest.approx(0.2), pytest.approx(0.1 / 3**0.5))
    assert number([0.1, 0.2, 0.3]) == ".2000 ± .0577"
    assert (number([0.25]), number([1.0]), number([])) == (".2500", "1.0000", "")


def test_steps_say_how_often_it_never_came_to_it():
    assert steps([{"after": 200}, {"after": 1_300}], "after") == "750"
    assert steps([{"after": 200}, {"after": None}], "after") == "200 (never in 1 of 2)"
    assert steps([{"after": None}], "after") == "never"
    assert steps([{}], "after") == ""


def test_the_details_hold_every_figure_and_what_it_is_worth():
    text = details(rows(pooled_ridge=[0.6, 0.7], adagrad=[0.5, 0.601]))
    assert "## llmrouter, stationary, k = 1\n\n2 seeds." in text
    assert "| pooled_ridge | .6500 ± .0500 | .6500 ± .0500 | .6500 ± .0500 | .6500 ± .0500 |  |  |" in text
    assert "| adagrad | .5505 ± .0505 |" in text
    assert "| ahead +0.0995 | ahead +0.0995 |" in text


def test_a_scenario_with_a_change_has_a_column_for_it():
    results = [row("adagrad", seed, 0.5, scenario="drift", recovered_after=240) for seed in (10, 11)]
    assert "| recovered after |" in details(results)
    assert "| 240 |" in details(results)
    assert "| drift: recovered after | k = 1 |" in overview(results)


def test_the_overview_judges_one_choice_by_the_first_and_several_by_all():
    results = [row("pooled_ridge", seed, 0.6 + seed / 100, all=0.4) for seed in (10, 11)]
    results += [row("adagrad", seed, 0.5 + seed / 100, all=0.4) for seed in (10, 11)]
    text = overview(results + [{**result, "k": 4} for result in results])
    assert "| k = 1: first choice | stationary |" in text
    assert "| adagrad | .6050 ± .0050 ahead |" in text
    assert "| k = 4: all k | stationary |" in text
    assert "| adagrad | .4000 ± .0000 tie |" in text


def test_every_line_of_a_table_has_as_many_cells():
    results = [
        *rows(pooled_ridge=[0.6, 0.7], adagrad=[0.5, 0.6]),
        row("adagrad", 10, 0.5, scenario="cold-arm", adopted_after=None),
        row("random", 10, 0.4, scenario="cold-arm", is_reference=True),
    ]
    for text in (details(results), overview(results)):
        for block in text.split("\n\n"):
            lines = [line for line in block.splitlines() if line.startswith("|")]
            assert len({line.count("|") for line in lines}) <= 1


def test_an_agents_figures_are_told_apart_by_seed():
    assert per_seed(rows(a=[0.1, 0.2], b=[0.3]), "a", "first") == {10: 0.1, 11: 0.2}


def test_results_are_in_the_benchmarks_order_whenever_they_were_made():
    made = [
        row("adagrad", 10, 0.5, set="synthetic-256"),
        row("zeta", 10, 0.5),
        row("adagrad", 11, 0.5),
        row("pooled_ridge", 10, 0.5, scenario="drift"),
        row("adagrad", 10, 0.5),
        row("oracle", 10, 0.5),
    ]
    found = ordered(made)
    assert [(one["set"], one["scenario"], one["seed"], one["agent"]) for one in found] == [
        ("llmrouter", "stationary", 10, "oracle"),
        ("llmrouter", "stationary", 10, "adagrad"),
        ("llmrouter", "stationary", 10, "zeta"),
        ("llmrouter", "stationary", 11, "adagrad"),
        ("llmrouter", "drift", 10, "pooled_ridge"),
        ("synthetic-256", "stationary", 10, "adagrad"),
    ]


def test_the_tables_go_between_the_marks_and_nothing_else_changes():
    page = f"above\n\n{BEGIN}\n\nold\n\n{END}\n\nbelow\n"
    once = between_marks(page, "| new |\n")
    assert once == f"above\n\n{BEGIN}\n\n| new |\n\n{END}\n\nbelow\n"
    assert between_marks(once, "| new |\n") == once
    for broken in ("no marks", page + END):
        with pytest.raises(ValueError, match="once each"):
            between_marks(broken, "")


def test_the_page_has_its_marks():
    page = PAGE.read_text(encoding="utf-8")
    assert (page.count(BEGIN), page.count(END)) == (1, 1)


def lines_of(drawing):
    return ElementTree.fromstring(drawing).findall("{http://www.w3.org/2000/svg}polyline")


def test_regret_is_a_line_an_agent_and_the_worst_is_the_highest():
    results = [*rows(pooled_ridge=[0.8, 0.9], adagrad=[0.5, 0.7]), row("oracle", 10, 1.0, is_reference=True)]
    drawing = draw_regret(results, "a < b")
    assert "<title>a &lt; b</title>" in drawing
    # The legend's lines lie to the right of the frame.
    curves = [line for line in lines_of(drawing) if line.get("points").split()[-1].startswith("610.0,")]
    ends = [float(line.get("points").split()[-1].split(",")[1]) for line in curves]
    # In the order of the legend: the greatest regret, 40, at the top of the frame, none at its bottom.
    assert ends == [50.0, pytest.approx(396 - 346 * 15 / 40, abs=0.1), 396.0]
    assert [line.get("stroke-dasharray") for line in curves] == [None, None, "2 3"]
    assert "adagrad (40)" in drawing


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 452, [0, 100, 200, 300, 400]), (0.39, 1.011, [0.4, 0.6, 0.8, 1.0]), (0, 5_608, [0, 2_000, 4_000])],
)
def test_scales_have_round_numbers(low, high, expected):
    assert ticks(low, high) == expected


def test_the_first_choices_picture_has_a_point_for_every_agent_and_k():
    results = rows(pooled_ridge=[0.8, 0.9], adagrad=[0.5, 0.7])
    results += [{**result, "k": 4} for result in rows(pooled_ridge=[0.8, 0.9])]
    circles = ElementTree.fromstring(draw_first(results, "")).findall("{http://www.w3.org/2000/svg}circle")
    # Two of them explain the colours.
    assert len(circles) == 3 + 2


def test_pictures_are_named_after_what_they_show():
    results = [*rows(pooled_ridge=[0.8, 0.9]), row("pooled_ridge", 10, 0.8, scenario="drift", k=4)]
    results.append({**row("pooled_ridge", 10, 0.8, scenario="churn"), "regret": None})
    assert sorted(pictures(results, "learning")) == [
        "learning-first-llmrouter.svg",
        "learning-regret-llmrouter-drift-k4.svg",
        "learning-regret-llmrouter-stationary-k1.svg",
    ]
