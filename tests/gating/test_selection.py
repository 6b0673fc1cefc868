import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gating.policies import Greedy, Softmax, SquareCB, TailExploration
from gating.selection import inclusion_probabilities, ordinary_bonus, select, systematic_sample

from .frequencies import assert_frequencies_match

score_tables = st.tuples(st.integers(1, 3), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-10, 10, width=16))
)
policies = st.one_of(
    st.just(Greedy()),
    st.builds(TailExploration, st.floats(0, 1), st.floats(0, 1), st.integers(1, 3)),
    st.builds(SquareCB, st.floats(0, 1e3), st.integers(1, 3)),
    st.builds(Softmax, st.floats(1e-3, 10)),
)
seeds = st.integers(0, 2**32 - 1)


def generator(seed=0):
    return np.random.default_rng(seed)


def random_inclusion(rng, n, k):
    """Any vector in [0, 1]^n that sums to k is a mixture of sets of k; this is one."""
    sets = np.stack([np.isin(np.arange(n), rng.choice(n, k, replace=False)) for _ in range(6)])
    return np.clip(rng.dirichlet(np.ones(len(sets))) @ sets, 0.0, 1.0)


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


def test_the_propensity_of_a_choice_is_how_often_it_is_chosen():
    scores = np.tile(np.float32([0.9, 0.1, 0.5, 0.4, 0.7]), (20_000, 1))
    selections = select(scores, np.array([10, 11, 12, 13, 14]), 3, policy=TailExploration(0.4), generator=generator())
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


@settings(deadline=None)
@given(score_tables, st.integers(1, 14), policies, seeds)
def test_a_selection_is_best_first_with_the_scores_and_propensities_of_its_uids(scores, k, policy, seed):
    candidates = 100 - 3 * np.arange(scores.shape[1])
    selections = select(scores, candidates, k, policy=policy, generator=generator(seed))
    assert len(selections) == len(scores)
    expected = inclusion_probabilities(scores, min(k, len(candidates)), policy)
    for row, probabilities, selection in zip(scores, expected, selections, strict=True):
        columns = (100 - selection.uids) // 3
        assert len(set(columns.tolist())) == min(k, len(candidates))
        np.testing.assert_array_equal(candidates[columns], selection.uids)
        np.testing.assert_array_equal(row[columns], selection.scores)
        assert (np.diff(selection.scores) <= 0).all()
        np.testing.assert_array_equal(selection.propensities, probabilities[columns])


def test_without_epsilon_the_best_are_chosen_and_nothing_is_drawn():
    rng = generator()
    before = rng.bit_generator.state
    [selection] = select(
        np.float32([[0.1, 0.3, 0.2]]), np.array([7, 8, 9]), 2, policy=TailExploration(0.0), generator=rng
    )
    assert selection.uids.tolist() == [8, 9]
    assert selection.propensities.tolist() == [1.0, 1.0]
    assert rng.bit_generator.state == before


def test_ties_go_to_the_lower_position():
    [selection] = select(
        np.zeros((1, 5), np.float32), np.array([4, 2, 9, 1, 3]), 3, policy=TailExploration(0.0), generator=generator()
    )
    assert selection.uids.tolist() == [4, 2, 9]


def test_the_same_seed_draws_the_same():
    scores = generator(4).normal(size=(50, 20))
    first, second = (
        select(scores, np.arange(20), 4, policy=TailExploration(0.5), generator=generator(5)) for _ in range(2)
    )
    assert [s.uids.tolist() for s in first] == [s.uids.tolist() for s in second]


@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_fewer_candidates_than_k_are_all_chosen(epsilon):
    [selection] = select(
        np.float32([[0.1, 0.3]]), np.array([5, 6]), 4, policy=TailExploration(epsilon), generator=generator()
    )
    assert selection.uids.tolist() == [6, 5]
    assert selection.propensities.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_without_candidates_the_selections_are_empty(epsilon):
    nobody = np.empty(0, np.int64)
    selections = select(np.empty((2, 0), np.float32), nobody, 4, policy=TailExploration(epsilon), generator=generator())
    assert [len(s.uids) + len(s.scores) + len(s.propensities) for s in selections] == [0, 0]


