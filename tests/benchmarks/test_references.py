import itertools

import numpy as np
import pytest

from benchmarks.references import (
    INFORMED,
    REFERENCES,
    best_fixed,
    expected_at_random,
    folded_ridge,
    informed_share,
    one_pass_ridge,
    references,
)
from benchmarks.streams import Stream, cold_arm

from .worlds import separable_stream, small_stream

REWARDS = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.6], [0.3, 0.6, 0.7]])


def table(rewards=REWARDS, **fields):
    return Stream("stationary", np.eye(len(rewards), dtype=np.float32), rewards, **fields)


def test_the_oracle_has_the_best_of_every_prompt():
    outcome = references(table(), 2)["oracle"]
    assert outcome.chosen.tolist() == [[0, 2], [1, 2], [2, 1]]
    assert outcome.figures()["first"] == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert outcome.figures()["all"] == pytest.approx((0.9 + 0.5 + 0.8 + 0.6 + 0.7 + 0.6) / 6)


def test_the_best_fixed_uids_are_those_with_the_best_means():
    # Means: .467, .5, .6.
    assert best_fixed(table(), 2).tolist() == [[2, 1]] * 3
    assert references(table(), 1)["best fixed"].figures()["first"] == pytest.approx(0.6)


def test_who_comes_later_is_no_fixed_choice_and_no_oracles_before():
    available = np.array([[True, True, False], [True, True, False], [True, True, True]])
    found = references(table(available=available), 2)
    assert found["best fixed"].chosen.tolist() == [[1, 0]] * 3
    assert found["oracle"].chosen.tolist() == [[0, 1], [1, 0], [2, 1]]
    assert found["random"].first == pytest.approx([0.5, 0.5, 1.6 / 3])


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_chance_is_the_mean_over_all_choices_of_k(k):
    rewards = np.random.default_rng(0).random((5, 4))
    outcome = expected_at_random(table(rewards), k)
    for row, earned in enumerate(rewards):
        choices = [[earned[uid] for uid in uids] for uids in itertools.combinations(range(4), k)]
        assert outcome.all[row] == pytest.approx(np.mean(choices))
        assert outcome.best[row] == pytest.approx(np.mean([max(choice) for choice in choices]))


def test_full_information_finds_what_can_be_found():
    stream = separable_stream()
    found = {name: outcome.figures() for name, outcome in references(stream, 1).items()}
    assert list(found) == list(REFERENCES)
    assert found[INFORMED]["first"] > 0.89
    assert found["one-pass full-information ridge"]["first_last_third"] > 0.89
    assert found["best fixed"]["first"] < 0.4


def test_the_one_pass_ridge_knows_no_reward_of_the_request_that_it_answers():
    stream = small_stream(steps=16)
    changed = stream.rewards.copy()
    changed[8:] = 1 - changed[8:]
    other = Stream("stationary", stream.embedding, changed)
    np.testing.assert_array_equal(one_pass_ridge(stream, 2), one_pass_ridge(other, 2))
    # Before there is any reward all are alike.
    assert (one_pass_ridge(stream, 2)[:8] == [0, 1]).all()


def test_the_folded_ridge_has_not_seen_the_prompts_that_it_is_judged_on():
    stream = small_stream(steps=50)
    changed = stream.rewards.copy()
    changed[::5] = 1 - changed[::5]
    other = Stream("stationary", stream.embedding, changed)
    np.testing.assert_array_equal(folded_ridge(stream, 2)[::5], folded_ridge(other, 2)[::5])
    assert (folded_ridge(stream, 2) != folded_ridge(other, 2)).any()


def test_the_informed_ask_a_newcomer_who_is_the_best():
    assert informed_share(cold_arm(small_stream(), np.random.default_rng(0)), 1) > 0.95
