import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gating.policies import (
    Greedy,
    Policy,
    Softmax,
    SquareCB,
    TailExploration,
    best_first,
    greedy,
    softmax,
    squarecb,
    tail_exploration,
)
from gating.selection import systematic_sample

from .frequencies import assert_frequencies_match

score_tables = st.tuples(st.integers(1, 3), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-10, 10, width=16))
)
slots = st.integers(1, 5)
policies = st.one_of(
    st.just(Greedy()),
    st.builds(TailExploration, st.floats(0, 1), st.floats(0, 1), slots),
    st.builds(SquareCB, st.floats(0, 1e6), slots),
    st.builds(Softmax, st.floats(1e-6, 1e3)),
)
EVERY_POLICY = [
    Greedy(),
    TailExploration(0.05),
    TailExploration(0.3, 0.5, explore_slots=2),
    SquareCB(20.0),
    SquareCB(20.0, explore_slots=4),
    Softmax(0.3),
]


@settings(deadline=None)
@given(score_tables, st.integers(1, 14), policies)
def test_probabilities_lie_in_0_to_1_sum_to_k_and_never_fall_as_a_score_rises(scores, k, policy):
    assert isinstance(policy, Policy)
    probabilities = policy.probabilities(scores, k)
    assert probabilities.dtype == np.float64
    assert probabilities.min() >= 0.0
    assert probabilities.max() <= 1.0
    np.testing.assert_allclose(probabilities.sum(axis=1), min(k, scores.shape[1]), rtol=1e-9)
    for row, p in zip(scores, probabilities, strict=True):
        higher = row[:, None] > row[None, :]
        assert (p[:, None] - p[None, :])[higher].min(initial=0.0) >= -1e-12


@settings(deadline=None)
@given(score_tables, st.integers(1, 14), policies, st.data())
def test_a_uid_whose_own_score_rises_is_never_asked_less(scores, k, policy, data):
    uid = data.draw(st.integers(0, scores.shape[1] - 1))
    raised = scores.copy()
    raised[:, uid] += data.draw(st.floats(0, 5, width=16))
    before, after = policy.probabilities(scores, k), policy.probabilities(raised, k)
    assert (after[:, uid] >= before[:, uid] - 1e-9).all()


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=str)
@pytest.mark.parametrize("n", [9, 256])
@pytest.mark.parametrize("k", [1, 4])
def test_logged_propensities_are_the_frequencies(policy, n, k):
    scores = np.random.default_rng(2).normal(size=(1, n)).astype(np.float32)
    probabilities = policy.probabilities(scores, k)
    chosen = systematic_sample(np.tile(probabilities, (20_000, 1)), k, np.random.default_rng(3))
    assert (chosen.sum(axis=1) == k).all()
    assert_frequencies_match(chosen, probabilities[0])


@settings(deadline=None)
@given(score_tables, st.integers(1, 14), st.floats(0.001, 1.0), slots)
def test_the_tail_explores_and_leaves_every_candidate_its_floor(scores, k, epsilon, explore_slots):
    n = scores.shape[1]
    probabilities = tail_exploration(scores, k, epsilon=epsilon, explore_slots=explore_slots)
    assert probabilities.min() >= epsilon / n
    best = np.argsort(-scores, axis=1, kind="stable")
    r = min(explore_slots, k)
    assert (np.take_along_axis(probabilities, best[:, : k - r], axis=1) == 1.0).all()
    if k < n:
        floor = epsilon * r / (n - k + r)
        np.testing.assert_allclose(np.take_along_axis(probabilities, best[:, k - r : k], axis=1), 1 - epsilon + floor)
        np.testing.assert_allclose(np.take_along_axis(probabilities, best[:, k:], axis=1), floor)


def test_one_slot_has_an_epsilon_of_its_own():
    scores = np.float32([[0.1, 0.3, 0.2]])
    policy = TailExploration(epsilon=0.3, epsilon_single=0.6)
    np.testing.assert_allclose(policy.probabilities(scores, 1), [[0.2, 0.6, 0.2]])
    np.testing.assert_allclose(policy.probabilities(scores, 2), [[0.15, 1.0, 0.85]])


