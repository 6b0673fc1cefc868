"""A learner after a restart, and states at earlier versions."""

from dataclasses import replace

import pytest

from gating import MetagraphView
from learner.checkpoint import CheckpointStore
from learner.config import AdagradConfig, SoftmaxMseConfig
from learner.core import RollbackSummary
from learner.errors import LogUnavailableError, RuleMismatchError, UnknownVersionError, WrongLogError
from learner.events import Action
from learner.memory_log import MemoryEventLog
from learner.restore import Restorer

from .builders import (
    EPOCH,
    FINGERPRINT,
    Clock,
    act,
    build_learner,
    decide,
    decision,
    expected,
    head_bits,
    learn_all,
    message_reward,
    reward,
    roll_back,
    save,
    settle,
    state_digest,
    state_of,
)
from .flaky_log import FlakyLog
from .logs import open_log


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(str(tmp_path / "checkpoints"), keep=3)


def view(hotkeys, block=2):
    registered_at = tuple(ord(hotkey.lower()) for hotkey in hotkeys)
    return MetagraphView(tuple(hotkeys), (True,) * len(hotkeys), registered_at, block=block)


def earn(learner, name):
    learner.add_rewards([message_reward(name, {0: 1.0, 1: 0.0})])
    learn_all(learner)


def selections(learner):
    return [row["selections"] for row in learner.uid_table()]


@pytest.mark.parametrize("saved", [None, "early", "late"])
@pytest.mark.parametrize("config", [AdagradConfig(), SoftmaxMseConfig()])
def test_a_restart_goes_on_where_the_log_ends(store, saved, config):
    settings = {"view": view("abcdef", 1), "rule_config": config, "store": store if saved else None}
    learner = build_learner(**settings)
    decide(learner, decision("i-1"), decision("i-2"))
    learner.add_rewards([reward("i-1", {0: 0.5}), message_reward("r-1", {3: 0.5})])
    learn_all(learner)
    if saved == "early":
        save(learner, store)
    learner.resync(view("aBxdef"))
    decide(learner, decision("i-3", (0, 1)))
    learner.add_rewards([reward("i-2", {1: 0.7})])
    learn_all(learner)
    if saved == "late":
        save(learner, store)
    # Logged and acknowledged, not yet learned.
    learner.add_rewards([message_reward("r-2", {2: 0.25})])

    again = build_learner(log=learner.log, **settings)
    learn_all(learner)
    assert again.version == learner.version == 5
    assert state_digest(state_of(again)) == state_digest(state_of(learner))
    assert state_of(again).digest() == state_of(learner).digest()
    assert again.snapshot().order == learner.snapshot().order
    assert again.view == learner.view
    assert again.saved_version == {"early": 2, "late": 4, None: -1}[saved]
    assert not again.has_work

    repeated = again.add_rewards([reward("i-1", {0: 0.9}), message_reward("r-1", {3: 0.1}), reward("i-2", {1: 0.1})])
    assert (repeated.accepted, repeated.duplicates) == (0, 3)
    # A decision for an owner that has swapped its hotkey since, and one for an owner that is gone.
    assert again.add_rewards([reward("i-1", {1: 0.5})]).accepted == 1
    decide(again, decision("i-3"), decision("i-1"))
    assert again.log.decisions_count() == 3
    assert again.counters["decisions"] == 0
    assert again.explain("i-2").rewards == {1: 0.7}


