"""The committing thread, run for real over a log whose line breaks; the tests wait for what it does."""

import threading

import pytest

from learner.config import AdagradConfig
from learner.errors import FencedError, LearnerError, LogUnavailableError, StaleViewError, UnknownUidError
from learner.group_commit import GroupCommitter
from learner.protocol import DecisionBatch

from .builders import (
    FINGERPRINT,
    START,
    Clock,
    build_learner,
    decide,
    decision,
    events_of,
    learn_all,
    message_reward,
    reward,
)
from .flaky_log import FlakyLog

PATIENCE_S = 20.0
NEVER_S = 3_600.0


class Office:
    """A committing thread, and what it has told."""

    def __init__(self, *, tick_s=NEVER_S, **settings):
        self.log = FlakyLog()
        self.learner = build_learner(log=self.log, **settings)
        self.told = []
        self.changed = threading.Condition()
        self.committer = GroupCommitter(
            self.learner,
            tick_s=tick_s,
            on_commit=lambda: self.tell("commit"),
            on_fenced=lambda: self.tell("fenced"),
            on_crash=lambda: self.tell("crash"),
        )

    def tell(self, what):
        with self.changed:
            self.told.append((what, threading.current_thread()))
            self.changed.notify_all()

    def heard(self):
        return {what for what, _ in self.told}

    def wait_for(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S), f"it has told {self.told}"

    def report(self, name, rewards=None):
        return self.committer.submit(self.learner.stage_rewards([message_reward(name, rewards or {0: 1.0, 1: 0.0})]))


@pytest.fixture
def open_office():
    offices = []

    def start(**settings):
        offices.append(Office(**settings))
        return offices[-1]

    yield start
    for office in offices:
        office.committer.stop()


def test_a_caller_has_its_answer_once_it_is_in_the_log(open_office):
    office = open_office()
    office.committer.start()
    answer = office.report("r-1").result(PATIENCE_S)
    assert (answer.accepted, answer.seq) == (2, 1)
    assert len(events_of(office.learner)) == 1
    office.wait_for(lambda: office.told)
    assert office.told[0] == ("commit", office.committer)


def test_whatever_waits_goes_into_one_commit(open_office):
    office = open_office()
    futures = [office.report(f"r-{index}") for index in range(7)]
    office.committer.start()
    assert [future.result(PATIENCE_S).seq for future in futures] == [1, 2, 3, 4, 5, 6, 7]
    assert office.log.commits == 1
    assert {event.batch for event in events_of(office.learner)} == {7}


def test_while_there_is_plenty_to_learn_what_comes_is_gathered(open_office, monkeypatch):
    monkeypatch.setattr("learner.group_commit._GATHER_S", NEVER_S)
    monkeypatch.setattr("learner.group_commit._FEW", 0)
    office = open_office()
    office.committer.start()
    office.report("r-1").result(PATIENCE_S)
    wait, gathers = office.learner.backlog.wait_until_taken, threading.Event()
    monkeypatch.setattr(office.learner.backlog, "wait_until_taken", lambda *bounds: (gathers.set(), wait(*bounds)))
    futures = [office.report("r-2")]
    assert gathers.wait(PATIENCE_S)
    futures += [office.report(f"r-{index}") for index in range(3, 6)]
    assert office.log.commits == 1
    learn_all(office.learner)
    assert [future.result(PATIENCE_S).seq for future in futures] == [2, 3, 4, 5]
    assert [event.batch for event in events_of(office.learner)] == [1, 5, 5, 5, 5]


def test_beside_a_few_events_that_wait_nothing_is_gathered(open_office, monkeypatch):
    monkeypatch.setattr("learner.group_commit._GATHER_S", NEVER_S)
    office = open_office()
    office.committer.start()
    for index in range(5):
        office.report(f"r-{index}").result(PATIENCE_S)
    assert len(office.learner.backlog) == office.log.commits == 5


def test_what_comes_is_logged_though_nothing_is_learned(open_office):
    office = open_office()
    office.committer.start()
    assert [office.report(f"r-{index}").result(PATIENCE_S).seq for index in range(3)] == [1, 2, 3]
    assert (office.learner.version, office.log.commits) == (0, 3)


def test_a_commit_takes_no_more_callers_than_it_may(open_office, monkeypatch):
    monkeypatch.setattr("learner.group_commit._MOST_AT_ONCE", 3)
    office = open_office()
    futures = [office.report(f"r-{index}") for index in range(7)]
    office.committer.start()
    assert [future.result(PATIENCE_S).seq for future in futures] == [1, 2, 3, 4, 5, 6, 7]
    assert office.log.commits == 3


