import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.schedule import BLOCK_S, LONGEST_DELAY_S, Backoff, FollowSchedule, Step


def test_delays_double_from_a_second_to_a_minute_and_start_anew_after_a_success():
    backoff = Backoff(lambda: 1.0)
    assert [backoff.failed() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    backoff.succeeded()
    assert backoff.failed() == 1


@given(st.integers(0, 5000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_longer_than_a_minute_nor_shorter_than_half_of_what_it_would_be(failures, chance):
    backoff, unjittered = Backoff(lambda: chance), Backoff(lambda: 1.0)
    backoff.failures = unjittered.failures = failures
    longest = unjittered.failed()
    assert longest / 2 <= backoff.failed() <= longest <= LONGEST_DELAY_S


def test_nothing_is_due_by_itself_without_an_interval():
    schedule = FollowSchedule(chance=lambda: 0.0)
    schedule.fetched(10.0, 5)
    assert (schedule.step(1e9), schedule.due_in_s(1e9)) == (Step.WAIT, None)
    schedule.failed(10.0)
    assert (schedule.step(1e9), schedule.due_in_s(1e9)) == (Step.WAIT, None)


def test_an_interval_in_seconds_counts_from_the_last_good_view():
    schedule = FollowSchedule(interval_s=60.0, chance=lambda: 0.0)
    schedule.fetched(100.0, 7)
    assert (schedule.step(159.9), schedule.due_in_s(100.0)) == (Step.WAIT, 60.0)
    assert (schedule.step(160.0), schedule.due_in_s(170.0)) == (Step.FETCH, 0.0)


def test_an_interval_in_blocks_looks_once_a_block_and_fetches_when_it_is_over():
    schedule = FollowSchedule(interval_blocks=3, chance=lambda: 0.0)
    schedule.fetched(0.0, 100)
    now_s = 0.0
    for block in (101, 102):
        assert schedule.step(now_s + BLOCK_S - 0.1) is Step.WAIT
        now_s += BLOCK_S
        assert schedule.step(now_s) is Step.LOOK
        schedule.looked(now_s, block)
    schedule.looked(now_s + BLOCK_S, 103)
    assert schedule.step(now_s + BLOCK_S) is Step.FETCH
    schedule.fetched(now_s + BLOCK_S, 103)
    assert schedule.step(now_s + BLOCK_S) is Step.WAIT


@pytest.mark.parametrize("interval", [{"interval_s": 300.0}, {"interval_blocks": 25}])
def test_after_a_failure_it_is_tried_again_sooner_and_then_ever_later(interval):
    schedule = FollowSchedule(**interval, chance=lambda: 1.0)
    schedule.fetched(0.0, 100)
    now_s, delays = 300.0, []
    for _ in range(8):
        schedule.failed(now_s)
        delays.append(schedule.due_in_s(now_s))
        now_s += delays[-1]
        assert schedule.step(now_s) is Step.FETCH
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    schedule.fetched(now_s, 130)
    schedule.failed(now_s + 300.0)
    assert schedule.due_in_s(now_s + 300.0) == 1