@pytest.mark.parametrize("saved", ["never", "between", "after"])
def test_selections_are_counted_once_over_a_restart(store, saved):
    learner = build_learner(store=store)
    decide(learner, decision("i-1", (0, 1)))
    earn(learner, "r-1")
    if saved == "between":
        save(learner, store)
    decide(learner, decision("i-2", (0, 2)))
    if saved == "after":
        save(learner, store)
    again = build_learner(log=learner.log, store=store)
    assert selections(again) == selections(learner) == [2, 1, 1, 0, 0, 0]
    decide(again, decision("i-2", (0, 2)), decision("i-3", (0, 3)))
    assert selections(again) == [3, 1, 1, 1, 0, 0]
    save(again, store)
    assert selections(build_learner(log=learner.log, store=store)) == [3, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("saved", [False, True])
def test_selections_of_an_owner_before_do_not_reach_the_next_by_a_restart(store, saved):
    """Uid 0 is registered anew by the same hotkey, uid 1 has exchanged its own, uid 2 has another owner."""
    start = view("abcdef", 1)
    learner = build_learner(view=start, store=store)
    decide(learner, decision("i-1", (0, 1, 2, 3), view=start))
    if saved:
        save(learner, store)
    decide(learner, decision("i-2", (0, 1, 2, 3), view=start))
    # Owners are told apart by when they registered, so that B is b.
    changed = replace(view("aBzdef"), registered_at=(999, *view("aBzdef").registered_at[1:]))
    seq = learner.resync(changed).seq
    learn_all(learner)
    decide(learner, decision("i-3", (0, 1, 2, 3), view=start), decision("i-4", (0, 1, 2), view=changed, version=seq))
    assert selections(learner) == [1, 4, 1, 3, 0, 0]
    again = build_learner(view=start, log=learner.log, store=store)
    learn_all(again)
    assert selections(again) == [1, 4, 1, 3, 0, 0]
    assert again.capture().decisions == 4


def test_of_what_arrived_before_a_restart_none_counts_as_joined_after_it(tmp_path):
    clock = Clock(1_000.0)

    def start():
        return build_learner(log=open_log(f"sqlite:///{tmp_path / 'events.db'}", fingerprint=FINGERPRINT), clock=clock)

    learner = start()
    decide(learner, *(decision(f"i-{number}") for number in range(1, 5)))
    learner.add_rewards([reward("i-1", {0: 1.0})])
    assert learner.describe()["join_rate"] == 0.25
    learner.log.close()
    again = start()
    clock.now_s += 0.1
    decide(again, decision("i-5"), decision("i-6"))
    report = again.add_rewards([reward(f"i-{number}", {1: 1.0}) for number in range(1, 6)])
    assert report.accepted == 5
    assert again.describe()["join_rate"] == 0.5
    again.log.close()


def test_default_rewards_are_not_given_twice_over_a_restart():
    clock = Clock()
    settings = {"clock": clock, "default_reward": 0.25, "reward_window_s": 10.0}
    learner = build_learner(**settings)
    decide(learner, decision("i-1"))
    clock.now_s = 11.0
    learner.commit_one(learner.stage_default_rewards())
    again = build_learner(log=learner.log, **settings)
    again.commit_one(again.stage_default_rewards())
    assert again.log.last_seq == 1
    assert [r.code for r in again.add_rewards([reward("i-1", {0: 1.0})]).rejected] == ["late"]
    assert again.add_rewards([reward("i-1", {0: 1.0})]).duplicates == 1


def test_default_rewards_that_were_not_written_are_given_later():
    clock = Clock()
    learner = build_learner(clock=clock, default_reward=0.25, reward_window_s=10.0, log=FlakyLog())
    decide(learner, decision("i-1"))
    clock.now_s = 11.0
    for fails in ("before", "after"):
        learner.log.fail_next = fails
        with pytest.raises(LogUnavailableError):
            learner.commit_one(learner.stage_default_rewards())
    learner.commit_one(learner.stage_default_rewards())
    learn_all(learner)
    assert state_of(learner).statistics.rewards[:2].tolist() == [1, 1]
    assert learner.counters["rewards_default"] == 2
    assert learner.log.last_seq == 1


def test_a_state_at_an_earlier_version_is_what_it_was(store):
    learner = build_learner(store=store)
    known = {0: state_digest(state_of(learner))}
    for index in range(6):
        earn(learner, "r" * (index + 1))
        known[learner.version] = state_digest(state_of(learner))
        if index == 2:
            save(learner, store)
    for restorer in (learner._restorer, Restorer(learner.log, learner.rule, expected(learner.log, learner.config))):
        for version, digested in known.items():
            assert restorer.batch_at(version) == version
            assert state_digest(restorer.at(version).state) == digested


def test_replaying_tells_each_version_that_it_comes_by_and_what_was_learned():
    learner = build_learner()
    for name in ("r-1", "r-2"):
        earn(learner, name)
    learner.add_rewards([message_reward("s-1", {0: 0.25}), message_reward("s-2", {0: 0.75})])
    versions = []
    restored = learner._restorer.newest(versions.append)
    assert versions == [1, 2, 4]
    assert len(restored.progress.rewards) == 4
    assert restored.progress.describe()["moving_reward"] == pytest.approx(0.5)
    assert build_learner(log=learner.log).describe()["moving_reward"] == pytest.approx(0.5)


def test_a_checkpoint_that_knows_more_than_the_log_is_refused(store):
    learner = build_learner(store=store)
    earn(learner, "r-1")
    earn(learner, "r-2")
    save(learner, store)
    older = MemoryEventLog(started_at_ms=EPOCH)
    older.id = learner.log.id
    with pytest.raises(WrongLogError, match="has learned up to event 2, the log ends at 0"):
        build_learner(log=older, store=store)


def test_a_checkpoint_of_another_rule_is_refused(store):
    learner = build_learner(store=store)
    earn(learner, "r-1")
    save(learner, store)
    with pytest.raises(RuleMismatchError, match="write-checkpoint"):
        build_learner(log=learner.log, store=store, rule_config=AdagradConfig())


def test_a_log_whose_beginning_is_gone_needs_a_checkpoint(store):
    learner = build_learner(log=MemoryEventLog(started_at_ms=EPOCH, max_events=2), store=store)
    for index in range(4):
        earn(learner, f"r-{index}")
    for version in (1, 4):
        with pytest.raises(UnknownVersionError, match="the log begins at event 3"):
            learner.stage_rollback(version, "ops")
    with pytest.raises(UnknownVersionError):
        build_learner(log=learner.log)
    save(learner, store)
    before = head_bits(learner)
    earn(learner, "r-5")
    roll_back(learner, 4)
    assert head_bits(learner) == before
    with pytest.raises(UnknownVersionError):
        learner.stage_rollback(3, "ops")


def test_a_log_that_has_not_begun_gives_no_state():
    log = MemoryEventLog(started_at_ms=EPOCH)
    learner = build_learner()
    with pytest.raises(UnknownVersionError, match="the log has not begun"):
        Restorer(log, learner.rule, expected(log, learner.config)).newest()


def test_a_version_whose_history_goes_back_to_what_is_gone_is_refused_before_it_is_logged(store):
    """The oldest checkpoint is of version 3; version 5 comes from a rollback to version 1 after it."""
    log = MemoryEventLog(started_at_ms=EPOCH)
    learner = build_learner(log=log, store=store)
    for name in ("r-1", "r-2", "r-3"):
        earn(learner, name)
    save(learner, store)
    roll_back(learner, 1)
    earn(learner, "r-4")
    while log._events[0].seq <= 3:
        log._events.popleft()
    with pytest.raises(UnknownVersionError):
        learner.stage_rollback(5, "ops")
    # The events of version 3 are gone, and yet its checkpoint is there.
    assert learner.commit_one(learner.stage_rollback(3, "ops")) == RollbackSummary(restored=3, seq=6)
    learn_all(learner)
    assert state_of(learner).statistics.rewards[0] == 3


def test_a_rollback_is_found_again_after_a_restart_from_a_checkpoint_before_or_after_it(store):
    learner = build_learner(store=store)
    for name in ("r-1", "r-2"):
        earn(learner, name)
    save(learner, store)
    earn(learner, "r-3")
    roll_back(learner, 1)
    learned = state_digest(state_of(learner))
    assert state_digest(state_of(build_learner(log=learner.log, store=store))) == learned
    save(learner, store)
    again = build_learner(log=learner.log, store=store)
    assert state_digest(state_of(again)) == learned
    settle(again, Action.READMIT)
    act(learner, Action.CHECKPOINT)
    assert state_of(again).statistics.rewards[0] == 3


@pytest.mark.parametrize("gone", [{2}, {1, 2}, {2, 3}, {2, 3, 4}, {4}, {5, 6}, {3, 6}])
def test_a_gap_in_the_log_is_not_passed_over(store, gone):
    """Events that are held stay in the log when those around them go."""
    log = MemoryEventLog(started_at_ms=EPOCH)
    learner = build_learner(log=log)
    earn(learner, "r-1")
    learner.add_rewards([message_reward(f"s-{index}", {0: 0.5}) for index in range(3)])
    earn(learner, "r-2")
    earn(learner, "r-3")
    save(learner, store)
    earn(learner, "r-4")
    for event in [event for event in log._events if event.seq in gone]:
        log._events.remove(event)
    with pytest.raises(UnknownVersionError, match=r"are gone from the log|the log begins at"):
        build_learner(log=log)
    with pytest.raises(UnknownVersionError):
        learner.stage_rollback(5, "ops")
    again = build_learner(log=log, store=store)
    assert head_bits(again) == head_bits(learner)
    with pytest.raises(UnknownVersionError):
        again.stage_rollback(5, "ops")
    assert again.commit_one(again.stage_rollback(6, "ops")).restored == 6


def test_rollbacks_over_rollbacks_are_not_replayed_over_and_over():
    """Each goes back to just after the one before, which an innocent replay would take twice as long for."""
    reads = []

    class Counting(MemoryEventLog):
        def batches(self, after, upto=None):
            reads.append((after, upto))
            return super().batches(after, upto)

    learner = build_learner(log=Counting(started_at_ms=EPOCH))
    rollbacks = 14
    for index in range(rollbacks):
        earn(learner, f"r-{index}")
        earn(learner, f"s-{index}")
        roll_back(learner, learner.version - 1)
    learned = state_digest(state_of(learner))
    assert len(reads) < 4 * rollbacks**2
    reads.clear()
    assert state_digest(state_of(build_learner(log=learner.log))) == learned
    assert len(reads) < 4 * rollbacks**2
