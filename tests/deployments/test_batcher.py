from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from deployments.admission import Admission, QueueFullError
from deployments.batcher import Batcher, EngineDeadError, _finished, estimate_tokens
from deployments.embedding_cache import EmbeddingCache

from .local_service import Engine, Tokens, embed_texts, until

BUDGET = 20


def text_of(tokens: int, name: str) -> str:
    """A text that counts as that many tokens, at least 3."""
    text = name.ljust((tokens - 2) * 4, ".")
    assert estimate_tokens(text) == tokens
    return text


def sizes(engine: Engine) -> list[list[int]]:
    return [[estimate_tokens(text) for text in batch] for batch in engine.batches]


def build_batcher(
    engine: Engine,
    *,
    batch_tokens: int = BUDGET,
    max_delay_s: float = 1e9,
    max_queue_tokens: int = 10**9,
    max_overtaken_s: float = 0.0,
    **others: Any,
) -> Batcher:
    """A batcher without any limit but the budget, unless told so."""
    return Batcher(
        engine,
        admission=Admission(max_delay_s=max_delay_s, max_tokens=max_queue_tokens),
        batch_tokens=batch_tokens,
        max_overtaken_s=max_overtaken_s,
        **{"max_batch_s": 1e9, "linger_s": 0.0, "threads": 1, **others},
    )


async def embed(batcher: Batcher, texts: Sequence[str]) -> torch.Tensor:
    """Embed without sharing anything with other calls."""
    return await EmbeddingCache(batcher, max_bytes=0).embed(texts)


Build = Callable[..., tuple[Batcher, Engine]]


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    built: list[tuple[Batcher, Engine]] = []

    def build_one(**limits: Any) -> tuple[Batcher, Engine]:
        engine = Engine()
        batcher = build_batcher(engine, **limits)
        built.append((batcher, engine))
        return batcher, engine

    yield build_one
    for batcher, engine in built:
        engine.let_through()
        await asyncio.to_thread(batcher.close)


async def held(batcher: Batcher, engine: Engine) -> asyncio.Task[torch.Tensor]:
    """A request that the engine has taken and is held in the middle of."""
    engine.hold()
    task = asyncio.create_task(embed(batcher, ["held"]))
    await until(lambda: engine.batches[-1:] == [["held"]])
    return task


async def queued(batcher: Batcher, *requests: list[str]) -> list[asyncio.Task[torch.Tensor]]:
    """Requests that wait in the queue, in this order, tokenized while the engine works."""
    tasks = []
    for texts in requests:
        waiting = batcher.queued_texts
        tasks.append(asyncio.create_task(embed(batcher, texts)))
        await until(lambda waiting=waiting, texts=texts: batcher.queued_texts == waiting + len(texts))  # type: ignore[misc]
    await until(lambda: not batcher._arrived and not batcher._tokenizing)
    return tasks


