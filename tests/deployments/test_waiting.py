from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.waiting import Job, WaitingTexts


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def build_job(loop: asyncio.AbstractEventLoop, tokens: int, arrived_s: float = 0.0) -> Job:
    return Job("", tokens, arrived_s, loop, lambda job, outcome: None)


def fill(loop: asyncio.AbstractEventLoop, waiting: WaitingTexts, *tokens: int) -> None:
    for arrived_s, count in enumerate(tokens):
        waiting.add(build_job(loop, count, arrived_s))


def take(waiting: WaitingTexts, budget: int, now_s: float) -> list[int]:
    return [job.tokens for job in waiting.take(budget, now_s)]


def test_the_oldest_comes_first_and_then_the_shortest(loop: asyncio.AbstractEventLoop) -> None:
    waiting = WaitingTexts(100.0)
    fill(loop, waiting, 10, 9, 2, 5, 1, 8)
    assert take(waiting, 18, 6.0) == [10, 1, 2, 5]
    assert take(waiting, 18, 6.0) == [9, 8]
    assert take(waiting, 18, 6.0) == []


def test_who_has_waited_too_long_goes_before_everyone_that_came_later(loop: asyncio.AbstractEventLoop) -> None:
    waiting = WaitingTexts(4.0)
    fill(loop, waiting, 10, 9, 2, 8, 1, 3)
    # At 6 s the first three are overdue.
    assert take(waiting, 25, 6.0) == [10, 9, 2, 1, 3]
    fill(loop, waiting, 10, 9)
    waiting = WaitingTexts(0.0)
    fill(loop, waiting, 10, 9, 1)
    # The last would fit, and must not pass the second.
    assert take(waiting, 18, 6.0) == [10]


def test_a_text_over_the_budget_goes_alone(loop: asyncio.AbstractEventLoop) -> None:
    waiting = WaitingTexts(100.0)
    fill(loop, waiting, 50, 1, 60)
    assert take(waiting, 20, 3.0) == [50]
    assert take(waiting, 20, 3.0) == [1]
    assert take(waiting, 20, 3.0) == [60]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 40)),
        st.tuples(st.just("drop"), st.integers(0, 10**6)),
        st.tuples(st.just("take"), st.integers(1, 60)),
    ),
    max_size=120,
)


@given(steps=STEPS, max_overtaken_s=st.sampled_from([0.0, 3.0, 10.0, 1e9]))
def test_nobody_starves_nothing_is_taken_twice_and_batches_keep_the_budget(
    loop: asyncio.AbstractEventLoop, steps: list[tuple[str, int]], max_overtaken_s: float
) -> None:
    waiting = WaitingTexts(max_overtaken_s)
    live: list[Job] = []
    for now_s, (step, number) in enumerate([*steps, *[("take", 60)] * 120]):
        if step == "add":
            live.append(build_job(loop, number, now_s))
            waiting.add(live[-1])
        elif step == "drop" and live:
            waiting.remove(live.pop(number % len(live)))
        elif step == "take":
            batch = waiting.take(number, now_s)
            assert batch[:1] == live[:1]
            assert sum(job.tokens for job in batch) <= number or len(batch) == 1
            assert len(set(map(id, batch))) == len(batch)
            assert all(job in live for job in batch)
            left = [job for job in live if job not in batch]
            overdue = [job.arrived_s for job in left if now_s - job.arrived_s >= max_overtaken_s]
            assert all(job.arrived_s < min(overdue, default=1e9) for job in batch)
            live = left
        assert list(waiting) == live
        assert len(waiting) == len(live)
    assert live == []


def test_what_was_dropped_does_not_pile_up_behind_what_is_never_taken(loop: asyncio.AbstractEventLoop) -> None:
    waiting = WaitingTexts(1e9)
    waiting.add(build_job(loop, 1))
    for _ in range(10_000):
        job = build_job(loop, 1000)
        waiting.add(job)
        waiting.remove(job)
    assert len(waiting._by_length) < 100
    assert len(waiting._by_age) < 100
