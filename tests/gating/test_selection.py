import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gating.selection import greedy, select, systematic_sample, tail_exploration

score_tables = st.tuples(st.integers(1, 3), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-10, 10, width=16))
)
epsilons = st.floats(0.001, 1.0)
seeds = st.integers(0, 2**32 - 1)


def generator(seed=0):
    return np.random.default_rng(seed)


def random_inclusion(rng, n, k):
    """Any vector in [0, 1]^n that sums to k is a mixture of sets of k; this is one."""
    sets = np.stack([np.isin(np.arange(n), rng.choice(n, k, replace=False)) for _ in range(6)])
    return np.clip(rng.dirichlet(np.ones(len(sets))) @ sets, 0.0, 1.0)


def assert_frequencies_match(chosen, probabilities):
    """Chernoff's bound: a true probability is refused in one of 10^6 sets of draws."""
    draws = len(chosen)
    frequency = chosen.mean(axis=0)
    assert (frequency[probabilities == 0.0] == 0.0).all()
    assert (frequency[probabilities == 1.0] == 1.0).all()
    sampled = (probabilities > 0.0) & (probabilities < 1.0)
    p, f = probabilities[sampled], frequency[sampled]
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.nan_to_num(f * np.log(f / p)) + np.nan_to_num((1 - f) * np.log((1 - f) / (1 - p)))
    assert draws * divergence.max(initial=0.0) < math.log(2 * len(probabilities) * 1e6)


@given(score_tables, st.integers(1, 14), epsilons)
def test_inclusion_probabilities_sum_to_k_and_leave_every_candidate_its_floor(scores, k, epsilon):
    n = scores.shape[1]
    probabilities = tail_exploration(scores, k, epsilon=epsilon)
    np.testing.assert_allclose(probabilities.sum(axis=1), min(k, n), rtol=1e-12)
    assert probabilities.min() >= epsilon / n
    assert probabilities.max() <= 1.0
    best = np.argsort(-scores, axis=1, kind="stable")
    assert (np.take_along_axis(probabilities, best[:, : k - 1], axis=1) == 1.0).all()
    if k <= n:
        next_best = np.take_along_axis(probabilities, best[:, k - 1 : k], axis=1)
        np.testing.assert_allclose(next_best, 1.0 if k == n else 1 - epsilon + epsilon / (n - k + 1))


@given(score_tables, st.integers(1, 14))
def test_greedy_takes_the_k_best_for_certain(scores, k):
    k = min(k, scores.shape[1])
    probabilities = greedy(scores, k)
    assert set(np.unique(probabilities)) <= {0.0, 1.0}
    assert (probabilities.sum(axis=1) == k).all()
    for row, chosen in zip(scores, probabilities == 1.0, strict=True):
        assert row[chosen].min() >= row[~chosen].max(initial=-np.inf)


@settings(deadline=None)
@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), seeds)
def test_a_draw_holds_exactly_k_and_only_what_may_be_drawn(size, seed):
    n, k = size
    rng = generator(seed)
    probabilities = np.stack([random_inclusion(rng, n, k) for _ in range(20)])
    chosen = systematic_sample(probabilities, k, rng)
    assert (chosen.sum(axis=1) == k).all()
    assert chosen[probabilities == 1.0].all()
    assert not chosen[probabilities == 0.0].any()


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))), seeds)
def test_any_inclusion_probabilities_are_met_by_the_frequencies(size, seed):
    n, k = size
    probabilities = random_inclusion(generator(seed), n, k)
    chosen = systematic_sample(np.tile(probabilities, (5_000, 1)), k, generator(1))
    assert_frequencies_match(chosen, probabilities)


@pytest.mark.parametrize("n", [9, 256])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("epsilon", [0.05, 1.0])
def test_the_policys_probabilities_are_met_by_the_frequencies(n, k, epsilon):
    scores = generator(2).normal(size=(1, n))
    probabilities = tail_exploration(scores, k, epsilon=epsilon)
    chosen = systematic_sample(np.tile(probabilities, (20_000, 1)), k, generator(3))
    assert (chosen.sum(axis=1) == k).all()
    assert_frequencies_match(chosen, probabilities[0])