async def test_embeddings_come_in_the_order_of_the_texts(build: Build) -> None:
    batcher, _ = build()
    texts = [f"text {number}" for number in range(50)]
    assert torch.equal(await embed(batcher, texts), embed_texts(texts))
    assert batcher.texts_done == 50


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), batch_tokens=st.integers(3, 60), requests=st.integers(1, 40))
def test_concurrent_requests_get_their_own_embeddings_and_batches_keep_the_budget(
    seed: int, batch_tokens: int, requests: int
) -> None:
    dice = random.Random(seed)

    async def request(batcher: Batcher, number: int) -> None:
        texts = [f"{number}-{i}".ljust(dice.randint(4, 80), "x") for i in range(dice.randint(1, 12))]
        for _ in range(dice.randint(0, 5)):
            await asyncio.sleep(0)
        assert torch.equal(await embed(batcher, texts), embed_texts(texts))

    async def main() -> None:
        engine = Engine()
        batcher = build_batcher(
            engine,
            batch_tokens=batch_tokens,
            max_overtaken_s=dice.choice((0.0, 0.001, 1e9)),
            threads=dice.randint(1, 3),
        )
        try:
            await asyncio.gather(*(request(batcher, number) for number in range(requests)))
        finally:
            await asyncio.to_thread(batcher.close)
        assert all(sum(batch) <= batch_tokens or len(batch) == 1 for batch in sizes(engine))
        assert len(set(engine.texts)) == len(engine.texts) == batcher.texts_done
        assert batcher.queued_texts == 0

    asyncio.run(main())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whoever_is_cancelled_the_others_get_their_own_embeddings_and_nothing_is_left(seed: int) -> None:
    dice = random.Random(seed)

    async def main() -> None:
        engine = Engine()
        batcher = build_batcher(
            engine, batch_tokens=BUDGET, max_overtaken_s=dice.choice((0.0, 0.001, 1e9)), threads=dice.randint(1, 3)
        )
        engine.hold()
        requests = [[f"{number}-{i}" for i in range(dice.randint(1, 12))] for number in range(20)]
        tasks = [asyncio.create_task(embed(batcher, texts)) for texts in requests]
        await asyncio.sleep(0)
        cancelled = set(dice.sample(range(20), dice.randint(0, 20)))
        for number in sorted(cancelled, key=lambda _: dice.random()):
            if dice.random() < 0.3:
                engine.let_through(1)
            tasks[number].cancel()
            await asyncio.sleep(0)
        engine.let_through()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for number, (texts, embedding) in enumerate(zip(requests, done, strict=True)):
            if isinstance(embedding, torch.Tensor):
                assert torch.equal(embedding, embed_texts(texts))
            else:
                assert number in cancelled
                assert isinstance(embedding, asyncio.CancelledError)
        await asyncio.to_thread(batcher.close)
        assert (batcher.queued_texts, batcher.queued_tokens) == (0, 0)

    asyncio.run(main())


async def test_a_lone_request_runs_at_once(build: Build) -> None:
    batcher, engine = build()
    await embed(batcher, ["alone"])
    assert engine.batches == [["alone"]]


async def test_what_gathers_while_the_engine_works_runs_together(build: Build) -> None:
    batcher, engine = build()
    first = await held(batcher, engine)
    tasks = await queued(batcher, *[[text_of(4, str(number))] for number in range(6)])
    assert batcher.queued_texts == 6
    engine.let_through()
    await asyncio.gather(first, *tasks)
    assert sizes(engine)[1:] == [[4, 4, 4, 4, 4], [4]]


async def test_a_request_is_split_where_the_budget_ends_and_put_together_again(build: Build) -> None:
    batcher, engine = build()
    first = await held(batcher, engine)
    requests = [[text_of(8, f"a{i}") for i in range(4)], [text_of(3, f"b{i}") for i in range(3)]]
    tasks = await queued(batcher, *requests)
    engine.let_through()
    await first
    for task, texts in zip(tasks, requests, strict=True):
        assert torch.equal(await task, embed_texts(texts))
    # Strictly in order of arrival: the third text of the first request does not fit, so nothing overtakes it.
    assert sizes(engine)[1:] == [[8, 8], [8, 8, 3], [3, 3]]


async def test_a_text_over_the_budget_runs_alone(build: Build) -> None:
    batcher, engine = build()
    first = await held(batcher, engine)
    texts = [text_of(5, "a"), text_of(50, "b"), text_of(50, "c"), text_of(5, "d"), text_of(15, "e")]
    [task] = await queued(batcher, texts)
    engine.let_through()
    await first
    assert torch.equal(await task, embed_texts(texts))
    assert sizes(engine)[1:] == [[5], [50], [50], [5, 15]]


async def test_cancelled_work_is_never_seen_by_the_engine_and_makes_room(build: Build) -> None:
    batcher, engine = build(max_queue_tokens=40)
    first = await held(batcher, engine)
    gone, stays = await queued(batcher, [text_of(10, f"gone {i}") for i in range(3)], [text_of(10, "stays")])
    with pytest.raises(QueueFullError):
        await embed(batcher, ["one more"])
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert batcher.queued_texts == 1
    [late] = await queued(batcher, [text_of(30, "late")])
    engine.let_through()
    await asyncio.gather(first, stays, late)
    assert not any(text.startswith("gone") for text in engine.texts)