@pytest.mark.parametrize(
    ("k", "columns", "says"), [(0, 3, "k must be at least 1, got 0"), (1, 2, "scores has 2 columns for 3 candidates")]
)
def test_what_makes_no_sense_is_refused(k, columns, says):
    with pytest.raises(ValueError, match=says):
        select(np.zeros((1, columns)), np.arange(3), k, policy=Greedy(), generator=generator())


def test_the_default_policy_draws_what_it_always_drew():
    """The choices of one slot that explores, from a seed, as they were before there were other policies."""
    scores = generator(4).normal(size=(50, 20)).astype(np.float32)
    selections = select(scores, np.arange(20), 4, policy=TailExploration(0.5), generator=generator(5))
    digest = hashlib.sha256()
    for selection in selections:
        for part in (selection.uids, selection.scores, selection.propensities):
            digest.update(part.tobytes())
    assert digest.hexdigest() == "b2a522f65bdea59cb0930cae1e677a411e42171e9d4a89fb99c3b98240d5258f"


# Twenty uids; the last one is new.
BONUS = np.full(20, 0.05, np.float32)
BONUS[19] = 0.4
ORDINARY = ordinary_bonus(BONUS)
FLAT = np.linspace(0.6, 0.5, 20, dtype=np.float32)[None]


@pytest.mark.parametrize(
    ("policy", "slots"),
    [(TailExploration(), 1), (TailExploration(0.2, explore_slots=3), 3), (SquareCB(1e4), 1), (Softmax(0.01), 4)],
)
def test_a_newcomers_bonus_brings_no_more_than_its_fair_share_of_the_explored_slots(policy, slots):
    uncapped = inclusion_probabilities(FLAT, 4, policy, bonus=BONUS)
    assert uncapped[0, 19] > 0.9
    capped = inclusion_probabilities(FLAT, 4, policy, bonus=BONUS, ordinary=ORDINARY)
    assert capped[0, 19] == pytest.approx(slots / 20)
    assert capped.sum() == pytest.approx(4)


def test_a_newcomer_does_not_take_the_one_slot_of_every_prompt():
    selections = select(
        np.tile(FLAT, (5_000, 1)),
        np.arange(20),
        1,
        policy=TailExploration(),
        generator=generator(),
        bonus=BONUS,
        ordinary=ORDINARY,
    )
    asked = np.array([selection.uids[0] for selection in selections])
    assert set(asked) == {0, 19}
    assert np.mean(asked == 19) == pytest.approx(1 / 20, abs=0.01)
    assert {selection.propensities[0] for selection in selections} == {1 / 20, 1 - 1 / 20}


def test_a_newcomer_keeps_what_it_would_have_with_an_ordinary_bonus():
    scores = FLAT.copy()
    scores[0, 19] = 0.7
    capped = inclusion_probabilities(scores, 4, TailExploration(), bonus=BONUS, ordinary=ORDINARY)
    assert capped[0, 19] == 1.0


def test_those_whom_a_newcomer_pushed_out_get_back_what_it_may_not_have():
    policy = TailExploration(0.0)
    capped = inclusion_probabilities(FLAT, 4, policy, bonus=BONUS, ordinary=ORDINARY)
    np.testing.assert_allclose(capped[0, [0, 1, 2, 3, 19]], [1.0, 1.0, 1.0, 1 - 1 / 20, 1 / 20])


def test_where_all_are_new_nobody_is():
    bonus = np.full(20, 0.4, np.float32)
    np.testing.assert_array_equal(
        inclusion_probabilities(FLAT, 4, Softmax(), bonus=bonus, ordinary=ordinary_bonus(bonus)),
        inclusion_probabilities(FLAT, 4, Softmax(), bonus=bonus),
    )


def test_an_ordinary_bonus_counts_in_full():
    bonus = np.full(20, 0.05, np.float32)
    bonus[10] = 0.0999
    probabilities = inclusion_probabilities(FLAT, 4, TailExploration(0.0), bonus=bonus, ordinary=ordinary_bonus(bonus))
    assert probabilities[0, 10] == 1.0


