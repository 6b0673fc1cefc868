from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.admission import Admission, QueueFullError
from deployments.batcher import Batcher, EngineDeadError, estimate_tokens
from deployments.embedding_cache import EmbeddingCache

from .local_service import Engine, embed_texts, until

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
    await until(lambda: engine.batches == [["held"]])
    return task


async def queued(batcher: Batcher, *requests: list[str]) -> list[asyncio.Task[torch.Tensor]]:
    """Requests that wait in the queue, in this order."""
    tasks = []
    for texts in requests:
        waiting = batcher.queued_texts
        tasks.append(asyncio.create_task(embed(batcher, texts)))
        await until(lambda waiting=waiting, texts=texts: batcher.queued_texts == waiting + len(texts))  # type: ignore[misc]
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
        batcher = build_batcher(engine, batch_tokens=batch_tokens, max_overtaken_s=dice.choice((0.0, 0.001, 1e9)))
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
        batcher = build_batcher(engine, batch_tokens=BUDGET, max_overtaken_s=dice.choice((0.0, 0.001, 1e9)))
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
    [waiting] = await queued(batcher, [text_of(10, "a"), text_of(10, "b")])
    for refused in ([text_of(11, "one")], [text_of(4, f"many {i}") for i in range(200)]):
        with pytest.raises(QueueFullError, match="20 tokens wait"):
            await embed(batcher, refused)
    assert batcher.queued_texts == 2
    [fitting] = await queued(batcher, [text_of(10, "c")])
    engine.let_through()
    await asyncio.gather(first, waiting, fitting)


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
