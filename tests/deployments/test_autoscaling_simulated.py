"""The policy over made-up hours: replicas of 4,000 tokens a second that take 15 s to start."""

from __future__ import annotations

import itertools
import math

import pytest

from deployments.autoscaling import ScalingSettings

from .queue_simulator import Moment, Simulator, back_under, changes, turns

TARGET_S, MOST = 0.5, 8
QUIET, STEP = 1000.0, 10_000.0


def simulator(efficiency: float = 0.9, *, shares_evenly: bool = False) -> Simulator:
    settings = ScalingSettings(
        min_replicas=1,
        max_replicas=MOST,
        target_delay_s=TARGET_S,
        upscale_delay_s=10.0,
        downscale_delay_s=60.0,
        target_utilization=0.7,
        hysteresis=0.2,
        catch_up_s=30.0,
    )
    return Simulator(settings, efficiency=efficiency, shares_evenly=shares_evenly)


def check_bounds_and_steps(moments: list[Moment]) -> None:
    assert all(1 <= moment.target <= MOST for moment in moments)
    for before, after in itertools.pairwise(moments):
        assert math.ceil(before.target / 2) <= after.target <= max(2 * before.running, before.target)


@pytest.mark.parametrize("shares_evenly", [False, True])
@pytest.mark.parametrize("efficiency", [1.0, 0.9, 0.75])
def test_after_a_step_up_the_delay_is_back_and_after_a_step_down_so_are_the_replicas(
    efficiency: float, shares_evenly: bool
) -> None:
    service = simulator(efficiency, shares_evenly=shares_evenly)
    quiet = service.run(lambda _: QUIET, 120)
    assert {moment.target for moment in quiet} == {1}
    loaded = service.run(lambda _: STEP, 600)
    assert max(moment.delay_s for moment in loaded) > 10 * TARGET_S
    assert back_under(loaded, TARGET_S) < 240
    assert turns(loaded) <= 1
    # No more than a third over what it takes at the target utilization, once all is quiet.
    assert loaded[-1].target <= math.ceil(4 / 3 * STEP / (0.7 * 4000 * efficiency))
    after = service.run(lambda _: QUIET, 600)
    assert after[-1].target == 1
    assert max(moment.delay_s for moment in after) < TARGET_S
    assert turns(after) == 0
    check_bounds_and_steps(service.moments)


def test_a_spike_that_is_over_before_the_delay_brings_nothing() -> None:
    moments = simulator().run(lambda now_s: 8000.0 if 100 <= now_s < 103 else QUIET, 300)
    assert max(moment.delay_s for moment in moments) > TARGET_S
    assert changes(moments) == []


def test_a_spike_that_lasts_is_worked_off_and_leaves_one_replica() -> None:
    service = simulator()
    moments = service.run(lambda now_s: STEP if 100 <= now_s < 140 else QUIET, 600)
    assert back_under(moments, TARGET_S) - 140 < 60
    assert max(moment.target for moment in moments) <= 4
    assert moments[-1].target == 1
    assert turns(moments) == 1
    check_bounds_and_steps(moments)


def test_through_the_day_replicas_follow_and_users_hardly_notice() -> None:
    service = simulator()
    hour_s = 3600.0
    # A day is an hour here.
    moments = service.run(lambda now_s: 8000 - 7000 * math.cos(2 * math.pi * now_s / hour_s), hour_s)
    assert turns(moments) == 1
    assert len(changes(moments)) <= 2 * MOST
    assert max(moment.target for moment in moments) <= 6
    assert moments[-1].target == 1
    over = sum(moment.delay_s > TARGET_S for moment in moments) / len(moments)
    assert over < 0.05
    assert max(moment.delay_s for moment in moments) < 5.0
    check_bounds_and_steps(moments)


def test_load_that_comes_and_goes_faster_than_the_delay_does_not_make_the_replicas_do_so() -> None:
    service = simulator()
    moments = service.run(lambda now_s: 9000.0 if int(now_s) // 30 % 2 else 500.0, 1800)
    assert turns(moments) == 0
    assert back_under(moments, TARGET_S) < 150
    check_bounds_and_steps(moments)


def test_load_that_comes_and_goes_slowly_is_followed_once_each_time() -> None:
    service = simulator()
    moments = service.run(lambda now_s: 9000.0 if int(now_s) // 300 % 2 else 500.0, 3000)
    # Five times up, and down again.
    assert turns(moments) <= 9
    check_bounds_and_steps(moments)


def test_more_than_all_can_do_brings_all_and_no_more() -> None:
    service = simulator()
    moments = service.run(lambda _: 100_000.0, 300)
    assert max(moment.target for moment in moments) == MOST
    assert back_under(moments[:1200], math.inf) == 0
    assert [moment.target for moment in moments if moment.now_s > 100] == [MOST] * 2000
    check_bounds_and_steps(moments)


def test_refusals_alone_bring_more() -> None:
    service = simulator()
    # What is allowed to wait is less than the target.
    service.max_queue_s = 0.2
    moments = service.run(lambda _: STEP, 300)
    assert max(moment.delay_s for moment in moments) < TARGET_S
    assert moments[-1].target >= 3
    assert turns(moments) <= 1
