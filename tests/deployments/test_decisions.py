from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from deployments import decisions as module
from deployments.decisions import DecisionBuffer
from deployments.errors import LearnerAway, Problem
from learner.config import SoftmaxMseConfig
from learner.errors import EncoderMismatchError
from learner.events import Decision
from learner.protocol import DecisionBatch

from .local_learner import LocalLearner
from .local_service import DIM, FINGERPRINT, VIEW, until


@pytest.fixture
def learner() -> LocalLearner:
    return LocalLearner(VIEW, dim=DIM, fingerprint=FINGERPRINT, rule=SoftmaxMseConfig())


@pytest.fixture
def buffer(learner: LocalLearner) -> DecisionBuffer:
    return DecisionBuffer(learner, fingerprint=FINGERPRINT, capacity=1000)


@pytest.fixture
async def running(buffer: DecisionBuffer) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(buffer.run())
    yield task
    task.cancel()


def add(buffer: DecisionBuffer, count: int) -> list[str]:
    ids = [buffer.next_id() for _ in range(count)]
    for decision_id in ids:
        buffer.add(
            Decision(
                id=decision_id,
                time_s=0.0,
                epoch=1,
                version=0,
                embedding=np.zeros(DIM, np.float16),
                uids=(1,),
                scores=(0.5,),
                propensities=(1.0,),
                hotkeys=("hotkey-1",),
                candidates=9,
            )
        )
    return ids


def sent(learner: LocalLearner) -> list[list[str]]:
    return [[decision.id for decision in batch.decisions] for batch in learner.batches]


def test_ids_are_an_incarnation_of_the_replicas_own_and_a_counter(learner: LocalLearner) -> None:
    buffers = [DecisionBuffer(learner, fingerprint=FINGERPRINT, capacity=1) for _ in range(2)]
    assert buffers[0].incarnation != buffers[1].incarnation
    assert [buffers[0].next_id() for _ in range(3)] == [f"{buffers[0].incarnation}-{i}" for i in (1, 2, 3)]
    assert (buffers[0].issued, buffers[1].issued) == (3, 0)


def test_there_is_room_up_to_the_capacity(buffer: DecisionBuffer) -> None:
    add(buffer, 990)
    buffer.check_room(10)
    with pytest.raises(Problem, match="990 decisions wait for the learner and there is no room for 11 more") as caught:
        buffer.check_room(11)
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, "decisions_full", 1)


async def test_flush_hands_over_everything_in_order_and_in_batches(
    buffer: DecisionBuffer, learner: LocalLearner
) -> None:
    ids = add(buffer, 600)
    await buffer.flush()
    assert sent(learner) == [ids[:256], ids[256:512], ids[512:]]
    assert {batch.fingerprint for batch in learner.batches} == {FINGERPRINT}
    assert len(buffer) == 0
    await buffer.flush()
    assert len(learner.batches) == 3


async def test_flushes_at_the_same_time_send_nothing_twice(buffer: DecisionBuffer, learner: LocalLearner) -> None:
    ids = add(buffer, 600)
    await asyncio.gather(buffer.flush(), buffer.flush(), buffer.flush())
    assert [decision_id for batch in sent(learner) for decision_id in batch] == ids