def test_one_caller_that_is_refused_does_not_hinder_the_others(open_office):
    office = open_office()
    before, bad, after = office.report("r-1"), office.report("r-2", {99: 0.5}), office.report("r-3")
    old = office.committer.submit(office.learner.stage_resync(START.__class__.from_hotkeys("ab", block=0)))
    office.committer.start()
    assert [future.result(PATIENCE_S).seq for future in (before, after)] == [1, 2]
    assert isinstance(bad.exception(PATIENCE_S), UnknownUidError)
    assert isinstance(old.exception(PATIENCE_S), StaleViewError)


def test_what_its_caller_has_cancelled_is_not_logged(open_office):
    office = open_office()
    futures = [office.report(f"r-{index}") for index in range(3)]
    assert futures[1].cancel()
    office.committer.start()
    assert [futures[index].result(PATIENCE_S).seq for index in (0, 2)] == [1, 2]
    assert [event.reward_id for event in events_of(office.learner)] == ["r-0", "r-2"]


def test_a_group_of_cancelled_callers_is_no_commit(open_office):
    office = open_office()
    office.report("r-1").cancel()
    office.committer.start()
    office.committer.stop()
    assert office.told == []
    assert office.log.commits == 0


@pytest.mark.parametrize("fails", ["before", "after"])
def test_while_the_log_is_away_every_caller_hears_of_it_and_the_thread_goes_on(open_office, fails, caplog):
    office = open_office(tick_s=0.01)
    office.log.fail_next = fails
    futures = [office.report(f"r-{index}") for index in range(3)]
    office.committer.start()
    assert all(isinstance(future.exception(PATIENCE_S), LogUnavailableError) for future in futures)
    again = [office.report(f"r-{index}").result(PATIENCE_S) for index in range(3)]
    assert [(answer.accepted, answer.duplicates) for answer in again] == [(2, 0) if fails == "before" else (0, 2)] * 3
    learn_all(office.learner)
    assert office.learner.uid_table()[0]["rewards"] == 3
    assert caplog.text.count("log_unavailable") == 1
    office.wait_for(lambda: office.committer.last_error is None)


def test_a_commit_that_has_nothing_to_write_ends_no_outage(open_office):
    office = open_office()
    office.log.fail_next = "before"
    office.committer.start()
    assert isinstance(office.report("r-1").exception(PATIENCE_S), LogUnavailableError)
    assert office.committer.submit(lambda draft: None).result(PATIENCE_S) is None
    assert office.committer.last_error == "the line broke before anything was written"


def test_an_outage_is_shown_until_it_is_over(open_office, caplog):
    office = open_office()
    office.log.down = True
    office.committer.start()
    for index in range(3):
        assert isinstance(office.report(f"r-{index}").exception(PATIENCE_S), LogUnavailableError)
    # It is set after the callers have been told.
    office.committer.stop()
    assert office.committer.last_error == "the line is down"
    assert caplog.text.count("log_unavailable") == 1
    assert office.heard() == set()


def test_whoever_has_lost_the_log_says_so_and_leaves_nobody_waiting(open_office):
    office = open_office()
    office.log.fenced = True
    futures = [office.report(f"r-{index}") for index in range(3)]
    office.committer.start()
    assert all(isinstance(future.exception(PATIENCE_S), FencedError) for future in futures)
    office.wait_for(lambda: office.heard() == {"fenced"})
    assert office.told[-1] == ("fenced", office.committer)
    assert isinstance(office.report("r-9").exception(PATIENCE_S), LearnerError)
    office.committer.join(PATIENCE_S)
    assert not office.committer.is_alive()


def test_whoever_waits_when_the_loss_shows_is_told(open_office, monkeypatch):
    """More wait than go into one commit."""
    monkeypatch.setattr("learner.group_commit._MOST_AT_ONCE", 1)
    office = open_office()
    office.log.fenced = True
    futures = [office.report(f"r-{index}") for index in range(3)]
    assert futures[1].cancel()
    office.committer.start()
    assert all(isinstance(futures[index].exception(PATIENCE_S), FencedError) for index in (0, 2))


def test_the_loss_of_the_log_shows_while_there_is_nothing_to_write(open_office):
    office = open_office(tick_s=0.01)
    office.log.fenced = True
    office.committer.start()
    office.wait_for(lambda: office.heard() == {"fenced"})


def test_a_mistake_of_ours_is_told_and_leaves_nobody_waiting(open_office, monkeypatch, caplog):
    monkeypatch.setattr("learner.group_commit._MOST_AT_ONCE", 1)
    office = open_office()

    def stage(_draft):
        raise RuntimeError("a stage with a mistake in it")

    futures = [office.committer.submit(stage), office.report("r-1")]
    office.committer.start()
    assert isinstance(futures[0].exception(PATIENCE_S), RuntimeError)
    assert isinstance(futures[1].exception(PATIENCE_S), LogUnavailableError)
    office.wait_for(lambda: office.heard() == {"crash"})
    assert "a stage with a mistake in it" in caplog.text
    assert office.log.commits == 0


