import numpy as np
import pytest

from benchmarks.streams import (
    AUTHORS,
    LONGEST_DELAY,
    SCENARIOS,
    Stream,
    churn,
    cold_arm,
    delayed,
    drift,
    missing_and_noisy,
    poisoned,
    stationary,
)

from .worlds import small_stream


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_stream_is_the_prompts_in_an_order_that_a_seed_stands_for():
    embedding, rewards = rng().normal(size=(50, 3)).astype(np.float32), rng(1).random((50, 4))
    first, again, other = (stationary(embedding, rewards, rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.embedding, embedding[first.rows])
    np.testing.assert_array_equal(first.rewards, rewards[first.rows])
    np.testing.assert_array_equal(np.sort(first.rows), np.arange(50))
    np.testing.assert_array_equal(first.rows, again.rows)
    assert (first.rows != other.rows).any()


def test_a_shorter_stream_is_the_beginning_of_the_whole_one():
    embedding, rewards = rng().normal(size=(50, 3)).astype(np.float32), rng(1).random((50, 4))
    whole, short = stationary(embedding, rewards, rng()), stationary(embedding, rewards, rng(), 20)
    assert short.steps == 20
    np.testing.assert_array_equal(short.rewards, whole.rewards[:20])


def test_a_request_has_eight_prompts_at_most_and_ends_where_something_changes():
    stream = Stream("", np.zeros((30, 2)), np.zeros((30, 3)), newcomers={11: (0,)}, half=15)
    assert [steps.tolist()[0] for steps in stream.requests()] == [0, 8, 11, 15, 16, 24]
    np.testing.assert_array_equal(np.concatenate(stream.requests()), np.arange(30))


def test_drift_swaps_exactly_the_best_and_the_worst_from_half_time_on():
    before = small_stream()
    after = drift(before, rng())
    assert after.half == 200
    np.testing.assert_array_equal(after.rewards[:200], before.rewards[:200])
    np.testing.assert_array_equal(after.rewards[200:], before.rewards[200:][:, [4, 1, 2, 3, 0]])


def test_the_best_uid_of_a_cold_arm_cannot_be_chosen_before_half_time():
    stream = cold_arm(small_stream(), rng())
    assert not stream.available[:200, 0].any()
    assert stream.available[200:].all()
    assert stream.available[:, 1:].all()
    assert np.isneginf(stream.worth[:200, 0]).all()
    np.testing.assert_array_equal(stream.worth[200:], stream.rewards[200:])


def test_churn_gives_one_in_a_hundred_uids_another_owner_every_500_prompts():
    before = small_stream(steps=1_700, uids=300)
    after = churn(before, rng())
    assert list(after.newcomers) == [500, 1_000, 1_500]
    changed = set()
    for step, uids in after.newcomers.items():
        assert len(set(uids)) == 3
        changed |= set(uids)
        np.testing.assert_array_equal(after.rewards[: min(after.newcomers)], before.rewards[: min(after.newcomers)])
        for uid in uids:
            later = after.rewards[step : step + 500, uid]
            # It has the skills of somebody.
            assert (np.abs(before.rewards[step : step + 500] - later[:, None]).max(axis=0) == 0).any()
    others = sorted(set(range(300)) - changed)
    np.testing.assert_array_equal(after.rewards[:, others], before.rewards[:, others])
    assert (after.rewards[500:, after.newcomers[500]] != before.rewards[500:, after.newcomers[500]]).any()


def test_a_small_network_has_one_newcomer_at_a_time():
    assert [len(uids) for uids in churn(small_stream(steps=1_100), rng()).newcomers.values()] == [1, 1]


def test_delays_are_lognormal_with_a_median_of_50_and_end_at_1000():
    delay = delayed(small_stream(steps=4_000), rng()).delay
    assert delay.min() >= 0
    assert delay.max() == LONGEST_DELAY
    assert np.median(delay) == pytest.approx(50, rel=0.1)
    assert np.log(delay[(delay > 5) & (delay < LONGEST_DELAY)]).std() == pytest.approx(1.1, abs=0.15)


def test_three_reports_in_ten_are_missing_and_the_others_are_noisy():
    stream = small_stream(steps=4_000)
    reported = missing_and_noisy(stream, rng()).reported
    known = ~np.isnan(reported)
    assert known.mean() == pytest.approx(0.7, abs=0.01)
    off = (reported - stream.rewards)[:, 2][known[:, 2]]
    assert off.mean() == pytest.approx(0.0, abs=0.02)
    assert off.std() == pytest.approx(0.2, abs=0.02)
    assert np.nanmin(reported) >= 0
    assert np.nanmax(reported) <= 1


def test_one_author_in_twenty_lies_and_always_does():
    before = small_stream(steps=4_000)
    after = poisoned(before, rng())
    lies = before.authors == 0
    assert lies.mean() == pytest.approx(1 / AUTHORS, abs=0.01)
    np.testing.assert_array_equal(after.reported[lies], 1 - before.rewards[lies])
    np.testing.assert_array_equal(after.reported[~lies], before.rewards[~lies])
    np.testing.assert_array_equal(after.rewards, before.rewards)
    assert set(after.names(np.arange(4_000))) == {f"author-{number}" for number in range(20)}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_the_same_whenever_its_seed_is_and_changes_no_stream_but_its_own(name):
    stream = small_stream()
    rewards = stream.rewards.copy()
    first, again = SCENARIOS[name](stream, rng(3)), SCENARIOS[name](stream, rng(3))
    np.testing.assert_array_equal(stream.rewards, rewards)
    for field in ("rewards", "available", "reported", "delay", "authors"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert first.newcomers == again.newcomers