def test_the_propensity_of_a_choice_is_how_often_it_is_chosen():
    scores = np.tile(np.float32([0.9, 0.1, 0.5, 0.4, 0.7]), (20_000, 1))
    selections = select(scores, np.array([10, 11, 12, 13, 14]), 3, epsilon=0.4, generator=generator())
    counts, propensities = np.zeros(15), np.zeros(15)
    for selection in selections:
        counts[selection.uids] += 1
        propensities[selection.uids] = selection.propensities
    np.testing.assert_allclose(propensities[[10, 14]], 1.0)
    np.testing.assert_allclose(propensities[[12, 13, 11]], [0.6 + 0.4 / 3, 0.4 / 3, 0.4 / 3])
    np.testing.assert_allclose(counts[10:] / len(selections), propensities[10:], atol=0.02)


def test_any_two_may_be_drawn_together():
    """In a fixed order the grid would only ever pick the first with the third and the second with the fourth."""
    chosen = systematic_sample(np.full((500, 4), 0.5), 2, generator(6))
    assert len(np.unique(chosen, axis=0)) == 6


def test_the_rounding_of_sums_loses_no_choice():
    class StartsAtZero(np.random.Generator):
        def random(self, size):
            return np.zeros(size)

    probabilities = np.full((1, 10), 0.1)
    assert np.cumsum(probabilities)[-1] < 1.0
    assert systematic_sample(probabilities, 1, StartsAtZero(np.random.PCG64(0))).sum() == 1


@given(score_tables, st.integers(1, 14), st.floats(0.0, 1.0), seeds)
def test_a_selection_is_best_first_with_the_scores_and_propensities_of_its_uids(scores, k, epsilon, seed):
    candidates = 100 - 3 * np.arange(scores.shape[1])
    selections = select(scores, candidates, k, epsilon=epsilon, generator=generator(seed))
    assert len(selections) == len(scores)
    for row, selection in zip(scores, selections, strict=True):
        columns = (100 - selection.uids) // 3
        assert len(set(columns.tolist())) == min(k, len(candidates))
        np.testing.assert_array_equal(candidates[columns], selection.uids)
        np.testing.assert_array_equal(row[columns], selection.scores)
        assert (np.diff(selection.scores) <= 0).all()
        expected = tail_exploration(row[None], k, epsilon=epsilon)[0] if epsilon else np.ones(len(row))
        np.testing.assert_array_equal(selection.propensities, expected[columns])


def test_without_epsilon_the_best_are_chosen_and_nothing_is_drawn():
    rng = generator()
    before = rng.bit_generator.state
    [selection] = select(np.float32([[0.1, 0.3, 0.2]]), np.array([7, 8, 9]), 2, epsilon=0.0, generator=rng)
    assert selection.uids.tolist() == [8, 9]
    assert selection.propensities.tolist() == [1.0, 1.0]
    assert rng.bit_generator.state == before


def test_ties_go_to_the_lower_position():
    [selection] = select(np.zeros((1, 5), np.float32), np.array([4, 2, 9, 1, 3]), 3, epsilon=0.0, generator=generator())
    assert selection.uids.tolist() == [4, 2, 9]


def test_the_same_seed_draws_the_same():
    scores = generator(4).normal(size=(50, 20))
    first, second = (select(scores, np.arange(20), 4, epsilon=0.5, generator=generator(5)) for _ in range(2))
    assert [s.uids.tolist() for s in first] == [s.uids.tolist() for s in second]


@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_fewer_candidates_than_k_are_all_chosen(epsilon):
    [selection] = select(np.float32([[0.1, 0.3]]), np.array([5, 6]), 4, epsilon=epsilon, generator=generator())
    assert selection.uids.tolist() == [6, 5]
    assert selection.propensities.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_without_candidates_the_selections_are_empty(epsilon):
    nobody = np.empty(0, np.int64)
    selections = select(np.empty((2, 0), np.float32), nobody, 4, epsilon=epsilon, generator=generator())
    assert [len(s.uids) + len(s.scores) + len(s.propensities) for s in selections] == [0, 0]


@pytest.mark.parametrize(
    ("k", "epsilon", "columns", "says"),
    [
        (0, 0.05, 3, "k must be at least 1, got 0"),
        (1, -0.1, 3, r"epsilon must lie in \[0, 1\], got -0.1"),
        (1, 1.5, 3, r"epsilon must lie in \[0, 1\], got 1.5"),
        (1, math.nan, 3, r"epsilon must lie in \[0, 1\], got nan"),
        (1, 0.05, 2, "scores has 2 columns for 3 candidates"),
    ],
)
def test_what_makes_no_sense_is_refused(k, epsilon, columns, says):
    with pytest.raises(ValueError, match=says):
        select(np.zeros((1, columns)), np.arange(3), k, epsilon=epsilon, generator=generator())
