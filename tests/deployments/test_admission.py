from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.admission import Admission, QueueFullError, Speed


def refused(admission: Admission, queued: int, speed: float | None, in_work: float = 0.0) -> int | None:
    """After how many seconds to try again; None for a request that is let in."""
    try:
        admission.check(queued, in_work, speed)
    except QueueFullError as error:
        return error.retry_after_s
    return None


def test_a_request_is_refused_once_it_would_wait_for_too_long() -> None:
    admission = Admission(max_delay_s=2.0, max_tokens=10**9)
    assert refused(admission, 2000, 1000.0) is None
    assert refused(admission, 2001, 1000.0) == 1
    # 20 s of work wait: in 18 s it would be let in.
    assert refused(admission, 20_000, 1000.0) == 18
    with pytest.raises(QueueFullError, match=r"20000 tokens wait for the engine, 20\.0 s of work .*; 2 s are allowed"):
        admission.check(20_000, 0.0, 1000.0)


def test_what_is_in_work_is_waited_for_too() -> None:
    admission = Admission(max_delay_s=2.0, max_tokens=3000)
    assert refused(admission, 1, 1000.0, in_work=1999.0) is None
    assert refused(admission, 1, 1000.0, in_work=13_000.0) == 12
    # The queue will not be any shorter before.
    assert refused(admission, 3000, 10_000.0, in_work=19_000.0) == 2
    # Otherwise an engine with large batches would run dry.
    assert refused(admission, 0, 1000.0, in_work=13_000.0) is None


def test_until_the_speed_is_known_only_the_tokens_count() -> None:
    admission = Admission(max_delay_s=0.001, max_tokens=100)
    assert refused(admission, 99, None) is None
    assert refused(admission, 100, None) == 1
    assert admission.delay_limit_s(None) == 0.001
    with pytest.raises(QueueFullError, match=r"100 tokens wait for the engine; with 100 the queue is full"):
        admission.check(100, 0.0, None)


def test_the_delay_that_is_told_is_that_of_the_narrower_bound() -> None:
    admission = Admission(max_delay_s=30.0, max_tokens=240_000)
    assert admission.delay_limit_s(1000.0) == 30.0
    assert admission.delay_limit_s(40_000.0) == 6.0
    assert refused(admission, 239_999, 40_000.0) is None
    assert refused(admission, 240_000, 40_000.0) == 1


@given(
    queued=st.integers(0, 10**7),
    speed=st.one_of(st.none(), st.floats(1, 10**6)),
    max_delay_s=st.floats(0.001, 100),
    max_tokens=st.integers(1, 10**7),
)
def test_the_time_to_try_again_is_neither_too_early_nor_a_second_too_late(
    queued: int, speed: float | None, max_delay_s: float, max_tokens: int
) -> None:
    admission = Admission(max_delay_s=max_delay_s, max_tokens=max_tokens)
    again_s = refused(admission, queued, speed)
    if queued == 0:
        assert again_s is None
    if again_s is None or speed is None:
        return
    assert again_s >= 1
    # A token's worth of slack for rounding.
    assert refused(admission, max(int(queued - again_s * speed - 1), 0), speed) is None
    if again_s > 1:
        assert refused(admission, int(queued - (again_s - 1) * speed) + 1, speed) is not None


def test_the_speed_is_that_of_batches_under_load() -> None:
    speed = Speed()
    assert speed.tokens_per_s is None
    speed.note(10, 0.01, budget=1000)
    assert speed.tokens_per_s == pytest.approx(1000)
    # A quiet service's small batches are slow by the token, and say nothing.
    for _ in range(1000):
        speed.note(10, 1.0, budget=1000)
    assert speed.tokens_per_s == pytest.approx(1000)
    for _ in range(30):
        speed.note(1000, 0.1, budget=1000)
    assert speed.tokens_per_s == pytest.approx(10_000, rel=0.02)
    # One batch that stood still does not shut the door.
    speed.note(1000, 100.0, budget=1000)
    assert speed.tokens_per_s == pytest.approx(8000, rel=0.02)
