"""What operators do that must not come between the parts of what another operator does."""

import asyncio
import threading

import pytest

from learner.checkpoint import CheckpointStore
from learner.errors import CheckpointError
from learner.events import Action
from learner.housekeeping import Housekeeper
from learner.operations import Operations
from learner.published import Published
from learner.signals import Signal

from .builders import act, build_learner, decide, decision, learn_all, reward, roll_back, state_digest, state_of

PATIENCE_S = 20.0


class SlowStore(CheckpointStore):
    """Saves when it is let, and fails when it is told to."""

    def __init__(self, url):
        super().__init__(url, keep=3)
        self.asked, self.may_go_on, self.fails = threading.Event(), threading.Event(), False

    def save(self, *args, **kwargs):
        self.asked.set()
        assert self.may_go_on.wait(PATIENCE_S)
        if self.fails:
            raise CheckpointError("the disk is full")
        return super().save(*args, **kwargs)


class WatchedLock(asyncio.Lock):
    """Tells when somebody has to wait for it."""

    def __init__(self):
        super().__init__()
        self.awaited = asyncio.Event()

    async def acquire(self):
        if self.locked():
            self.awaited.set()
        return await super().acquire()


class Desk:
    """A learner whose operators' actions are learned and published at once."""

    def __init__(self, path):
        self.store = SlowStore(str(path))
        self.learner = build_learner(store=self.store)
        self.changed = Signal()
        self.published = Published(self.learner, self.changed, store=lambda snapshot: None)
        keeper = Housekeeper(self.learner, self.store, application="app", clock=lambda: 0.0, on_crash=lambda: None)
        self.operations = Operations(self.learner, self.commit, self.published, keeper, self.store)
        self.lock = self.operations._saving = WatchedLock()

    async def commit(self, stage):
        answer = self.learner.commit_one(stage)
        learn_all(self.learner)
        self.published.put(self.learner.snapshot())
        self.changed.notify()
        return answer

    async def until_done_or_waiting(self, task):
        waiting = asyncio.create_task(self.lock.awaited.wait())
        done, _ = await asyncio.wait({task, waiting}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        assert done
        waiting.cancel()


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "checkpoints")


def restarted(desk):
    return build_learner(log=desk.learner.log, store=desk.store)


@pytest.mark.parametrize("how", ["readmit", "thaw"])
async def test_what_is_held_is_not_learned_from_an_embedding_that_is_being_erased(desk, how):
    """The checkpoint that the erasure waits for does not have it, and a restart could not learn it any more."""
    learner, operations = desk.learner, desk.operations
    decide(learner, decision("i-1", (0, 1)))
    if how == "thaw":
        act(learner, Action.FREEZE)
    learner.add_rewards([reward("i-1", {0: 1.0})])
    learn_all(learner)
    if how == "readmit":
        roll_back(learner, 0)
    erasing = asyncio.create_task(operations.erase_embedding("i-1", "ops"))
    assert await asyncio.to_thread(desk.store.asked.wait, PATIENCE_S)
    learning = operations.freeze(False, "ops") if how == "thaw" else operations.settle(Action.READMIT, None, "ops")
    settling = asyncio.create_task(learning)
    await desk.until_done_or_waiting(settling)
    desk.store.may_go_on.set()
    assert await erasing
    await settling
    assert learner.log.embeddings(["i-1"]) == {"i-1": None}
    assert state_of(learner).held == {}
    assert state_of(learner).statistics.rewards.tolist() == [0] * 6
    assert state_digest(state_of(restarted(desk))) == state_digest(state_of(learner))


async def test_a_freeze_waits_for_no_checkpoint(desk):
    decide(desk.learner, decision("i-1", (0, 1)))
    desk.learner.add_rewards([reward("i-1", {0: 1.0})])
    erasing = asyncio.create_task(desk.operations.erase_embedding("i-1", "ops"))
    assert await asyncio.to_thread(desk.store.asked.wait, PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        await desk.operations.freeze(True, "ops")
    assert desk.learner.frozen
    assert not erasing.done()
    desk.store.may_go_on.set()
    assert await erasing


async def test_an_erasure_that_could_not_be_saved_is_done_when_it_is_asked_for_again(desk):
    decide(desk.learner, decision("i-1", (0, 1)))
    desk.learner.add_rewards([reward("i-1", {0: 1.0})])
    desk.store.may_go_on.set()
    desk.store.fails = True
    with pytest.raises(CheckpointError):
        await desk.operations.erase_embedding("i-1", "ops")
    assert desk.learner.log.embeddings(["i-1"])["i-1"] is not None
    assert desk.learner.add_rewards([reward("i-1", {1: 1.0})]).rejected[0].code == "embedding_erased"
    desk.store.fails = False
    assert await desk.operations.erase_embedding("i-1", "ops")
    assert not await desk.operations.erase_embedding("i-2", "ops")
    assert state_digest(state_of(restarted(desk))) == state_digest(state_of(desk.learner))
    assert desk.learner._erasing == {}
    assert desk.learner.add_rewards([reward("i-1", {1: 1.0})]).rejected[0].code == "embedding_erased"
