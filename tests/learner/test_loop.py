"""The threads that learn and publish, run for real; the tests wait for what they do, never for time to pass."""

import threading
import time
from itertools import pairwise

import pytest

from learner.loop import LearningLoop, Publisher

from .builders import build_learner, decide, decision, message_reward, reward

PATIENCE_S = 20.0
NEVER_S = 3_600.0


class Watcher:
    """What the two threads did, and a way to wait for it."""

    def __init__(self, learner, *, interval_s=0.0, publish_error=None):
        self.learner = learner
        self.published, self.published_at_s, self.batches = [], [], 0
        self.crashes, self.crashed_in = 0, None
        self.publish_error = publish_error
        self.interval_s, self.turns = interval_s, 0
        self.changed = threading.Condition()
        self.may_publish = threading.Event()
        self.may_publish.set()
        self.loop = LearningLoop(learner, on_learned=self.learned, on_crash=self.crashed)
        self.publisher = Publisher(
            learner, publish=self.publish, interval_s=self.asked_for_interval, on_crash=self.crashed
        )

    def start(self):
        self.loop.start()
        self.publisher.start()

    def stop(self):
        self.loop.stop()
        self.publisher.stop()

    def publish(self, snapshot):
        if self.publish_error is not None and snapshot.version > 0:
            raise self.publish_error
        assert self.may_publish.wait(PATIENCE_S)
        with self.changed:
            self.published.append(snapshot)
            self.published_at_s.append(time.monotonic())
            self.changed.notify_all()

    def asked_for_interval(self):
        self.turns += 1
        return self.interval_s

    def learned(self):
        with self.changed:
            self.batches += 1
            self.changed.notify_all()
        self.publisher.wake()

    def crashed(self):
        with self.changed:
            self.crashes += 1
            self.crashed_in = threading.current_thread()
            self.changed.notify_all()

    @property
    def versions(self):
        return [snapshot.version for snapshot in self.published]

    def wait_for(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S), "the learning thread did not do it"

    def report(self, name):
        self.learner.add_rewards([message_reward(name, {0: 1.0, 1: 0.0})])
        self.loop.wake()


@pytest.fixture
def watch():
    """Starts loops, and stops them after the test."""
    watchers = []

    def start(**settings):
        watcher = Watcher(build_learner(), **settings)
        watchers.append(watcher)
        watcher.start()
        return watcher

    yield start
    for watcher in watchers:
        watcher.stop()


def test_the_first_snapshot_is_published_before_anything_is_learned(watch):
    watcher = watch(interval_s=NEVER_S)
    watcher.wait_for(lambda: watcher.versions == [0])


def test_what_is_learned_is_published(watch):
    watcher = watch()
    watcher.wait_for(lambda: watcher.versions == [0])
    decide(watcher.learner, decision("i-1"))
    watcher.learner.add_rewards([reward("i-1", {0: 1.0, 1: 0.0})])
    watcher.loop.wake()
    watcher.wait_for(lambda: watcher.versions == [0, 1])
    assert watcher.published[1].weight.tobytes() != watcher.published[0].weight.tobytes()


def test_what_comes_within_the_interval_is_learned_at_once_but_published_only_at_the_end(watch):
    watcher = watch(interval_s=NEVER_S)
    for index in range(5):
        watcher.report(f"r-{index}")
        watcher.wait_for(lambda wanted=index + 1: watcher.learner.version == wanted)
    assert watcher.batches == 5
    assert watcher.versions == [0]
    watcher.stop()
    assert watcher.versions == [0, 5]


def test_learning_goes_on_while_weights_are_being_published(watch):
    watcher = watch()
    watcher.wait_for(lambda: watcher.versions == [0])
    watcher.may_publish.clear()
    for index in range(5):
        watcher.report(f"r-{index}")
        watcher.wait_for(lambda wanted=index + 1: watcher.learner.version == wanted)
    assert watcher.versions == [0]
    watcher.may_publish.set()
    watcher.wait_for(lambda: watcher.versions[-1] == 5)


def test_publishing_goes_on_beside_a_learner_that_never_rests():
    watcher = Watcher(build_learner(batch_rewards=1))
    for index in range(300):
        watcher.learner.add_rewards([message_reward(f"r-{index}", {0: 1.0, 1: 0.0})])
    watcher.start()
    watcher.stop()
    assert len(watcher.versions) > 30


def test_a_loop_without_work_sleeps(watch):
    watcher = watch(interval_s=NEVER_S)
    for index in range(50):
        watcher.report(f"r-{index}")
        watcher.wait_for(lambda wanted=index + 1: watcher.learner.version == wanted)
    assert watcher.turns <= 3 * 51


def test_a_quiet_loop_publishes_when_the_interval_is_over(watch):
    watcher = watch(interval_s=0.05)
    watcher.report("r-1")
    watcher.wait_for(lambda: watcher.versions == [0, 1])


def test_no_two_publishes_are_closer_than_the_interval(watch):
    interval_s = 0.02
    watcher = watch(interval_s=interval_s)
    for index in range(200):
        watcher.report(f"r-{index}")
    watcher.wait_for(lambda: watcher.versions[-1:] == [200])
    times_s = watcher.published_at_s
    assert all(later - earlier >= interval_s for earlier, later in pairwise(times_s))


def test_no_version_is_published_twice_and_none_goes_back(watch):
    watcher = watch()
    for index in range(100):
        watcher.report(f"r-{index}")
    watcher.stop()
    assert watcher.versions == sorted(set(watcher.versions))
    assert watcher.versions[-1] == 100


def test_stopping_learns_and_publishes_what_waits():
    watcher = Watcher(build_learner(batch_rewards=2), interval_s=NEVER_S)
    for index in range(7):
        watcher.learner.add_rewards([message_reward(f"r-{index}", {0: 1.0, 1: 0.0})])
    watcher.start()
    watcher.stop()
    assert not watcher.loop.is_alive()
    assert not watcher.publisher.is_alive()
    assert watcher.learner.version == 7
    assert watcher.versions[-1] == 7
    watcher.stop()
    assert watcher.versions[-1] == 7


def test_rewards_from_many_threads_are_all_learned(watch):
    watcher = watch()

    def report(name):
        for index in range(50):
            watcher.report(f"{name}-{index}")

    threads = [threading.Thread(target=report, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watcher.wait_for(lambda: watcher.versions[-1:] == [200])
    assert watcher.learner.uid_table()[0]["rewards"] == 200


def test_a_crash_is_logged_and_told_and_ends_the_thread(watch, caplog):
    watcher = watch(publish_error=ConnectionError("the object store is gone"))
    watcher.report("r-1")
    watcher.wait_for(lambda: watcher.crashes == 1)
    watcher.publisher.join(PATIENCE_S)
    assert not watcher.publisher.is_alive()
    assert watcher.crashed_in is watcher.publisher
    assert "publishing_crashed version=1" in caplog.text
    assert "the object store is gone" in caplog.text
    watcher.stop()
    assert watcher.crashes == 1


def test_a_crash_while_learning_is_told_too():
    class Broken(type(build_learner().rule)):
        def update(self, state, batch):
            raise RuntimeError("a rule with a mistake in it")

    watcher = Watcher(build_learner(rule=Broken(learning_rate=0.1, momentum=0.9)))
    watcher.report("r-1")
    watcher.loop.run()
    assert watcher.crashes == 1


def test_an_orderly_end_is_no_crash(watch):
    watcher = watch()
    watcher.report("r-1")
    watcher.stop()
    assert watcher.crashes == 0