async def test_a_full_batch_is_sent_without_waiting_for_more(
    buffer: DecisionBuffer, learner: LocalLearner, running: asyncio.Task[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_S", 3600.0)
    ids = add(buffer, 255)
    await until(buffer._arrived.is_set)
    for _ in range(20):
        await asyncio.sleep(0)
    assert learner.batches == []
    ids += add(buffer, 1)
    await until(lambda: len(buffer) == 0)
    assert sent(learner) == [ids]
    # And again: the signs of the first time are gone.
    more = add(buffer, 1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert sent(learner) == [ids]
    more += add(buffer, 299)
    await until(lambda: sent(learner) == [ids, more[:256], more[256:]])
    assert not running.done()


async def test_a_lone_decision_is_sent_after_the_linger(
    buffer: DecisionBuffer, learner: LocalLearner, running: asyncio.Task[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_S", 0.001)
    ids = add(buffer, 1)
    await until(lambda: sent(learner) == [ids])
    ids += add(buffer, 1)
    await until(lambda: sent(learner) == [ids[:1], ids[1:]])
    assert not running.done()


async def test_with_nothing_to_send_nothing_is_done(
    buffer: DecisionBuffer, learner: LocalLearner, running: asyncio.Task[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_S", 0.0)
    flushes = 0
    flush = buffer.flush

    async def counted() -> None:
        nonlocal flushes
        flushes += 1
        await flush()

    monkeypatch.setattr(buffer, "flush", counted)
    add(buffer, 1)
    await until(lambda: len(buffer) == 0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert flushes == 1
    assert not running.done()


async def test_decisions_are_kept_while_the_learner_is_away_and_sent_in_order_when_it_is_back(
    buffer: DecisionBuffer, learner: LocalLearner, running: asyncio.Task[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_S", 0.0)
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    learner.away = True
    ids = add(buffer, 300)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(buffer) == 300
    ids += add(buffer, 10)
    learner.away = False
    await until(lambda: len(buffer) == 0)
    assert sent(learner) == [ids[:256], ids[256:]]
    assert not running.done()


async def test_a_batch_whose_answer_was_lost_is_sent_again_and_counts_once(
    buffer: DecisionBuffer, learner: LocalLearner
) -> None:
    ids = add(buffer, 3)
    learner.loses_answers = True
    with pytest.raises(LearnerAway):
        await buffer.flush()
    assert len(buffer) == 3
    learner.loses_answers = False
    ids += add(buffer, 2)
    await buffer.flush()
    assert sent(learner) == [ids[:3], ids]
    assert learner.core.describe()["decisions"] == 5


async def test_decisions_that_arrive_during_a_flush_are_not_lost(
    buffer: DecisionBuffer, learner: LocalLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add(buffer, 2)
    later: list[str] = []
    take = learner.add_decisions

    async def take_while_more_arrive(batch: DecisionBatch) -> None:
        if not later:
            later.extend(add(buffer, 3))
        await take(batch)

    monkeypatch.setattr(learner, "add_decisions", take_while_more_arrive)
    await buffer.flush()
    assert (sent(learner), len(buffer)) == ([first], 3)
    await buffer.flush()
    assert (sent(learner), len(buffer)) == ([first, later], 0)


async def test_a_flush_ends_though_decisions_never_stop_coming(
    buffer: DecisionBuffer, learner: LocalLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = add(buffer, 300)
    take = learner.add_decisions

    async def take_while_more_arrive(batch: DecisionBatch) -> None:
        ids.extend(add(buffer, 400))
        await take(batch)

    monkeypatch.setattr(learner, "add_decisions", take_while_more_arrive)
    await asyncio.wait_for(buffer.flush(), timeout=10)
    # The 300 and whatever else found room in their second batch.
    assert sent(learner) == [ids[:256], ids[256:512]]
    assert len(buffer) == len(ids) - 512


async def test_decisions_left_by_a_flush_are_sent_by_themselves(
    buffer: DecisionBuffer, learner: LocalLearner, running: asyncio.Task[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = add(buffer, 1)
    take = learner.add_decisions

    async def take_while_more_arrive(batch: DecisionBatch) -> None:
        if len(ids) == 1:
            ids.extend(add(buffer, 2))
        await take(batch)

    monkeypatch.setattr(learner, "add_decisions", take_while_more_arrive)
    await buffer.flush()
    await until(lambda: sent(learner) == [ids[:1], ids[1:]])
    assert not running.done()


async def test_a_decision_that_waited_during_a_flush_does_not_linger_as_if_it_were_new(
    buffer: DecisionBuffer, learner: LocalLearner, running: asyncio.Task[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_S", 3600.0)
    ids = add(buffer, 3)
    buffer._arrived_s[0] -= 3600.0
    await until(lambda: sent(learner) == [ids])
    assert not running.done()


async def test_only_one_batch_is_on_its_way_at_a_time(
    buffer: DecisionBuffer, learner: LocalLearner, running: asyncio.Task[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_S", 0.0)
    take, on_their_way, most = learner.add_decisions, 0, 0

    async def counted(batch: DecisionBatch) -> None:
        nonlocal on_their_way, most
        on_their_way += 1
        most = max(most, on_their_way)
        await take(batch)
        on_their_way -= 1

    monkeypatch.setattr(learner, "add_decisions", counted)
    ids = add(buffer, 600)
    await asyncio.gather(*(buffer.flush() for _ in range(5)))
    assert (most, [decision_id for batch in sent(learner) for decision_id in batch]) == (1, ids)
    assert not running.done()


async def test_all_that_wait_for_a_batch_that_fails_hear_of_it_at_once(
    buffer: DecisionBuffer, learner: LocalLearner
) -> None:
    add(buffer, 1)
    learner.loses_answers = True
    outcomes = await asyncio.gather(*(buffer.flush() for _ in range(5)), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["the answer was lost"] * 5
    assert (len(learner.batches), len(buffer)) == (1, 1)
    # It was the one attempt that failed, not those to come.
    learner.loses_answers = False
    await buffer.flush()
    assert len(buffer) == 0


async def test_a_batch_carries_every_column_of_its_decisions(buffer: DecisionBuffer, learner: LocalLearner) -> None:
    ids = add(buffer, 2)
    await buffer.flush()
    [batch] = learner.batches
    assert (batch.ids, batch.embedding.shape, batch.sizes.tolist()) == (tuple(ids), (2, DIM), [1, 1])
    logged = learner.core.log.decision(ids[1])
    assert logged is not None
    assert (logged.uids, logged.scores, logged.hotkeys, logged.candidates) == ((1,), (0.5,), ("hotkey-1",), 9)


async def test_sending_ends_with_the_reason_where_the_learner_is_another_encoders(learner: LocalLearner) -> None:
    buffer = DecisionBuffer(learner, fingerprint="another", capacity=10)
    add(buffer, 1)
    with pytest.raises(EncoderMismatchError):
        await asyncio.wait_for(buffer.run(), timeout=10)