def test_stopping_commits_what_waits_and_takes_nothing_more(open_office):
    office = open_office()
    futures = [office.report(f"r-{index}") for index in range(3)]
    office.committer.start()
    office.committer.stop()
    assert not office.committer.is_alive()
    assert [future.result(0).seq for future in futures] == [1, 2, 3]
    with pytest.raises(LogUnavailableError, match="the learner is stopping"):
        office.report("r-9").result(0)
    office.committer.stop()
    assert office.heard() == {"commit"}


def test_what_waits_when_the_end_is_called_for_is_still_committed(open_office, monkeypatch):
    monkeypatch.setattr("learner.group_commit._MOST_AT_ONCE", 2)
    office = open_office()
    futures = [office.report(f"r-{index}") for index in range(5)]
    office.committer.stop()
    office.committer.start()
    assert [future.result(PATIENCE_S).seq for future in futures] == [1, 2, 3, 4, 5]


def test_a_tick_learns_of_what_a_failed_commit_had_written(open_office):
    office = open_office(tick_s=0.01)
    office.log.fail_next = "after"
    future = office.report("r-1")
    office.committer.start()
    assert isinstance(future.exception(PATIENCE_S), LogUnavailableError)
    office.wait_for(lambda: office.learner.has_work)
    learn_all(office.learner)
    assert office.learner.version == 1


def test_a_tick_survives_an_outage(open_office):
    office = open_office(tick_s=0.01)
    office.log.down = True
    office.committer.start()
    office.wait_for(lambda: office.committer.last_error == "the line is down")
    office.log.down = False
    office.wait_for(lambda: office.committer.last_error is None)
    assert office.report("r-1").result(PATIENCE_S).accepted == 2


def test_a_tick_logs_the_rewards_that_never_came(open_office, monkeypatch):
    monkeypatch.setattr("learner.ingest._DEFAULTS_AT_ONCE", 2)
    clock = Clock()
    office = open_office(
        tick_s=0.01, clock=clock, default_reward=0.5, reward_window_s=10.0, rule_config=AdagradConfig()
    )
    made = [decision(f"i-{index}") for index in range(1, 6)]
    office.learner.commit_one(office.learner.stage_decisions(DecisionBatch.of(FINGERPRINT, made)))
    office.learner.add_rewards([reward("i-1", {0: 1.0, 1: 1.0})])
    clock.now_s = 11.0
    office.committer.start()
    # However many there are, it takes one tick.
    office.wait_for(lambda: office.learner.counters["rewards_default"] == 8)
    office.committer.stop()
    assert office.learner.counters["rewards_default"] == 8
    learn_all(office.learner)
    assert [row["rewards"] for row in office.learner.uid_table()[:2]] == [5, 5]


def test_callers_are_served_between_one_part_of_many_default_rewards_and_the_next(open_office, monkeypatch):
    monkeypatch.setattr("learner.ingest._DEFAULTS_AT_ONCE", 1)
    clock = Clock()
    office = open_office(tick_s=0.01, clock=clock, default_reward=0.5, reward_window_s=10.0)
    decide(office.learner, *(decision(f"i-{index}") for index in range(1, 7)))
    clock.now_s = 11.0
    asked, commit = [], office.log.commit

    def commit_and_ask(what):
        commit(what)
        if not asked:
            asked.append(office.report("r-1"))

    monkeypatch.setattr(office.log, "commit", commit_and_ask)
    office.committer.start()
    office.wait_for(lambda: office.learner.counters["rewards_default"] == 12)
    assert asked[0].result(PATIENCE_S).seq == 2
    assert office.learner.log.last_seq == 7


def test_default_rewards_go_on_with_the_next_tick_after_an_outage(open_office, monkeypatch):
    monkeypatch.setattr("learner.ingest._DEFAULTS_AT_ONCE", 1)
    clock = Clock()
    office = open_office(tick_s=0.01, clock=clock, default_reward=0.5, reward_window_s=10.0)
    decide(office.learner, *(decision(f"i-{index}") for index in range(1, 4)))
    clock.now_s, commit, commits = 11.0, office.log.commit, []

    def fail_the_second(what):
        commits.append(what)
        office.log.fail_next = "after" if len(commits) == 2 else None
        commit(what)

    monkeypatch.setattr(office.log, "commit", fail_the_second)
    office.committer.start()
    office.wait_for(lambda: office.learner.counters["rewards_default"] == 6 and office.committer.last_error is None)
    assert [event.decision_id for event in events_of(office.learner)] == ["i-1", "i-2", "i-3"]


def test_callers_from_many_threads_are_all_served(open_office):
    office = open_office()
    office.committer.start()
    answers = []

    def send(name):
        futures = [office.report(f"{name}-{index}") for index in range(40)]
        answers.extend(future.result(PATIENCE_S).accepted for future in futures)

    threads = [threading.Thread(target=send, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [2] * 160
    assert office.log.last_seq == 160
    assert office.log.commits <= 160
