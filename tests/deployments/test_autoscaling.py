from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from deployments.autoscaling import (
    ReplicaLoad,
    ScalingSettings,
    ScalingState,
    desired_by_default,
    desired_replicas,
    loads_told,
)

SETTINGS = ScalingSettings(
    min_replicas=1,
    max_replicas=10,
    target_delay_s=0.5,
    upscale_delay_s=10.0,
    downscale_delay_s=60.0,
    target_utilization=0.7,
    hysteresis=0.2,
    catch_up_s=30.0,
)
AT_ONCE = replace(SETTINGS, upscale_delay_s=0.0, downscale_delay_s=0.0)
SPEED = 1000.0


def load(queued_s: float = 0.0, offered: float = 0.0, busy: float = 0.0, *, is_refusing: bool = False) -> ReplicaLoad:
    """A replica of a known speed: how long its queue is, and how much of the speed came and of the time was used."""
    return ReplicaLoad(queued_s * SPEED, SPEED, offered * SPEED, busy, is_refusing)


def desired(
    loads: list[ReplicaLoad],
    *,
    running: int | None = None,
    target: int | None = None,
    settings: ScalingSettings = AT_ONCE,
    state: ScalingState | None = None,
    now_s: float = 1000.0,
) -> int:
    running = len(loads) if running is None else running
    number, _ = desired_replicas(
        loads,
        running=running,
        target=running if target is None else target,
        settings=settings,
        state=state or ScalingState(),
        now_s=now_s,
    )
    return number


def decisions(wishes: list[tuple[float, list[ReplicaLoad]]], *, target: int) -> list[int]:
    """What is decided at each time, with the state handed on; what is decided runs at once."""
    state, decided = ScalingState(), []
    for now_s, loads in wishes:
        target, state = desired_replicas(
            loads, running=len(loads), target=target, settings=SETTINGS, state=state, now_s=now_s
        )
        decided.append(target)
    return decided


OVER, RIGHT, IDLE = [load(1.0, 0.9, 1.0)] * 2, [load(0.1, 0.6, 0.6)] * 2, [load(0.0, 0.0, 0.0)] * 2


def test_more_come_only_when_they_were_wanted_for_the_whole_delay() -> None:
    assert decisions([(0, OVER), (9.9, OVER), (10, OVER)], target=2) == [2, 2, 3]
    assert decisions([(0, OVER), (9, RIGHT), (10, OVER), (19, OVER), (20, OVER)], target=2) == [2, 2, 2, 2, 3]
    assert decisions([(0, OVER), (9, IDLE), (10, OVER)], target=2) == [2, 2, 2]


def test_fewer_stay_only_when_they_would_have_done_for_the_whole_delay() -> None:
    assert decisions([(0, IDLE), (59, IDLE), (60, IDLE)], target=2) == [2, 2, 1]
    assert decisions([(0, IDLE), (59, RIGHT), (60, IDLE), (118, IDLE)], target=2) == [2, 2, 2, 2]


def test_the_most_that_was_needed_while_waiting_stays() -> None:
    four_idle, four_in_part = [load()] * 4, [load(0.0, 0.35, 0.35)] * 4
    assert decisions([(0, four_idle), (30, four_in_part), (60, four_idle)], target=4) == [4, 4, 3]


def test_in_between_nothing_changes_whatever_the_time() -> None:
    assert decisions([(now_s, RIGHT) for now_s in range(0, 4000, 100)], target=2) == [2] * 40


def test_as_many_come_as_what_arrives_and_what_waits_need() -> None:
    # 2.1 replicas' worth arrives, at 0.7 of the speed each: 3, which are there, and one more since it is over.
    assert desired([load(0.6, 0.7, 1.0)] * 3) == 4
    # 42 s of work besides, in 30 s: 3.5 replicas' worth.
    assert desired([load(14.0, 0.7, 1.0)] * 3) == 5
    assert desired([load(0.6, 1.4, 1.0)] * 3) == 6


def test_a_step_is_at_most_a_doubling_of_those_that_run_or_a_halving() -> None:
    assert desired([load(30.0, 9.0, 1.0)]) == 2
    assert desired([load(30.0, 9.0, 1.0)], running=1, target=2) == 2
    assert desired([load()] * 9) == 5


def test_refusals_are_overload_however_short_the_queue_is_allowed_to_be() -> None:
    assert desired([load(0.1, 0.6, 1.0), load(0.1, 1.9, 1.0, is_refusing=True)]) == 4


def test_those_that_came_are_given_the_time_to_work_the_queue_off_and_then_one_more_comes() -> None:
    loads, state = [load(2.0, 0.3, 1.0)] * 2, ScalingState(running=2, grew_s=1000.0)
    assert desired(loads, state=state, now_s=1029.0) == 2
    assert desired(loads, state=state, now_s=1030.0) == 3


def test_when_there_came_to_be_more_is_noted() -> None:
    state, grew_s = ScalingState(), []
    for now_s, running in ((1.0, 2), (2.0, 2), (3.0, 3), (4.0, 3), (5.0, 2)):
        _, state = desired_replicas([load()], running=running, target=3, settings=SETTINGS, state=state, now_s=now_s)
        grew_s.append(state.grew_s)
    # Those that were there at first have not just come.
    assert grew_s == [-math.inf, -math.inf, 3.0, 3.0, 3.0]


def test_engines_that_are_busy_stay_even_if_little_comes() -> None:
    # Passes over few tokens take time, too.
    assert desired([load(0.0, 0.05, 0.6)] * 4) == 4
    assert desired([load(0.0, 0.05, 0.05)] * 4) == 2


