from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.admission import QueueFullError
from deployments.batcher import EngineDeadError
from deployments.embedding_cache import _ENTRY_OVERHEAD, EmbeddingCache, NotFiniteError

from .local_service import DIM, Engine, embed_texts, until
from .test_batcher import build_batcher

ENTRY = 4 * DIM + _ENTRY_OVERHEAD

Start = Callable[..., tuple[EmbeddingCache, Engine]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    built: list[tuple[EmbeddingCache, Engine]] = []

    def start_one(max_entries: int = 1000, max_queue_tokens: int = 10**9) -> tuple[EmbeddingCache, Engine]:
        engine = Engine()
        batcher = build_batcher(engine, max_queue_tokens=max_queue_tokens)
        built.append((EmbeddingCache(batcher, max_bytes=max_entries * ENTRY), engine))
        return built[-1]

    yield start_one
    for cache, engine in built:
        engine.let_through()
        await asyncio.to_thread(cache._batcher.close)
        assert (cache._in_flight, cache._digests) == ({}, {})
        assert cache._batcher.queued_tokens == 0


def asking(cache: EmbeddingCache, *texts: str) -> asyncio.Task[torch.Tensor]:
    return asyncio.create_task(cache.embed(list(texts)))


async def holding(cache: EmbeddingCache, engine: Engine) -> asyncio.Task[torch.Tensor]:
    """A request that the engine has taken, so that others wait."""
    engine.hold()
    task = asking(cache, "held")
    await until(lambda: engine.batches[-1:] == [["held"]])
    return task


async def test_a_text_that_was_seen_before_skips_the_engine_and_gets_the_same_bits(start: Start) -> None:
    cache, engine = start()
    first = await cache.embed(["why?", "how?"])
    again = await cache.embed(["how?", "who?", "why?"])
    assert torch.equal(first, embed_texts(["why?", "how?"]))
    assert torch.equal(again, embed_texts(["how?", "who?", "why?"]))
    assert sorted(engine.texts) == ["how?", "who?", "why?"]
    assert cache.describe() == {"hits": 2, "misses": 3, "shared": 0, "entries": 3, "bytes": 3 * ENTRY}


async def test_a_hit_is_answered_while_the_engine_is_busy(start: Start) -> None:
    cache, engine = start()
    await cache.embed(["why?"])
    engine.hold()
    other = asking(cache, "other")
    assert torch.equal(await cache.embed(["why?"]), embed_texts(["why?"]))
    engine.let_through()
    await other


async def test_texts_that_differ_at_all_are_different(start: Start) -> None:
    cache, _ = start()
    texts = ["why?", "why? ", "Why?", "wh\u00fd?"]
    await cache.embed(texts)
    assert cache.misses == 4
    assert torch.equal(await cache.embed(texts), embed_texts(texts))


async def test_the_least_recently_used_goes_first(start: Start) -> None:
    cache, engine = start(max_entries=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        await cache.embed([text])
    # `c` drove out `b`, which had not been used since.
    assert engine.texts == ["a", "b", "c", "b"]


@settings(max_examples=50, deadline=None)
@given(max_bytes=st.integers(0, 6 * ENTRY), texts=st.lists(st.sampled_from("abcdefghij"), max_size=40))
@example(max_bytes=2 * ENTRY - 1, texts=["a", "b"])
def test_the_bytes_are_counted_and_never_pass_the_bound(max_bytes: int, texts: list[str]) -> None:
    async def main() -> None:
        engine = Engine()
        cache = EmbeddingCache(build_batcher(engine), max_bytes=max_bytes)
        kept: list[str] = []
        try:
            for text in texts:
                assert torch.equal(await cache.embed([text]), embed_texts([text]))
                kept = [one for one in kept if one != text] + [text]
                kept = kept[max(len(kept) - max_bytes // ENTRY, 0) :]
                assert cache.bytes == len(kept) * ENTRY <= max_bytes
            before = len(engine.texts)
            for text in kept:
                await cache.embed([text])
            assert len(engine.texts) == before
        finally:
            await asyncio.to_thread(cache._batcher.close)

    asyncio.run(main())


async def test_a_kept_embedding_does_not_keep_its_batch(start: Start) -> None:
    cache, _ = start()
    await cache.embed([f"{number}" for number in range(5)])
    assert {row.untyped_storage().nbytes() for row in cache._rows.values()} == {4 * DIM}


async def test_what_is_kept_holds_neither_the_text_nor_a_digest_that_would_tell_it(start: Start) -> None:
    cache, _ = start()
    other, _ = start()
    text = "a secret"
    for one in (cache, other):
        await one.embed([text])
        assert all(isinstance(key, bytes) and len(key) == 16 for key in one._rows)
    # The key is each process's own: whoever guesses a text cannot look for its digest.
    assert cache._rows.keys() != other._rows.keys()


async def test_a_text_in_work_is_computed_once_for_all_who_ask(start: Start) -> None:
    cache, engine = start()
    held = await holding(cache, engine)
    tasks = [asking(cache, "a", "b", "a"), asking(cache, "b", "c"), asking(cache, "held", "a")]
    await until(lambda: cache.misses == 4)
    assert cache.shared == 1 + 1 + 2
    engine.let_through()
    for task, texts in zip(tasks, (["a", "b", "a"], ["b", "c"], ["held", "a"]), strict=True):
        assert torch.equal(await task, embed_texts(texts))
    await held
    assert sorted(engine.texts) == ["a", "b", "c", "held"]


async def test_the_first_to_ask_may_go_without_harm_to_the_others(start: Start) -> None:
    cache, engine = start()
    held = await holding(cache, engine)
    first, second = asking(cache, "a", "b"), asking(cache, "b", "a")
    await until(lambda: cache.shared == 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    engine.let_through()
    assert torch.equal(await second, embed_texts(["b", "a"]))
    await held
    assert sorted(engine.texts) == ["a", "b", "held"]


async def test_when_all_who_asked_have_gone_the_work_is_dropped(start: Start) -> None:
    cache, engine = start()
    held = await holding(cache, engine)
    tasks = [asking(cache, "a", "b"), asking(cache, "b", "a", "a")]
    await until(lambda: cache.shared == 3)
    for task in tasks:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (cache._batcher.queued_texts, cache._batcher.queued_tokens) == (0, 0)
    engine.let_through()
    await held
    assert torch.equal(await cache.embed(["a"]), embed_texts(["a"]))
    assert engine.texts == ["held", "a"]


async def test_what_the_engine_has_taken_is_kept_though_nobody_waits_any_more(start: Start) -> None:
    cache, engine = start()
    held = await holding(cache, engine)
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    late = asking(cache, "held")
    await until(lambda: cache.shared == 1)
    engine.let_through()
    assert torch.equal(await late, embed_texts(["held"]))
    assert engine.texts == ["held"]


async def test_an_error_reaches_all_who_asked_and_is_not_kept(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    cache, engine = start()
    held = await holding(cache, engine)
    engine.failing["poison"] = ValueError("indigestible")
    tasks = [asking(cache, "poison"), asking(cache, "poison", "poison"), asking(cache, "held")]
    await until(lambda: cache.shared == 3)
    engine.let_through()
    with caplog.at_level(logging.CRITICAL):
        for task in tasks[:2]:
            with pytest.raises(ValueError, match="indigestible"):
                await task
    assert torch.equal(await tasks[2], embed_texts(["held"]))
    await held
    del engine.failing["poison"]
    assert torch.equal(await cache.embed(["poison"]), embed_texts(["poison"]))


async def test_a_text_that_overflows_fails_alone_and_is_not_kept(start: Start) -> None:
    cache, engine = start()
    held = await holding(cache, engine)
    engine.overflowing.add("hot")
    tasks = [asking(cache, "hot"), asking(cache, "cool"), asking(cache, "cool", "hot")]
    await until(lambda: cache.shared == 2)
    engine.let_through()
    for task in (tasks[0], tasks[2]):
        with pytest.raises(NotFiniteError, match=r"set encoder\.dtype"):
            await task
    assert engine.batches[1:] == [["hot", "cool"]]
    assert torch.equal(await tasks[1], embed_texts(["cool"]))
    await held
    engine.overflowing.clear()
    assert torch.equal(await cache.embed(["hot"]), embed_texts(["hot"]))


async def test_a_refused_request_leaves_nothing_behind(start: Start) -> None:
    cache, engine = start(max_queue_tokens=10)
    await cache.embed(["kept"])
    held = await holding(cache, engine)
    waiting = asking(cache, "a" * 32)
    await until(lambda: cache._batcher.queued_texts == 1)
    before = cache.describe()
    with pytest.raises(QueueFullError):
        await cache.embed(["kept", "held", "b" * 32])
    assert cache.describe() == before
    # Who shares what is computed anyhow adds nothing to the queue, and is let in.
    sharing = asking(cache, "a" * 32, "held")
    await until(lambda: cache.shared == 2)
    engine.let_through()
    await asyncio.gather(held, waiting, sharing)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_with_the_engine_dead_what_is_kept_is_still_answered(start: Start) -> None:
    cache, engine = start()
    await cache.embed(["why?"])
    engine.failing["deadly"] = SystemExit()
    for text in ("deadly", "another"):
        with pytest.raises(EngineDeadError):
            await cache.embed([text])
    assert torch.equal(await cache.embed(["why?"]), embed_texts(["why?"]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), max_entries=st.integers(0, 8))
def test_whoever_asks_and_goes_the_others_get_their_own_and_no_text_is_computed_twice_at_once(
    seed: int, max_entries: int
) -> None:
    dice = random.Random(seed)

    async def main() -> None:
        engine = Engine()
        batcher = build_batcher(engine, max_overtaken_s=dice.choice((0.0, 1e9)))
        cache = EmbeddingCache(batcher, max_bytes=max_entries * ENTRY)

        async def ask() -> None:
            texts = [dice.choice("abcdefghijklmnop") * dice.randint(1, 3) for _ in range(dice.randint(1, 6))]
            task = asking(cache, *texts)
            for _ in range(dice.randint(0, 30)):
                await asyncio.sleep(0)
            if dice.random() < 0.3:
                task.cancel()
            [outcome] = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError) or torch.equal(outcome, embed_texts(texts))

        try:
            await asyncio.gather(*(ask() for _ in range(40)))
        finally:
            await asyncio.to_thread(batcher.close)
        assert all(len(set(batch)) == len(batch) for batch in engine.batches)
        await until(lambda: not cache._in_flight and not cache._digests)
        assert batcher.queued_tokens == batcher.queued_texts == 0

    asyncio.run(main())


async def test_no_texts_are_refused_rather_than_waited_for(start: Start) -> None:
    cache, _ = start()
    with pytest.raises(ValueError, match="at least one"):
        await cache.embed([])