async def test_cancelling_half_way_drops_the_rest(build: Build) -> None:
    batcher, engine = build()
    engine.hold()
    task = asyncio.create_task(embed(batcher, [text_of(10, f"part {i}") for i in range(6)]))
    await until(lambda: len(engine.batches) == 1)
    assert batcher.queued_texts == 4
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert batcher.queued_texts == 0
    engine.let_through()
    assert torch.equal(await embed(batcher, ["next"]), embed_texts(["next"]))
    assert len(engine.texts) == 3


async def test_a_text_that_fails_takes_only_its_batch_with_it(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    batcher, engine = build()
    engine.failing["poison"] = ValueError("indigestible")
    first = await held(batcher, engine)
    before, poisoned, after = await queued(
        batcher, [text_of(20, "before")], ["poison", *[text_of(20, f"rest {i}") for i in range(3)]], ["after"]
    )
    engine.let_through(3)
    with caplog.at_level(logging.CRITICAL), pytest.raises(ValueError, match="indigestible"):
        await poisoned
    engine.let_through()
    assert torch.equal(await before, embed_texts([text_of(20, "before")]))
    assert torch.equal(await after, embed_texts(["after"]))
    await first
    # The rest of a request that has failed is not worth encoding, what the engine has taken meanwhile apart.
    assert sum(text.startswith("rest") for text in engine.texts) <= 1
    batcher.check_alive()
    assert torch.equal(await embed(batcher, ["still alive"]), embed_texts(["still alive"]))


async def test_the_queue_is_bounded_for_one_text_and_for_many(build: Build) -> None:
    batcher, engine = build(max_queue_tokens=30)
    first = await held(batcher, engine)
    waiting = await queued(batcher, [text_of(10, "a"), text_of(10, "b")], [text_of(10, "c")])
    one, many = [text_of(3, "one")], [text_of(4, f"many {i}") for i in range(200)]
    for refused in (one, many):
        with pytest.raises(QueueFullError, match="30 tokens wait"):
            await embed(batcher, refused)
    assert batcher.queued_texts == 3
    engine.let_through()
    await asyncio.gather(first, *waiting)


@pytest.mark.parametrize("texts", [1, 200])
async def test_a_queue_that_is_not_full_takes_one_text_and_many(build: Build, texts: int) -> None:
    # If only what fits were let in, those who want little would take all room that there ever is.
    batcher, engine = build(max_queue_tokens=30)
    first = await held(batcher, engine)
    waiting = await queued(batcher, [text_of(29, "a")], [text_of(4, f"{i}") for i in range(texts)])
    with pytest.raises(QueueFullError):
        await embed(batcher, ["one more"])
    engine.let_through()
    await asyncio.gather(first, *waiting)


async def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(build: Build) -> None:
    batcher, engine = build(max_queue_tokens=30)
    first = await held(batcher, engine)
    [huge] = await queued(batcher, [text_of(20, str(number)) for number in range(10)])
    with pytest.raises(QueueFullError):
        await embed(batcher, ["one more"])
    engine.let_through()
    await asyncio.gather(first, huge)
    assert batcher.queued_texts == 0


async def test_no_texts_are_refused_rather_than_waited_for(build: Build) -> None:
    batcher, _ = build()
    with pytest.raises(ValueError, match="at least one"):
        await embed(batcher, [])


async def test_close_lets_the_engine_finish_its_batch_and_fails_what_waits(build: Build) -> None:
    batcher, engine = build()
    first = await held(batcher, engine)
    [waiting] = await queued(batcher, ["waiting"])
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    await until(lambda: batcher._stopping)
    engine.let_through()
    await closing
    assert torch.equal(await first, embed_texts(["held"]))
    with pytest.raises(EngineDeadError):
        await waiting
    with pytest.raises(EngineDeadError):
        batcher.check_alive()
    with pytest.raises(EngineDeadError):
        await embed(batcher, ["too late"])
    assert engine.texts == ["held"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_engine_that_dies_fails_everyone_who_waits_and_is_known_to_be_dead(build: Build) -> None:
    batcher, engine = build()
    engine.failing["deadly"] = SystemExit()
    engine.hold()
    deadly = asyncio.create_task(embed(batcher, ["deadly"]))
    await until(lambda: len(engine.batches) == 1)
    [waiting] = await queued(batcher, ["waiting"])
    batcher.check_alive()
    engine.let_through()
    for task in (deadly, waiting):
        with pytest.raises(EngineDeadError):
            await task
    with pytest.raises(EngineDeadError):
        batcher.check_alive()
    with pytest.raises(EngineDeadError):
        await embed(batcher, ["too late"])


@given(st.text())
def test_every_text_counts_for_at_least_its_special_tokens(text: str) -> None:
    assert 2 <= estimate_tokens(text) <= len(text) + 2


class TimedEngine(Engine):
    """An engine that takes a thousandth of a second for each token, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def embed(self, tokenized: Sequence[Tokens]) -> torch.Tensor:
        embedding = super().embed(tokenized)
        self.now_s += sum(tokens.num_tokens for tokens in tokenized) / 1000
        return embedding


async def closed(batcher: Batcher, engine: Engine) -> None:
    engine.let_through()
    await asyncio.to_thread(batcher.close)


async def test_a_lone_text_is_tokenized_by_the_engine_s_own_thread(build: Build) -> None:
    batcher, engine = build()
    for number in range(20):
        await embed(batcher, [f"text {number}"])
    assert set(engine.tokenizing_threads) == {"engine"}


async def test_what_gathers_is_tokenized_while_the_engine_works(build: Build) -> None:
    batcher, engine = build()
    first = await held(batcher, engine)
    tasks = await queued(batcher, ["a", "b"], ["c"])
    await until(lambda: sorted(engine.tokenized) == ["a", "b", "c", "held"])
    assert engine.tokenizing_threads[1:] == ["tokenizer"] * len(engine.tokenizing_threads[1:])
    assert engine.batches == [["held"]]
    engine.let_through()
    await asyncio.gather(first, *tasks)


async def test_the_rest_of_a_large_request_is_tokenized_while_its_beginning_is_embedded(build: Build) -> None:
    batcher, engine = build()
    engine.hold()
    texts = [text_of(10, str(number)) for number in range(20)]
    task = asyncio.create_task(embed(batcher, texts))
    await until(lambda: len(engine.tokenized) == 20)
    assert [len(batch) for batch in engine.batches] == [2]
    assert engine.tokenizing_threads[0] == "engine"
    assert "tokenizer" in engine.tokenizing_threads
    engine.let_through()
    assert torch.equal(await task, embed_texts(texts))


async def test_tokens_are_counted_once_a_text_is_tokenized(build: Build) -> None:
    batcher, engine = build()
    first = await held(batcher, engine)
    assert batcher.queued_tokens == 0
    texts = [text_of(4, f"{number} CJK") for number in range(3)]
    [task] = await queued(batcher, texts)
    # Estimated as 4 tokens each they would all fit one batch; there are 16 in each.
    await until(lambda: batcher.queued_tokens == 48)
    engine.let_through()
    await asyncio.gather(first, task)
    assert [len(batch) for batch in engine.batches] == [1, 1, 1, 1]
    assert batcher.queued_tokens == 0


async def test_short_texts_pass_long_ones_only_as_long_as_allowed() -> None:
    engine = TimedEngine()
    batcher = build_batcher(engine, max_overtaken_s=0.05, clock=lambda: engine.now_s)
    first = await held(batcher, engine)
    long = [text_of(18, f"long {number}") for number in range(4)]
    tasks = await queued(batcher, long)
    engine.now_s = 0.02
    tasks += await queued(batcher, [text_of(3, f"{number}") for number in range(6)])
    engine.let_through()
    await asyncio.gather(first, *tasks)
    # At 0.062 s the long ones are overdue, and go before the rest of the short ones.
    assert sizes(engine)[1:] == [[18], [18], [18], [18], [3] * 6]
    await closed(batcher, engine)


async def test_a_slow_engine_takes_small_batches_and_a_fast_one_full_ones() -> None:
    for max_batch_s, expected in ((0.08, 80), (0.5, 400), (0.001, 64)):
        engine = TimedEngine()
        batcher = build_batcher(engine, batch_tokens=400, max_batch_s=max_batch_s, clock=lambda e=engine: e.now_s)  # type: ignore[misc]
        assert batcher.budget == 400
        await embed(batcher, [text_of(10, "first")])
        assert batcher.speed.tokens_per_s == pytest.approx(1000)
        assert batcher.budget == expected
        await embed(batcher, [text_of(10, f"{number}") for number in range(100)])
        assert max(sum(batch) for batch in sizes(engine)) <= expected
        await closed(batcher, engine)


async def test_the_wait_is_bounded_by_the_speed_that_was_measured() -> None:
    engine = TimedEngine()
    batcher = build_batcher(engine, max_delay_s=0.05, clock=lambda: engine.now_s)
    await embed(batcher, ["first"])
    engine.hold()
    in_work = asyncio.create_task(embed(batcher, ["in work"]))
    await until(lambda: len(engine.batches) == 2)
    # Nothing waits, so any request is let in; then 4.4 s of work wait.
    [huge] = await queued(batcher, [text_of(20, f"{number}") for number in range(220)])
    for texts in (["one"], [f"many {number}" for number in range(256)]):
        with pytest.raises(QueueFullError, match=r"4400 tokens wait for the engine, 4\.4 s of work") as refused:
            await embed(batcher, texts)
        assert refused.value.retry_after_s == 5
    engine.let_through()
    await asyncio.gather(in_work, huge)
    await embed(batcher, ["now"])
    await closed(batcher, engine)


@pytest.mark.parametrize(("in_work_s", "again_s"), [(0.0, 10), (3.5, 7), (9.0, 1), (10.0, None), (99.0, None)])
async def test_what_is_left_of_a_long_text_in_work_is_part_of_the_wait(in_work_s: float, again_s: int | None) -> None:
    engine = TimedEngine()
    batcher = build_batcher(engine, max_delay_s=2.0, clock=lambda: engine.now_s)
    await embed(batcher, ["first"])
    engine.hold()
    long = asyncio.create_task(embed(batcher, [text_of(11_997, "long")]))
    await until(lambda: len(engine.batches) == 2)
    [waiting] = await queued(batcher, [text_of(3, "w")])
    engine.now_s += in_work_s
    late = asyncio.create_task(embed(batcher, ["late"]))
    if again_s is None:
        await until(lambda: batcher.queued_texts == 2)
    else:
        with pytest.raises(QueueFullError) as refused:
            await late
        assert refused.value.retry_after_s == again_s
    engine.let_through()
    await asyncio.gather(long, waiting, *([] if again_s else [late]))
    # Nothing is in work any more.
    assert batcher._left_in_work(engine.now_s) == 0
    await closed(batcher, engine)


async def test_what_was_offered_is_counted_with_what_was_refused_as_the_tokens_that_it_is(build: Build) -> None:
    batcher, engine = build(max_queue_tokens=60)
    first = await held(batcher, engine)
    held_tokens = batcher.offered_tokens
    assert held_tokens == estimate_tokens("held")
    waiting = await queued(batcher, [text_of(20, "a")], [text_of(10, "CJK")])
    # What was estimated at 10 tokens has 40.
    assert (batcher.offered_tokens - held_tokens, batcher.refused_tokens) == (60, 0)
    with pytest.raises(QueueFullError):
        await embed(batcher, [text_of(10, "no room"), text_of(5, "nor for that")])
    assert (batcher.offered_tokens - held_tokens, batcher.refused_tokens) == (75, 15)
    engine.let_through()
    await asyncio.gather(first, *waiting)
    assert (batcher.offered_tokens - held_tokens, batcher.refused_tokens) == (75, 15)


@pytest.mark.parametrize(("threads", "busy_s"), [(1, 0.03), (2, 0.015)])
async def test_the_engine_is_busy_while_it_computes_and_in_part_if_some_threads_do(threads: int, busy_s: float) -> None:
    engine = TimedEngine()
    batcher = build_batcher(engine, threads=threads, batch_tokens=64, clock=lambda: engine.now_s)
    assert batcher.busy_s == 0
    await embed(batcher, [text_of(30, "a")])
    engine.now_s += 100
    assert batcher.busy_s == pytest.approx(busy_s)
    await embed(batcher, [text_of(30, "b")])
    assert batcher.busy_s == pytest.approx(2 * busy_s)
    await closed(batcher, engine)


async def test_a_warm_up_makes_the_speed_known_and_counts_as_nothing() -> None:
    engine = TimedEngine()
    batcher = build_batcher(engine, warm_up=True, clock=lambda: engine.now_s)
    await until(lambda: batcher.speed.tokens_per_s is not None)
    assert batcher.speed.tokens_per_s == pytest.approx(1000)
    assert (batcher.texts_done, batcher.offered_tokens, batcher.busy_s) == (0, 0, 0)
    assert all(described["texts"] == 0 for described in batcher.latencies.describe().values())
    assert torch.equal(await embed(batcher, ["first"]), embed_texts(["first"]))
    await closed(batcher, engine)


def test_what_an_accelerator_computed_is_delivered_in_the_host_s_memory() -> None:
    with FakeTensorMode():
        assert _finished(torch.empty(2, 8, device="cuda")).device.type == "cpu"


async def test_an_engine_that_cannot_warm_up_is_tried_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deployments.batcher._WARM_UP_TEXT", "cannot be tokenized")
    engine = Engine()
    with caplog.at_level(logging.CRITICAL):
        batcher = build_batcher(engine, warm_up=True)
        assert torch.equal(await embed(batcher, ["first"]), embed_texts(["first"]))
    await closed(batcher, engine)


async def test_an_idle_engine_lingers_only_where_texts_come_close_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    engine = Engine()
    batcher = build_batcher(engine, linger_s=30.0, clock=lambda: now_s)
    async with asyncio.timeout(20):
        for number in range(3):
            now_s += 1000.0
            await embed(batcher, [f"rare {number}"])
    for _ in range(100):
        now_s += 0.001
        batcher._note_arrival(now_s)
    linger, begun = batcher._linger, threading.Event()

    def begin() -> None:
        begun.set()
        linger()

    monkeypatch.setattr(batcher, "_linger", begin)
    one = asyncio.create_task(embed(batcher, [text_of(10, "one")]))
    await asyncio.to_thread(begun.wait, 10.0)
    # It comes while the engine waits, and fills the batch.
    two = asyncio.create_task(embed(batcher, [text_of(10, "two")]))
    async with asyncio.timeout(20):
        await asyncio.gather(one, two)
    assert len(engine.batches[-1]) == 2
    await closed(batcher, engine)


async def test_texts_that_cannot_be_tokenized_fail_alone(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    batcher, engine = build()
    with caplog.at_level(logging.CRITICAL):
        with pytest.raises(ValueError, match="cannot be tokenized"):
            await embed(batcher, ["cannot be tokenized"])
        first = await held(batcher, engine)
        with pytest.raises(ValueError, match="cannot be tokenized either"):
            await embed(batcher, ["cannot be tokenized either"])
    assert (batcher.queued_tokens, batcher.queued_texts) == (0, 0)
    engine.let_through()
    await first
    assert torch.equal(await embed(batcher, ["still alive"]), embed_texts(["still alive"]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("by", ["engine", "tokenizer"])
async def test_a_thread_that_dies_while_it_tokenizes_fails_everyone_who_waits(build: Build, by: str) -> None:
    batcher, engine = build()
    tasks = [] if by == "engine" else [await held(batcher, engine)]
    tasks.append(asyncio.create_task(embed(batcher, ["deadly to tokenize"])))
    with pytest.raises(EngineDeadError):
        await tasks[-1]
    assert engine.tokenizing_threads[-1] == by
    engine.let_through()
    await until(lambda: batcher._ended)
    with pytest.raises(EngineDeadError):
        batcher.check_alive()
    # What the engine has in work it still finishes.
    assert [torch.equal(await task, embed_texts(["held"])) for task in tasks[:-1]] == [True] * len(tasks[:-1])


async def test_waiting_and_total_time_are_told_by_length() -> None:
    engine = TimedEngine()
    batcher = build_batcher(engine, batch_tokens=10_000, max_overtaken_s=1.0, clock=lambda: engine.now_s)
    await embed(batcher, [text_of(10, "short")])
    await embed(batcher, [text_of(100, "medium")])
    await embed(batcher, [text_of(300, "long")])
    assert batcher.latencies.take_unreported() == [
        ("short", pytest.approx(0.0), pytest.approx(0.01)),
        ("medium", pytest.approx(0.0), pytest.approx(0.1)),
        ("long", pytest.approx(0.0), pytest.approx(0.3)),
    ]
    assert batcher.batches.take_unreported() == [
        (10, pytest.approx(0.01)),
        (100, pytest.approx(0.1)),
        (300, pytest.approx(0.3)),
    ]
    assert batcher.batches.take_unreported() == []
    first = await held(batcher, engine)
    [task] = await queued(batcher, [text_of(10, "waits")])
    engine.now_s += 2.0
    engine.let_through()
    await asyncio.gather(first, task)
    told = batcher.latencies.describe()["short"]
    assert (told["texts"], told["wait_p99"], told["p99"]) == (
        3,
        pytest.approx(2003, abs=60),
        pytest.approx(2013, abs=60),
    )
    await closed(batcher, engine)


async def test_every_engine_thread_computes_batches_of_its_own(build: Build) -> None:
    batcher, engine = build(threads=2)
    first = await held(batcher, engine)
    second = asyncio.create_task(embed(batcher, ["second"]))
    await until(lambda: engine.batches == [["held"], ["second"]])
    [third] = await queued(batcher, ["third"])
    assert batcher.queued_texts == 1
    assert engine.tokenizing_threads == ["engine", "engine", "tokenizer"]
    engine.let_through()
    await asyncio.gather(first, second, third)
    assert engine.batches[2:] == [["third"]]


@pytest.mark.parametrize("threads", [2, 3])
async def test_idle_engine_threads_share_a_request(build: Build, threads: int) -> None:
    batcher, engine = build(threads=threads, batch_tokens=10_000)
    engine.hold()
    texts = [text_of(10, f"{number}") for number in range(60)]
    request = asyncio.create_task(embed(batcher, texts))
    await until(lambda: len(engine.batches) == threads)
    engine.let_through()
    assert torch.equal(await request, embed_texts(texts))
    assert sizes(engine) == [[10] * (60 // threads)] * threads


async def test_a_small_request_is_not_shared(build: Build) -> None:
    batcher, engine = build(threads=2, batch_tokens=10_000)
    await embed(batcher, [text_of(10, f"{number}") for number in range(12)])
    assert sizes(engine) == [[10] * 12]


async def test_no_text_is_left_alone_with_an_idle_engine_thread(build: Build) -> None:
    """It has come while the tokenizer had another in hand and engine threads were idle."""
    batcher, engine = build(threads=2)
    engine.hold()
    working = [asyncio.create_task(embed(batcher, ["a"]))]
    await until(lambda: engine.texts == ["a"])
    working.append(asyncio.create_task(embed(batcher, ["b"])))
    await until(lambda: engine.texts == ["a", "b"])
    engine.may_tokenize.clear()
    calls = [asyncio.create_task(embed(batcher, ["c"]))]
    await until(lambda: engine.tokenizing_threads[-1] == "tokenizer")
    engine.let_through(2)
    await asyncio.gather(*working)
    await until(lambda: batcher._idle == 2)
    calls.append(asyncio.create_task(embed(batcher, ["d"])))
    await until(lambda: len(batcher._arrived) == 1)
    engine.may_tokenize.set()
    # Though "c" is held in the engine.
    await until(lambda: engine.texts[2:] == ["c", "d"])
    engine.let_through()
    await asyncio.gather(*calls)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_when_one_engine_thread_dies_the_others_end_too(build: Build) -> None:
    batcher, engine = build(threads=3)
    engine.failing["deadly"] = SystemExit()
    with pytest.raises(EngineDeadError):
        await embed(batcher, ["deadly"])
    await asyncio.to_thread(batcher.close)


async def test_the_speed_is_that_of_all_engine_threads() -> None:
    engine = TimedEngine()
    batcher = build_batcher(engine, threads=2, clock=lambda: engine.now_s)
    await embed(batcher, ["first"])
    assert batcher.tokens_per_s == 2 * (batcher.speed.tokens_per_s or 0.0) > 0
    await closed(batcher, engine)