def test_greedy_takes_no_notice_of_bonuses():
    [selection] = select(FLAT, np.arange(20), 2, policy=Greedy(), generator=generator(), bonus=BONUS)
    assert selection.uids.tolist() == [0, 1]
    np.testing.assert_array_equal(selection.scores, FLAT[0, :2])


def test_the_scores_of_a_selection_include_the_bonus_that_it_was_made_by():
    [selection] = select(FLAT, np.arange(20), 2, policy=TailExploration(0.0), generator=generator(), bonus=BONUS)
    assert selection.uids.tolist() == [19, 0]
    np.testing.assert_array_equal(selection.scores, [FLAT[0, 19] + BONUS[19], FLAT[0, 0] + BONUS[0]])


def test_a_network_of_nobody_has_no_ordinary_bonus():
    assert ordinary_bonus(np.empty(0, np.float32)) == 0.0


@settings(deadline=None)
@given(
    score_tables.flatmap(
        lambda scores: st.tuples(
            st.just(scores), arrays(np.float32, scores.shape[1], elements=st.sampled_from([0.0, 0.25, 0.5, 4.0]))
        )
    ),
    st.integers(1, 12),
    policies,
)
# The second score is so small that it counts as the third.
@example(([[-1.0, 5.9604645e-08, 0.0]], [0.0, 0.0, 0.25]), 1, Softmax(1.0))
def test_capped_probabilities_are_probabilities_that_sum_to_k(table, k, policy):
    scores, bonus = (np.asarray(part, np.float32) for part in table)
    k = min(k, scores.shape[1])
    ordinary = ordinary_bonus(bonus)
    probabilities = inclusion_probabilities(scores, k, policy, bonus=bonus, ordinary=ordinary)
    np.testing.assert_allclose(probabilities.sum(axis=1), k, rtol=1e-9)
    assert probabilities.min() >= 0.0
    assert probabilities.max() <= 1.0
    if policy.explored(k):
        earned = inclusion_probabilities(scores + np.minimum(bonus, np.float32(ordinary)), k, policy)
        most = np.maximum(earned, policy.explored(k) / scores.shape[1])
        assert (probabilities - most)[:, bonus > ordinary].max(initial=0.0) <= 1e-9


@pytest.mark.parametrize("policy", [Greedy(), TailExploration(0.0, 0.0), SquareCB(100.0)], ids=str)
def test_scores_that_differ_by_rounding_only_are_equal_and_the_lowest_uid_comes_first(policy):
    rng = np.random.default_rng(0)
    for level in (0.5, 1e-3, 3000.0):
        exact = np.full((4, 6), level, np.float32)
        noisy = (exact * (1.0 + rng.uniform(-3e-7, 3e-7, exact.shape))).astype(np.float32)
        for k in (1, 3):
            given = {"policy": policy, "bonus": np.full(6, 0.1 * level, np.float32)}
            assert np.array_equal(
                inclusion_probabilities(noisy, k, **given), inclusion_probabilities(exact, k, **given)
            )
    [first, *_] = select(noisy, np.arange(6), 3, policy=Greedy(), generator=rng)
    assert sorted(first.uids.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("tiny", [1e-38, 1e-41, 1e-45])
def test_among_the_smallest_numbers_that_there_are_a_choice_is_made(tiny):
    scores = np.array([[tiny, tiny, 2 * tiny, tiny]], np.float32)
    [chosen] = select(scores, np.arange(4), 2, policy=Greedy(), generator=np.random.default_rng(0))
    assert len(chosen.uids) == 2
    assert chosen.propensities.tolist() == [1.0, 1.0]


def test_scores_that_differ_by_more_are_told_apart():
    scores = np.array([[0.5, 0.50005, 0.4, -0.9]], np.float32)
    [chosen] = select(scores, np.arange(4), 2, policy=Greedy(), generator=np.random.default_rng(0))
    assert chosen.uids.tolist() == [1, 0]
    assert chosen.scores.tolist() == scores[0, [1, 0]].tolist()
    nothing = np.zeros((1, 4), np.float32)
    assert inclusion_probabilities(nothing, 2, Greedy()).tolist() == [[1.0, 1.0, 0.0, 0.0]]