@settings(deadline=None)
@given(score_tables, st.integers(1, 14))
def test_greedy_takes_the_k_best_for_certain(scores, k):
    k = min(k, scores.shape[1])
    probabilities = greedy(scores, k)
    assert set(np.unique(probabilities)) <= {0.0, 1.0}
    assert (probabilities.sum(axis=1) == k).all()
    for row, chosen in zip(scores, probabilities == 1.0, strict=True):
        assert row[chosen].min() >= row[~chosen].max(initial=-np.inf)


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 12)).flatmap(
        lambda shape: arrays(np.float32, shape, elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0]))
    ),
    st.integers(1, 14),
)
def test_the_best_come_first_and_ties_go_to_the_lower_position(scores, k):
    np.testing.assert_array_equal(best_first(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])


def test_squarecb_at_one_slot_is_foster_and_rakhlins():
    scores, gamma = np.array([[0.2, 0.9, 0.4, 0.85]]), 10.0
    others = [1 / (4 + gamma * (0.9 - score)) for score in (0.2, 0.4, 0.85)]
    expected = [others[0], 1 - sum(others), others[1], others[2]]
    np.testing.assert_allclose(squarecb(scores, 1, gamma=gamma)[0], expected)


def test_squarecb_measures_gaps_from_the_last_of_the_best_and_shares_what_is_left():
    scores = np.array([[0.9, 0.8, 0.5, 0.4, 0.1]])
    behind = [2 / (4 + 6 * gap) for gap in (0.1, 0.4)]
    left = (2 - sum(behind)) / 2
    expected = [1.0, left, left, *behind]
    np.testing.assert_allclose(squarecb(scores, 3, gamma=6.0, explore_slots=2)[0], expected)


def test_a_gamma_of_0_draws_the_explored_slots_evenly():
    np.testing.assert_allclose(squarecb(np.array([[3.0, 2.0, 1.0, 0.0]]), 2, gamma=0.0)[0], [1.0, 1 / 3, 1 / 3, 1 / 3])


def test_a_softmax_of_one_slot_is_the_softmax():
    scores = np.array([[0.1, 0.7, 0.3]])
    weights = np.exp(scores / 0.2)
    np.testing.assert_allclose(softmax(scores, 1, temperature=0.2), weights / weights.sum())


def test_what_a_softmax_would_take_twice_is_certain_and_the_rest_is_in_proportion():
    scores = np.log(np.array([[100.0, 60.0, 4.0, 2.0, 2.0]]))
    np.testing.assert_allclose(softmax(scores, 3, temperature=1.0)[0], [1.0, 1.0, 0.5, 0.25, 0.25])


def test_a_softmax_loses_no_digits_where_weights_differ_by_hundreds_of_orders_of_magnitude():
    scores = np.array([[1.0, 0.0, -1.0, -1.0]])
    np.testing.assert_allclose(softmax(scores, 3, temperature=1e-3)[0], [1.0, 1.0, 0.5, 0.5])


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=str)
def test_rows_do_not_depend_on_each_other(policy):
    scores = np.random.default_rng(5).normal(size=(6, 20)).astype(np.float32)
    together = policy.probabilities(scores, 4)
    np.testing.assert_array_equal(together, np.vstack([policy.probabilities(row[None], 4) for row in scores]))


def test_which_slots_explore_is_told():
    counts = [policy.explored(4) for policy in (Greedy(), TailExploration(), SquareCB(explore_slots=3), Softmax())]
    assert counts == [0, 1, 3, 4]
    assert [policy.explored(1) for policy in (TailExploration(explore_slots=2), SquareCB(explore_slots=2))] == [1, 1]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: TailExploration(-0.1), r"epsilon must lie in \[0, 1\], got -0.1"),
        (lambda: TailExploration(math.nan), r"epsilon must lie in \[0, 1\], got nan"),
        (lambda: TailExploration(0.1, 1.5), r"epsilon_single must lie in \[0, 1\], got 1.5"),
        (lambda: TailExploration(0.1, explore_slots=0), "explore_slots must be at least 1, got 0"),
        (lambda: SquareCB(-1.0), "gamma must be a finite number of at least 0, got -1.0"),
        (lambda: SquareCB(math.inf), "gamma must be a finite number"),
        (lambda: SquareCB(1.0, explore_slots=0), "explore_slots must be at least 1, got 0"),
        (lambda: Softmax(0.0), "temperature must be a finite number of at least 1e-06, got 0.0"),
        (lambda: Softmax(math.inf), "temperature must be a finite number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
