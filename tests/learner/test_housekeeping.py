"""Saving and pruning. The thread is real, its time is told to it."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from learner.checkpoint import CheckpointStore
from learner.config import settings_of
from learner.errors import CheckpointError, FencedError, LogUnavailableError
from learner.events import Action
from learner.housekeeping import Housekeeper
from learner.memory_log import MemoryEventLog

from .builders import (
    EPOCH,
    Clock,
    act,
    build_learner,
    decide,
    decision,
    events_of,
    head_bits,
    learn_all,
    message_reward,
    roll_back,
    save,
    settle,
    state_digest,
    state_of,
)
from .flaky_log import FlakyLog

PATIENCE_S = 20.0
DAY_S = 86_400.0


class WatchedStore(CheckpointStore):
    """Tells when it was written to, and fails when it is told to."""

    def __init__(self, url, *, keep=5):
        super().__init__(url, keep=keep)
        self.path = Path(url)
        self.changed = threading.Condition()
        self.fails = False
        self.tries, self.saved = 0, 0

    def save(self, *args, **kwargs):
        try:
            if self.fails:
                raise CheckpointError("the disk is full")
            manifest = super().save(*args, **kwargs)
            self.saved += 1
            return manifest
        finally:
            with self.changed:
                self.tries += 1
                self.changed.notify_all()

    def wait_for_tries(self, count):
        self.wait_for(lambda: self.tries >= count)

    def wait_for(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S), "nothing was saved"


class PruningLog(MemoryEventLog):
    """Drops events as a database does: no more than two at a time."""

    def __init__(self):
        super().__init__(started_at_ms=EPOCH)
        self.times = {}
        self.asked = []
        self.prune_error = None

    def commit(self, commit):
        super().commit(commit)
        self.times |= {event.seq: commit.at_s for event in commit.events}

    def prune(self, *, upto, before_s, keep):
        self.asked.append((upto, before_s, list(keep)))
        if self.prune_error is not None:
            raise self.prune_error
        old = [event for event in self._events if event.batch <= upto and self.times[event.seq] < before_s]
        dropped = [event for event in old if event.seq not in keep][:2]
        for event in dropped:
            self._events.remove(event)
        return len(dropped)


class House:
    """A housekeeper and its learner."""

    def __init__(self, store, log=None, **checkpoints):
        self.store = store
        self.time, self.clock = Clock(), Clock()
        self.settings = {"clock": self.clock, "store": store, "log": log or PruningLog(), "checkpoints": checkpoints}
        self.crashed = threading.Event()

    def open(self, monkeypatch):
        monkeypatch.setattr("learner.housekeeping.time", SimpleNamespace(monotonic=self.time))
        monkeypatch.setattr("learner.housekeeping._LOOK_EVERY_S", 0.002)
        monkeypatch.setattr("learner.housekeeping._RETRY_S", 0.002)
        return self.reopen()

    def reopen(self):
        self.learner = build_learner(**self.settings)
        self.keeper = Housekeeper(
            self.learner, self.store, application="app", clock=self.clock, on_crash=self.crashed.set
        )
        return self

    def earn(self, *names):
        for name in names:
            self.learner.add_rewards([message_reward(name, {0: 1.0, 1: 0.0})])
            learn_all(self.learner)


@pytest.fixture
def build_house(tmp_path, monkeypatch):
    houses = []

    def build(*, keep=5, log=None, stored=True, **checkpoints):
        store = WatchedStore(str(tmp_path / "checkpoints"), keep=keep) if stored else None
        houses.append(House(store, log, **checkpoints).open(monkeypatch))
        return houses[-1]

    yield build
    for house in houses:
        house.keeper._stopping.set()
        if house.keeper.ident is not None:
            house.keeper.join(PATIENCE_S)


def test_a_checkpoint_is_due_after_so_many_events(build_house):
    house = build_house(interval_events=3, interval_s=60.0)
    house.keeper.start()
    house.earn("r-1", "r-2")
    assert not house.keeper._is_due()
    house.earn("r-3")
    house.store.wait_for_tries(1)
    house.keeper.stop()
    assert [manifest.version for manifest in house.store.list()] == [3]
    assert house.store.tries == 1


def test_a_checkpoint_is_due_after_so_long_if_anything_was_learned(build_house):
    house = build_house(interval_events=100, interval_s=60.0)
    house.keeper.start()
    house.time.now_s = 1_000.0
    assert not house.keeper._is_due()
    house.earn("r-1")
    house.store.wait_for_tries(1)
    with house.keeper._saving:
        house.earn("r-2")
    house.time.now_s = 1_059.9
    assert not house.keeper._is_due()
    house.time.now_s = 1_060.0
    house.store.wait_for_tries(2)
    house.keeper.stop()
    assert [manifest.version for manifest in house.store.list()] == [2, 1]


def test_what_was_learned_since_is_saved_at_the_end(build_house):
    house = build_house()
    house.keeper.start()
    house.earn("r-1")
    house.keeper.stop()
    assert not house.keeper.is_alive()
    [manifest] = house.store.list()
    assert manifest.version == 1
    assert head_bits(house.reopen().learner)
    assert house.learner.saved_version == 1


def test_nothing_new_is_not_saved_again(build_house):
    house = build_house()
    house.keeper.stop()
    assert house.store.list() == []
    house.earn("r-1")
    house.keeper.save()
    house.keeper.stop()
    assert len(house.store.list()) == 1
    house.reopen().keeper.stop()
    assert len(house.store.list()) == 1
    assert not house.keeper._is_due()


def test_a_checkpoint_says_what_it_is_of(build_house):
    house = build_house()
    decide(house.learner, decision("i-1"))
    house.earn("r-1")
    act(house.learner, Action.FREEZE)
    manifest = house.keeper.save()
    learner = house.learner
    assert (manifest.application, manifest.log_id, manifest.epoch) == ("app", learner.log.id, EPOCH)
    assert (manifest.version, manifest.decisions, manifest.frozen) == (2, 1, True)
    assert (manifest.rule, manifest.digest) == (settings_of(learner.config.rule), state_of(learner).digest())
    house.time.now_s += 5.0
    assert house.keeper.describe() == {
        "name": manifest.name,
        "version": 2,
        "age_s": 5.0,
        "digest": manifest.digest,
        "last_error": None,
        "pruned_rows": 0,
    }


def test_before_the_first_checkpoint_there_is_nothing_to_tell(build_house):
    figures = build_house().keeper.describe()
    assert figures == dict.fromkeys(("name", "version", "age_s", "digest", "last_error")) | {"pruned_rows": 0}


def test_a_checkpoint_that_could_not_be_written_is_told_and_tried_again(build_house, caplog):
    house = build_house(interval_events=1)
    house.store.fails = True
    house.earn("r-1")
    house.keeper.start()
    house.store.wait_for_tries(3)
    assert house.keeper.describe()["last_error"] == "the disk is full"
    assert "checkpoint_failed error=the disk is full" in caplog.text
    house.store.fails = False
    house.store.wait_for(lambda: house.store.saved == 1)
    house.keeper.stop()
    assert house.keeper.describe()["last_error"] is None
    assert [manifest.version for manifest in house.store.list()] == [1]
    assert not house.crashed.is_set()


def test_a_disk_that_is_full_at_the_end_is_told_and_hinders_nobody(build_house, caplog):
    house = build_house()
    house.store.fails = True
    house.earn("r-1")
    house.keeper.stop()
    assert "checkpoint_failed" in caplog.text


def test_of_a_commit_that_is_open_to_doubt_nothing_is_saved_and_the_rest_is(build_house):
    house = build_house(log=FlakyLog(PruningLog()))
    house.earn("r-1")
    house.learner.log.fail_next = "after"
    with pytest.raises(LogUnavailableError):
        house.earn("r-2")
    house.keeper.stop()
    assert [manifest.version for manifest in house.store.list()] == [1]
    assert house.learner.log.inner.last_seq == 2


def test_without_a_place_for_checkpoints_nothing_is_saved_and_old_decisions_go(build_house):
    house = build_house(stored=False, log=MemoryEventLog(started_at_ms=EPOCH), interval_events=1)
    decide(house.learner, decision("i-1"))
    house.clock.now_s = 31 * DAY_S
    decide(house.learner, decision("i-2"))
    house.earn("r-1")
    assert house.keeper._is_due()
    assert house.keeper._look()
    assert not house.keeper._is_due()
    assert [house.learner.explain(name) is None for name in ("i-1", "i-2")] == [True, False]
    assert house.keeper.describe()["pruned_rows"] == 1
    assert house.keeper.save() is None


def test_what_is_older_than_the_retention_and_the_oldest_checkpoint_goes(build_house):
    house = build_house(keep=2)
    house.earn("r-1", "r-2", "r-3")
    house.keeper.save()
    house.earn("r-4")
    house.keeper.save()
    house.clock.now_s = 30 * DAY_S
    house.keeper.prune()
    assert [event.seq for event in events_of(house.learner)] == [1, 2, 3, 4]
    house.clock.now_s += 0.1
    house.keeper.prune()
    assert house.learner.log.asked[-1] == (3, pytest.approx(0.1), [])
    assert [event.seq for event in events_of(house.learner)] == [4]
    assert house.keeper.describe()["pruned_rows"] == 3
    learned = state_digest(state_of(house.learner))
    assert state_digest(state_of(house.reopen().learner)) == learned
    assert roll_back(house.learner, 3) == 5


def test_what_is_old_goes_while_nothing_is_learned(build_house):
    house = build_house(log=MemoryEventLog(started_at_ms=EPOCH))
    decide(house.learner, decision("i-1"))
    house.clock.now_s = 31 * DAY_S
    decide(house.learner, decision("i-2"))
    house.time.now_s = 59.9
    assert house.keeper._look()
    assert house.keeper.describe()["pruned_rows"] == 0
    house.time.now_s = 60.0
    with house.keeper.paused():
        assert house.keeper._look()
    assert house.learner.explain("i-1") is not None
    assert house.keeper._look()
    assert [house.learner.explain(name) is None for name in ("i-1", "i-2")] == [True, False]
    assert (house.keeper.describe()["pruned_rows"], house.store.list()) == (1, [])
    house.clock.now_s = 99 * DAY_S
    house.time.now_s = 119.9
    assert house.keeper._look()
    assert house.learner.explain("i-2") is not None
    house.time.now_s = 120.0
    assert house.keeper._look()
    assert house.learner.explain("i-2") is None


def test_only_what_no_checkpoint_needs_goes_while_nothing_can_be_saved(build_house, caplog):
    house = build_house(keep=2, interval_events=2)
    house.earn("r-1")
    house.keeper.save()
    house.earn("r-2", "r-3")
    house.clock.now_s, house.time.now_s = 31 * DAY_S, 60.0
    house.store.fails = True
    assert not house.keeper._look()
    assert "checkpoint_failed" in caplog.text
    assert [event.seq for event in events_of(house.learner)] == [2, 3]
    learned = state_digest(state_of(house.learner))
    assert state_digest(state_of(house.reopen().learner)) == learned


def test_nothing_goes_while_there_is_no_checkpoint(build_house):
    house = build_house()
    house.earn("r-1")
    house.clock.now_s = 99 * DAY_S
    house.keeper.prune()
    assert len(events_of(house.learner)) == 1


def test_the_window_of_rewards_is_kept_however_short_the_retention(build_house):
    house = build_house()
    house.settings |= {"log": house.learner.log, "reward_window_s": 50 * DAY_S}
    house.reopen()
    house.earn("r-1")
    house.keeper.save()
    house.clock.now_s = 50 * DAY_S
    house.keeper.prune()
    assert len(events_of(house.learner)) == 1


def test_what_is_held_or_was_held_in_any_checkpoint_stays(build_house):
    """Held now: event 1. Held in the second checkpoint only: event 2. Held by nobody: event 3."""
    house = build_house(keep=3)
    house.earn("r-1", "r-2", "r-3")
    house.keeper.save()
    roll_back(house.learner, 0)
    settle(house.learner, Action.READMIT, [3])
    house.keeper.save()
    settle(house.learner, Action.READMIT, [2])
    house.keeper.save()
    house.clock.now_s = 31 * DAY_S
    house.keeper.prune()
    assert [event.seq for event in events_of(house.learner)] == [1, 2, 4, 5, 6]
    learned = state_digest(state_of(house.learner))
    newest, middle, _ = house.store.list()
    for name in (newest.name, middle.name):
        assert state_digest(state_of(house.reopen().learner)) == learned
        (house.store.path / name / "manifest.json").write_text("damaged")
    settle(house.learner, Action.READMIT)
    assert state_of(house.learner).statistics.rewards[0] == 3


def test_pruning_stops_when_the_learner_does(build_house):
    house = build_house()
    house.earn("r-1", "r-2", "r-3", "r-4", "r-5")
    house.keeper.save()
    house.clock.now_s = 31 * DAY_S
    house.keeper._stopping.set()
    house.keeper.prune()
    assert len(events_of(house.learner)) == 3


def test_whoever_has_lost_the_log_ends_quietly(build_house, caplog):
    house = build_house(interval_events=1)
    house.learner.log.prune_error = FencedError("another learner has the log")
    house.earn("r-1")
    house.keeper.run()
    assert "housekeeping_ended reason=fenced" in caplog.text
    assert not house.crashed.is_set()


def test_a_log_that_is_away_while_pruning_is_told(build_house):
    house = build_house(interval_events=1)
    house.learner.log.prune_error = LogUnavailableError("the line is down")
    house.earn("r-1")
    house.keeper.start()
    house.store.wait_for_tries(1)
    house.keeper.stop()
    assert house.keeper.describe()["last_error"] == "the line is down"
    assert [manifest.version for manifest in house.store.list()] == [1]


def test_pruning_that_failed_is_tried_at_the_next_look_and_its_error_then_goes(build_house, caplog):
    house = build_house(interval_events=1)
    house.learner.log.prune_error = LogUnavailableError("the line is down")
    house.earn("r-1")
    assert not house.keeper._look()
    assert "prune_failed error=the line is down" in caplog.text
    assert house.keeper.describe()["last_error"] == "the line is down"
    house.learner.log.prune_error = None
    for _ in range(2):
        assert house.keeper._look()
        assert house.keeper.describe()["last_error"] is None
        assert len(house.learner.log.asked) == 2


def test_a_mistake_of_ours_is_told(build_house, caplog):
    house = build_house(interval_events=1)
    house.learner.log.prune_error = RuntimeError("a log with a mistake in it")
    house.earn("r-1")
    house.keeper.run()
    assert house.crashed.is_set()
    assert "a log with a mistake in it" in caplog.text


def test_nothing_is_due_during_a_pause(build_house):
    house = build_house(interval_events=1)
    with house.keeper.paused():
        with house.keeper.paused():
            house.earn("r-1")
        assert house.keeper._look()
        assert house.store.list() == []
        assert house.keeper._look()
        assert house.keeper.save().version == 1
        house.earn("r-2")
    assert [manifest.version for manifest in house.store.list()] == [1]
    assert house.keeper._look()
    assert [manifest.version for manifest in house.store.list()] == [2, 1]


def test_a_pause_begins_after_what_is_being_saved(build_house):
    house = build_house(interval_events=1)
    seen = []

    def pause():
        with house.keeper.paused():
            seen.append([manifest.version for manifest in house.store.list()])

    with house.keeper._saving:
        house.earn("r-1")
        house.keeper.start()
        while not house.keeper._looking.locked():
            house.keeper.join(0.001)
        pausing = threading.Thread(target=pause)
        pausing.start()
        pausing.join(0.05)
        assert seen == []
    pausing.join(PATIENCE_S)
    assert seen == [[1]]


def test_two_who_save_at_once_both_have_a_checkpoint(build_house):
    house = build_house()
    house.earn("r-1")
    made = []
    threads = [threading.Thread(target=lambda: made.append(house.keeper.save().name)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made, reverse=True) == [manifest.name for manifest in house.store.list()]
    assert save(house.learner, house.store).version == 1
