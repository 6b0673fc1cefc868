import dataclasses

import numpy as np
import pytest

from gating.policies import Greedy, Softmax, TailExploration
from learner.evaluation import Estimate, Evidence, Status, evaluate, unreachable_share

from .full_matrix import CASES, Case, build_world, coverage, draw_evidence, true_value


def evidence(**given):
    """Three decisions of five candidates, the last of which asked one uid only."""
    values = {
        "asked": np.array([[True, True], [True, True], [True, False]]),
        "propensities": np.array([[1.0, 0.5], [1.0, 0.25], [0.5, 1.0]]),
        "rewards": np.array([[0.5, 1.0], [0.0, 0.25], [1.0, 0.0]]),
        "target": np.array([[1.0, 0.4], [0.8, 0.1], [0.3, 0.0]]),
        "predicted": np.array([[0.25, 0.5], [0.5, 0.5], [0.75, 0.0]]),
        "slots": np.array([2, 2, 1]),
        "baseline": np.array([0.4, 0.3, 0.6]),
        "candidates": np.array([5, 5, 5]),
    }
    return Evidence(**{**values, **given})


def certain(count, target, **given):
    """Decisions of three candidates, of which the two that were asked had no alternative."""
    values = {
        "asked": np.ones((count, 2), bool),
        "propensities": np.ones((count, 2)),
        "rewards": np.tile([0.5, 0.75], (count, 1)),
        "target": np.tile(np.asarray(target, float), (count, 1)),
        "predicted": np.zeros((count, 2)),
        "slots": np.full(count, 2),
        "baseline": np.zeros(count),
        "candidates": np.full(count, 3),
    }
    return Evidence(**{**values, **given})


def around(values, value):
    margin = 1.959964 * np.std(values, ddof=1) / np.sqrt(len(values))
    return (pytest.approx(value), pytest.approx(value - margin), pytest.approx(value + margin))


def numbers(estimate):
    assert estimate.status is Status.OK
    return (estimate.value, estimate.low, estimate.high)


def test_the_estimates_are_their_formulas():
    found = evaluate(evidence())
    weights = np.array([(1.0 + 0.8) / 2, (0.8 + 0.4) / 2, 0.6])
    ips = np.array([(0.5 + 0.8) / 2, (0.4 * 0.25) / 2, 0.6])
    assert found.decisions == 3
    assert found.mean_weight == pytest.approx(weights.mean())
    assert found.effective_sample_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert numbers(found.logged) == around([0.75, 0.125, 1.0], 1.875 / 3)
    assert numbers(found.ips) == around(ips, ips.mean())
    value = ips.sum() / weights.sum()
    assert numbers(found.snips) == around((ips - value * weights) / weights.mean(), value)
    dr = [
        0.4 + (1.0 * 0.25 + 0.8 * 0.5) / 2,
        0.3 + (0.8 * -0.5 + 0.4 * -0.25) / 2,
        0.6 + 0.6 * 0.25,
    ]
    assert numbers(found.dr) == around(dr, np.mean(dr))


def test_what_is_padded_does_not_count():
    strange = evidence(
        rewards=np.array([[0.5, 1.0], [0.0, 0.25], [1.0, 77.0]]),
        target=np.array([[1.0, 0.4], [0.8, 0.1], [0.3, 77.0]]),
        propensities=np.array([[1.0, 0.5], [1.0, 0.25], [0.5, 1e-9]]),
        predicted=np.array([[0.25, 0.5], [0.5, 0.5], [0.75, 77.0]]),
    )
    assert evaluate(strange) == evaluate(evidence())


def test_the_logging_policy_itself_is_worth_what_it_earned():
    drawn = draw_evidence(build_world(9), CASES[2], np.random.default_rng(0))
    found = evaluate(dataclasses.replace(drawn, target=drawn.propensities))
    assert found.mean_weight == pytest.approx(1.0)
    assert found.effective_sample_size == pytest.approx(found.decisions)
    for name in ("ips", "snips"):
        assert numbers(getattr(found, name)) == pytest.approx(numbers(found.logged))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.num_uids}-{case.k}-{case.target}")
