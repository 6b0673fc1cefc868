"""The newest version in a made-up object store, and who waits for it."""

import asyncio

import pytest

from learner.events import Action
from learner.published import Published
from learner.signals import Signal

from .builders import act, build_learner, learn_all, message_reward

PATIENCE_S = 20.0
NEVER_S = 3_600.0


class Gate:
    """A learner whose versions are put into a list."""

    def __init__(self):
        self.learner = build_learner()
        self.changed = Signal()
        self.stored = []
        self.published = Published(self.learner, self.changed, store=self.put)

    def put(self, snapshot):
        self.stored.append(snapshot)
        return len(self.stored) - 1

    def reward(self, name):
        report = self.learner.add_rewards([message_reward(name, {0: 1.0})])
        return report.seq

    def learn(self):
        learn_all(self.learner)
        self.changed.notify()

    def publish(self):
        self.published.put(self.learner.snapshot())
        self.changed.notify()


@pytest.fixture
def gate():
    return Gate()


def test_before_the_first_there_is_nothing_to_fetch(gate):
    assert gate.published.version is None
    assert gate.published.order == (gate.learner.log.epoch, 0)
    assert gate.published.newer_than((0, 0), 1) == ((0, 0), [])


def test_a_version_is_stored_once_for_each_layout_that_was_asked_for(gate):
    gate.publish()
    order = gate.published.order
    assert gate.published.newer_than((0, 0), 1) == (order, [0])
    assert gate.published.newer_than((0, 0), 7) == (order, [1])
    assert gate.published.newer_than((0, 1), 7) == (order, [1])
    assert [snapshot.format for snapshot in gate.stored] == [1, 7]
    assert gate.published.newer_than(order, 1) == (order, [])
    assert gate.published.newer_than((0, 0), None) == (order, [])


async def test_a_report_has_got_as_far_as_it_has(gate):
    async def reached(wait, timeout_s=0.0):
        async with asyncio.timeout(PATIENCE_S):
            return await gate.published.wait_until_reached(seq, wait, timeout_s)

    gate.publish()
    seq = gate.reward("a")
    assert [await reached(wait) for wait in ("logged", "applied", "published")] == [True, False, False]
    waits = asyncio.create_task(reached("applied", NEVER_S))
    await asyncio.sleep(0)
    gate.learn()
    assert await waits
    assert not await reached("published")
    waits = asyncio.create_task(reached("published", NEVER_S))
    await asyncio.sleep(0)
    gate.publish()
    assert await waits


async def test_nobody_waits_for_a_learner_that_is_frozen(gate):
    act(gate.learner, Action.FREEZE)
    gate.learn()
    seq = gate.reward("a")
    gate.learn()
    async with asyncio.timeout(PATIENCE_S):
        assert not await gate.published.wait_until_reached(seq, "applied", NEVER_S)
        assert await gate.published.wait_until_reached(seq, "logged", NEVER_S)


async def test_whoever_waits_for_a_newer_version_may_be_asked_to_poll_again(gate):
    gate.publish()
    waiting = asyncio.create_task(gate.published.wait_for_newer(gate.published.order, NEVER_S))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.published.ask_to_poll_again()
    async with asyncio.timeout(PATIENCE_S):
        await waiting


async def test_who_was_on_its_way_when_it_was_asked_is_answered_at_once(gate):
    gate.publish()
    before = gate.published.asked
    gate.published.ask_to_poll_again()
    async with asyncio.timeout(PATIENCE_S):
        await gate.published.wait_for_newer(gate.published.order, NEVER_S, asked=before)


def test_how_often_was_asked_goes_on_with_the_epoch(gate):
    assert gate.published.asked >= gate.learner.log.epoch << 32