def test_a_queue_that_fewer_would_not_keep_under_the_target_keeps_them() -> None:
    assert desired([load(0.35, 0.1, 0.1)] * 4) == 4
    assert desired([load(0.25, 0.1, 0.1)] * 4) == 3


def test_while_one_does_not_tell_none_goes() -> None:
    assert desired([load()] * 3, running=4) == 4
    assert desired([load()] * 4, running=4) == 2


def test_those_that_start_are_not_asked_for_twice_and_may_be_called_off() -> None:
    assert desired([load(2.0, 1.2, 1.0)], running=1, target=2) == 2
    assert desired([load()], running=1, target=4) == 2


def test_bounds_hold_at_once_also_when_they_are_new() -> None:
    assert desired([load(0.1, 0.6, 0.6)] * 5, settings=replace(SETTINGS, max_replicas=3)) == 3
    assert desired([load(0.1, 0.6, 0.6)] * 5, settings=replace(SETTINGS, min_replicas=7)) == 7


def test_where_nobody_tells_nothing_changes() -> None:
    assert desired([], running=3) == 3


def test_another_policys_wish_has_the_same_delays_steps_and_bounds() -> None:
    def after(wanted: float, *, state: ScalingState, now_s: float) -> tuple[int, ScalingState]:
        return desired_by_default(wanted, running=2, target=2, settings=SETTINGS, state=state, now_s=now_s)

    number, state = after(2.1, state=ScalingState(), now_s=0.0)
    assert number == 2
    assert after(2.1, state=state, now_s=10.0)[0] == 3
    assert after(9.0, state=state, now_s=10.0)[0] == 4
    number, state = after(0.5, state=ScalingState(), now_s=0.0)
    assert after(0.5, state=state, now_s=60.0)[0] == 1
    # 1.7 replicas would be more than 0.8 of two: nothing changes.
    assert after(1.7, state=state, now_s=60.0)[0] == 2


def test_rates_are_over_what_was_told_of_late() -> None:
    told = {
        "queued_tokens": {"a": [(90.0, 0.0), (100.0, 700.0)]},
        "tokens_per_s": {"a": [(90.0, 900.0), (100.0, 1000.0)]},
        "offered_tokens": {"a": [(90.0, 5000.0), (100.0, 13_000.0)]},
        "refused_tokens": {"a": [(90.0, 50.0), (100.0, 50.0)]},
        "busy_s": {"a": [(90.0, 20.0), (100.0, 25.0)]},
    }
    assert loads_told(told, now_s=101.0, max_age_s=20.0) == [ReplicaLoad(700.0, 1000.0, 800.0, 0.5)]
    told["refused_tokens"]["a"][-1] = (100.0, 51.0)
    [refusing] = loads_told(told, now_s=101.0, max_age_s=20.0)
    assert refusing.is_refusing


def test_who_tells_too_little_or_nothing_of_late_is_left_out() -> None:
    names = ("queued_tokens", "tokens_per_s", "offered_tokens", "refused_tokens", "busy_s")
    told = {name: {"old": [(1.0, 1.0), (2.0, 1.0)], "new": [(99.0, 1.0)]} for name in names}
    told["busy_s"]["half"] = [(90.0, 1.0), (99.0, 1.0)]
    assert loads_told(told, now_s=100.0, max_age_s=20.0) == []
    assert len(loads_told(told, now_s=22.0, max_age_s=20.0)) == 1
    assert loads_told({}, now_s=100.0, max_age_s=20.0) == []


LOADS = st.builds(
    ReplicaLoad,
    queued_tokens=st.floats(0, 1e6),
    tokens_per_s=st.floats(1, 1e6),
    offered_per_s=st.floats(0, 1e6),
    busy=st.floats(0, 1),
    is_refusing=st.booleans(),
)
OF_ONE_SPEED = st.lists(
    st.builds(load, queued_s=st.floats(0, 2), offered=st.floats(0, 2), busy=st.floats(0, 1)), min_size=1, max_size=10
)


@given(st.lists(LOADS, max_size=12), st.integers(1, 12), st.integers(0, 12), st.integers(1, 5), st.integers(0, 5))
def test_bounds_and_steps_hold_whatever_is_told(
    loads: list[ReplicaLoad], running: int, target: int, least: int, more: int
) -> None:
    settings = replace(AT_ONCE, min_replicas=least, max_replicas=least + more)
    number = desired(loads, running=running, target=target, settings=settings)
    assert least <= number <= least + more
    assert number <= max(target, 2 * running, least)
    assert number >= min(math.ceil(target / 2), least + more)


@given(OF_ONE_SPEED, st.permutations(range(10)), st.integers(0, 9), st.floats(0, 5), st.floats(0, 5))
def test_more_load_never_means_fewer_and_it_does_not_matter_whose(
    loads: list[ReplicaLoad], order: list[int], at: int, queued_s: float, offered: float
) -> None:
    before = desired(loads)
    assert desired([loads[index] for index in order if index < len(loads)]) == before
    index = at % len(loads)
    loads[index] = replace(
        loads[index],
        queued_tokens=loads[index].queued_tokens + queued_s * SPEED,
        offered_per_s=loads[index].offered_per_s + offered * SPEED,
    )
    assert desired(loads) >= before


@given(OF_ONE_SPEED)
def test_what_made_some_go_does_not_bring_them_back(loads: list[ReplicaLoad]) -> None:
    fewer = desired(loads)
    if fewer >= len(loads):
        return
    queued_s = sum(one.queued_tokens for one in loads) / SPEED / fewer
    offered = sum(one.offered_per_s for one in loads) / SPEED / fewer
    busy = min(sum(one.busy for one in loads) / fewer, 1.0)
    assert desired([load(queued_s, offered, busy)] * fewer) <= fewer