def test_intervals_hold_the_true_value_in_nine_of_ten_logs(case):
    """On data in which every reward is known. With a true coverage of 95%, 200 logs give 90% all but surely."""
    for name, (holds, error, width) in coverage(case).items():
        assert holds >= 0.9, name
        # Not by being too wide, nor is the value off: the error of a mean over 200.
        assert abs(error) < 4 * width / 3.92 / 200**0.5, name


def test_a_model_narrows_the_interval_and_a_wrong_one_does_no_harm():
    """Where rewards are what the model says, nothing is left to chance but the prompts."""
    world = build_world(9)
    expected = 1 / (1 + np.exp(-world.target_scores))
    case = Case(9, 1, TailExploration(epsilon_single=0.8), Greedy(), 2_000)
    rng = np.random.default_rng(3)
    calm = dataclasses.replace(world, rewards=expected)
    drawn = draw_evidence(calm, case, rng)
    found, truth = evaluate(drawn), true_value(calm, case)
    assert found.dr.high - found.dr.low < 0.5 * (found.ips.high - found.ips.low)
    wrong = evaluate(dataclasses.replace(drawn, predicted=drawn.predicted + 3.0, baseline=drawn.baseline + 3.0))
    for estimate in (found.dr, wrong.dr):
        # Twice as wide as the interval: one in ten thousand misses it.
        assert abs(estimate.value - truth) < estimate.high - estimate.low


def test_what_the_log_could_not_choose_has_no_number():
    found = evaluate(certain(50, [1.0, 0.5]))
    assert found.unreachable == pytest.approx(0.25)
    assert [found.ips, found.snips, found.dr] == [Estimate(Status.NO_SUPPORT)] * 3
    assert found.logged.value == pytest.approx(0.625)


def test_the_choice_that_was_certain_has_a_number_for_a_target_that_makes_it_too():
    found = evaluate(certain(50, [1.0, 1.0]))
    assert (found.unreachable, found.mean_weight) == (0.0, 1.0)
    assert found.ips.value == found.snips.value == pytest.approx(0.625)


def test_where_all_were_asked_nothing_is_out_of_reach():
    assert (unreachable_share(certain(3, [0.5, 0.25], candidates=np.full(3, 2))) == 0.0).all()


def test_where_one_was_drawn_the_others_may_have_been():
    drawn = certain(2, [0.5, 0.25], propensities=np.array([[1.0, 1.0], [1.0, 0.5]]))
    np.testing.assert_allclose(unreachable_share(drawn), [1 - 0.75 / 2, 0.0])


def test_a_sliver_out_of_reach_is_let_pass():
    assert evaluate(certain(50, [1.0, 0.999])).ips.status is Status.OK
    assert evaluate(certain(50, [1.0, 0.99])).ips.status is Status.NO_SUPPORT


def test_weights_that_average_too_little_are_no_support():
    """Chance was at work, but never for what the target wants."""
    drawn = certain(400, [1.0, 0.1], propensities=np.tile([1.0, 0.5], (400, 1)))
    found = evaluate(drawn)
    assert (found.unreachable, found.mean_weight) == (0.0, pytest.approx(0.6))
    assert [found.ips, found.snips, found.dr] == [Estimate(Status.NO_SUPPORT)] * 3


def test_a_target_that_shares_nothing_with_the_log_has_no_number():
    found = evaluate(certain(400, [0.0, 0.0], propensities=np.tile([1.0, 0.5], (400, 1))))
    assert found.effective_sample_size == 0.0
    assert found.snips.status is Status.NO_SUPPORT


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_decisions_are_no_data(count):
    found = evaluate(certain(count, [1.0, 1.0]))
    assert found.decisions == count
    assert found.logged == found.ips == found.snips == found.dr == Estimate(Status.NO_DATA)
    assert (found.unreachable, found.mean_weight) == (None, None)


def test_a_support_that_is_there_is_not_denied():
    world = build_world(64)
    case = Case(64, 4, Softmax(0.2), TailExploration(0.2, explore_slots=2), 500)
    rng = np.random.default_rng(5)
    found = [evaluate(draw_evidence(world, case, rng, modelled=False)) for _ in range(100)]
    assert {one.ips.status for one in found} == {Status.OK}
