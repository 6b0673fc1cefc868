"""Many callers in one commit, and commits that fail before or after they are written."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from gating import MetagraphView
from learner.config import AdagradConfig
from learner.errors import (
    DecisionPendingError,
    FencedError,
    LogUnavailableError,
    OverloadedError,
    RepeatedUidError,
    StaleViewError,
    UnknownUidError,
)
from learner.events import Action, OperatorEvent, ResyncEvent
from learner.memory_log import MemoryEventLog
from learner.protocol import DecisionBatch, RewardItem

from .builders import (
    EPOCH,
    FINGERPRINT,
    START,
    Clock,
    act,
    build_learner,
    decide,
    decision,
    digest,
    events_of,
    head_bits,
    learn_all,
    message_reward,
    replay,
    reward,
    state_digest,
    state_of,
)
from .flaky_log import FlakyLog

PATIENCE_S = 20.0
FAILS = pytest.mark.parametrize("fails", ["before", "after"])


def view(hotkeys, block=2):
    return MetagraphView.from_hotkeys(hotkeys, block=block)


def stage_decisions(learner, *decisions):
    return learner.stage_decisions(DecisionBatch.of(FINGERPRINT, decisions))


def selections(learner):
    return [row["selections"] for row in learner.uid_table()]


def counts(learner):
    return state_of(learner).statistics.rewards.tolist()


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda learner: learner.stage_rewards([message_reward("r-9", {99: 0.5})]), UnknownUidError),
        (lambda learner: learner.stage_rewards([RewardItem((0, 0), (0.1, 0.2), decision_id="i-1")]), RepeatedUidError),
        (lambda learner: learner.stage_rewards([reward("j-9", {0: 0.5})], expected=["j-9"]), DecisionPendingError),
        (lambda learner: learner.stage_resync(view("abcdef", block=0), "ops"), StaleViewError),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_caller_that_is_refused_changes_nothing_for_the_others(bad, error, place):
    with_it, without = build_learner(), build_learner()
    answers = {}
    for learner in (with_it, without):
        stages = [
            stage_decisions(learner, decision("i-1")),
            learner.stage_rewards([reward("i-1", {0: 0.5}), message_reward("r-1", {2: 0.5})]),
        ]
        if learner is with_it:
            stages.insert(place, bad(learner))
        answers[learner] = learner.commit(stages)
    refused = answers[with_it].pop(place)
    assert isinstance(refused, error)
    assert answers[with_it] == answers[without]
    learn_all(with_it)
    learn_all(without)
    assert with_it.counters == without.counters
    assert state_digest(state_of(with_it)) == state_digest(state_of(without))
    assert with_it._join._decisions == without._join._decisions


def test_what_one_caller_alone_is_refused_is_raised():
    learner = build_learner()
    before = digest(learner)
    with pytest.raises(UnknownUidError):
        learner.commit_one(learner.stage_rewards([message_reward("r-1", {99: 0.5})]))
    assert digest(learner) == before


def test_a_reward_may_come_with_its_decision_and_a_duplicate_with_its_first():
    learner = build_learner()
    report = [reward("i-1", {0: 0.5, 1: 0.1}), message_reward("r-1", {0: 0.5})]
    answers = learner.commit(
        [
            learner.stage_rewards([reward("i-1", {0: 0.9})]),
            stage_decisions(learner, decision("i-1"), decision("i-1")),
            learner.stage_rewards(report),
            stage_decisions(learner, decision("i-1")),
            learner.stage_rewards(report),
        ]
    )
    assert [rejection.code for rejection in answers[0].rejected] == ["unknown_decision"]
    assert (answers[2].accepted, answers[2].duplicates) == (3, 0)
    assert (answers[4].accepted, answers[4].duplicates) == (0, 3)
    assert learner.counters["decisions"] == learner.log.decisions_count() == 1
    assert learner.counters["decisions_joined"] == 1
    learn_all(learner)
    assert counts(learner)[:2] == [2, 1]
    assert selections(learner)[:2] == [1, 1]


def test_reports_after_a_resync_of_the_same_commit_are_judged_by_its_network():
    learner = build_learner()
    decide(learner, decision("i-1"), decision("i-2"))
    first, summary, second = learner.commit(
        [
            learner.stage_rewards([reward("i-1", {0: 0.5, 1: 0.5})]),
            learner.stage_resync(view("axcdef")),
            learner.stage_rewards([reward("i-2", {0: 0.5, 1: 0.5})]),
        ]
    )
    assert (first.accepted, summary.reset, second.accepted) == (2, (1,), 1)
    assert [(rejection.code, rejection.uid) for rejection in second.rejected] == [("stale_hotkey", 1)]
    learn_all(learner)
    assert counts(learner)[:2] == [2, 0]


def test_the_places_of_a_report_are_those_up_to_its_own_end():
    learner = build_learner()
    answers = learner.commit([learner.stage_rewards([message_reward(f"r-{index}", {0: 0.5})]) for index in range(3)])
    assert [answer.seq for answer in answers] == [1, 2, 3]


def test_a_resync_that_an_operator_asked_for_is_logged_even_if_nothing_has_changed():
    learner = build_learner()
    summary = learner.resync(START, "ops")
    assert summary.seq == 1
    assert [(event.action, event.author) for event in events_of(learner)] == [(Action.RESYNC, "ops")]
    summary = learner.resync(view("axcdef"), "ops")
    assert summary.seq == 3
    assert [type(event) for event in events_of(learner, after=1)] == [OperatorEvent, ResyncEvent]
    learn_all(learner)
    assert learner.version == 3


def test_each_resync_draws_its_rows_with_a_seed_of_its_own():
    learner = build_learner(seed=5)
    learner.commit([learner.stage_resync(view("axcdef", 2)), learner.stage_resync(view("aycdef", 3))])
    assert [event.seed for event in events_of(learner)] == [6, 7]


def test_nothing_to_write_is_not_written():
    learner = build_learner(log=FlakyLog())
    learner.log.fail_next = "before"
    assert learner.add_rewards([reward("i-9", {0: 0.5})]).rejected[0].code == "unknown_decision"
    assert learner.log.fail_next == "before"
    assert learner.counters["rewards_unknown_decision"] == 1


def test_a_publish_is_noted_in_the_log_and_is_no_event():
    commits = []

    class Noting(FlakyLog):
        def commit(self, commit):
            commits.append(commit)
            super().commit(commit)

    clock = Clock(7.0)
    learner = build_learner(log=Noting(), clock=clock)
    learner.commit_one(learner.stage_publish(3))
    [commit] = commits
    assert [(publish.version, publish.time_s) for publish in commit.publishes] == [(3, 7.0)]
    assert (commit.at_s, learner.log.last_seq) == (7.0, 0)


@FAILS
def test_after_a_commit_that_failed_the_same_request_is_taken_once(fails):
    learner = build_learner(log=FlakyLog())
    items = [reward("i-1", {0: 1.0, 1: 0.0}), message_reward("r-1", {2: 0.5, 3: 0.1})]
    stages = [stage_decisions(learner, decision("i-1")), learner.stage_rewards(items)]
    learner.log.fail_next = fails
    with pytest.raises(LogUnavailableError):
        learner.commit(stages)
    assert learner.counters == Counter()
    assert not learner.has_work
    assert selections(learner) == [0] * START.n

    _, answer = learner.commit(stages)
    assert (answer.accepted, answer.duplicates) == ((4, 0) if fails == "before" else (0, 4))
    assert answer.seq == 2
    assert learner.log.refreshes == 1
    learn_all(learner)
    assert [event.seq for event in events_of(learner)] == [1, 2]
    assert counts(learner) == [1, 1, 1, 1, 0, 0]
    assert selections(learner) == [1, 1, 0, 0, 0, 0]
    figures = learner.describe()
    assert (figures["decisions"], figures["join_rate"]) == (1, 1.0)
    assert figures["counters"]["rewards_accepted"] == 4
    assert figures["counters"].get("rewards_duplicate", 0) == (0 if fails == "before" else 4)
    assert state_digest(replay(learner)) == state_digest(state_of(learner))


@FAILS
def test_decisions_alone_are_counted_once_whether_or_not_the_failed_commit_had_them(fails):
    learner = build_learner(log=FlakyLog())
    learner.log.fail_next = fails
    with pytest.raises(LogUnavailableError):
        decide(learner, decision("i-1"), decision("i-2"))
    learner.renew()
    assert learner.counters["decisions"] == (0 if fails == "before" else 2)
    decide(learner, decision("i-1"), decision("i-2"))
    decide(learner, decision("i-3"))
    assert learner.counters["decisions"] == learner.log.decisions_count() == 3
    assert selections(learner)[:2] == [3, 3]


@FAILS
def test_a_resync_in_a_commit_that_failed_is_followed_if_it_was_written_and_only_then(fails):
    learner = build_learner(log=FlakyLog())
    decide(learner, decision("i-1"))
    learner.log.fail_next = fails
    with pytest.raises(LogUnavailableError):
        learner.resync(view("axcdef"))
    assert learner.view == START
    report = learner.add_rewards([reward("i-1", {0: 0.5, 1: 0.5})])
    learn_all(learner)
    if fails == "before":
        assert (report.accepted, learner.view) == (2, START)
        assert counts(learner)[:2] == [1, 1]
    else:
        assert (report.accepted, learner.view) == (1, view("axcdef"))
        assert report.rejected[0].code == "stale_hotkey"
        assert counts(learner)[:2] == [1, 0]
    assert learner.snapshot().view == learner.view
    assert learner.resync(view("ayc", block=3)).reset == (1,)
    learn_all(learner)
    assert state_digest(replay(learner)) == state_digest(state_of(learner))


@FAILS
def test_two_failures_in_a_row_lose_nothing_and_leave_no_gap(fails):
    learner = build_learner(log=FlakyLog())
    items = [[message_reward(name, {0: 1.0, 1: 0.0})] for name in ("r-1", "rr-2", "rrr-3")]
    learner.add_rewards(items[0])
    for report in items[1:]:
        learner.log.fail_next = fails
        with pytest.raises(LogUnavailableError):
            learner.add_rewards(report)
    answers = [learner.add_rewards(report) for report in items]
    assert [answer.accepted for answer in answers] == ([0, 2, 2] if fails == "before" else [0, 0, 0])
    learn_all(learner)
    assert [event.seq for event in events_of(learner)] == [1, 2, 3]
    assert counts(learner)[:2] == [3, 3]


def test_while_the_log_is_away_nothing_is_taken_and_learning_goes_on():
    learner = build_learner(log=FlakyLog())
    learner.add_rewards([message_reward("r-1", {0: 1.0, 1: 0.0})])
    learner.log.fail_next = "after"
    with pytest.raises(LogUnavailableError):
        learner.add_rewards([message_reward("r-2", {0: 1.0, 1: 0.0})])
    learner.log.down = True
    for _ in range(2):
        with pytest.raises(LogUnavailableError):
            learner.add_rewards([message_reward("r-3", {0: 1.0, 1: 0.0})])
        with pytest.raises(LogUnavailableError):
            learner.renew()
    assert learn_all(learner) == [1]
    learner.log.down = False
    assert learner.add_rewards([message_reward("r-2", {0: 1.0, 1: 0.0})]).duplicates == 2
    learn_all(learner)
    assert counts(learner)[:2] == [2, 2]


def test_a_line_that_breaks_while_the_doubt_is_cleared_leaves_it_for_the_next_time():
    class BreaksInFind(FlakyLog):
        breaks = False

        def find(self, decision_ids, reward_ids):
            if self.breaks:
                raise LogUnavailableError("the line broke again")
            return self.inner.find(decision_ids, reward_ids)

    learner = build_learner(log=BreaksInFind())
    stages = [
        stage_decisions(learner, decision("i-1")),
        learner.stage_rewards([reward("i-1", {0: 1.0, 1: 0.0})]),
        learner.stage_resync(view("axcdef")),
    ]
    learner.log.fail_next = "after"
    with pytest.raises(LogUnavailableError):
        learner.commit(stages)
    learner.log.breaks = True
    with pytest.raises(LogUnavailableError):
        learner.renew()
    learner.log.breaks = False
    learner.renew()
    learn_all(learner)
    assert (counts(learner)[:2], selections(learner)[:2]) == ([1, 0], [1, 0])
    assert learner.counters["rewards_accepted"] == 2
    assert learner.counters["decisions"] == 1
    assert learner.view == view("axcdef")
    assert state_digest(replay(learner)) == state_digest(state_of(learner))


@FAILS
def test_what_a_learner_saves_has_nothing_that_is_open_to_doubt(fails):
    learner = build_learner(log=FlakyLog())
    decide(learner, decision("i-1", (0, 1)))
    learner.log.fail_next = fails
    with pytest.raises(LogUnavailableError):
        decide(learner, decision("i-2", (0, 2)))
    captured = learner.capture()
    assert captured.decisions == 1
    assert captured.state.statistics.selections.tolist() == [1, 1, 0, 0, 0, 0]
    learner.renew()
    captured = learner.capture()
    assert captured.decisions == learner.log.decisions_count() == (1 if fails == "before" else 2)
    assert captured.state.statistics.selections.tolist() == (
        [1, 1, 0, 0, 0, 0] if fails == "before" else [2, 1, 1, 0, 0, 0]
    )


def test_what_is_captured_does_not_change_any_more():
    learner = build_learner(rule_config=AdagradConfig())
    captured = learner.capture()
    before = state_digest(captured.state)
    learner.add_rewards([message_reward("r-1", {0: 1.0, 1: 0.0})])
    learner.resync(view("axcdef"))
    learn_all(learner)
    assert state_digest(captured.state) == before != state_digest(state_of(learner))


def test_whoever_has_lost_the_log_takes_nothing():
    learner = build_learner(log=FlakyLog())
    learner.log.fenced = True
    with pytest.raises(FencedError):
        learner.add_rewards([message_reward("r-1", {0: 1.0})])
    with pytest.raises(FencedError):
        learner.renew()
    assert not learner.has_work


def test_more_than_can_be_learned_is_not_taken_until_it_has_been_learned(monkeypatch):
    monkeypatch.setattr("learner.ingest._MOST_WAITING", 3)
    learner = build_learner(batch_rewards=2)
    reports = [[message_reward(f"r-{index}", {0: 0.5})] for index in range(6)]
    answers = learner.commit([learner.stage_rewards(report) for report in reports[:5]])
    assert [getattr(answer, "accepted", type(answer)) for answer in answers] == [1, 1, 1, 1, OverloadedError]
    with pytest.raises(OverloadedError, match="4 events wait to be learned"):
        learner.add_rewards(reports[5])
    assert learner.log.last_seq == 4
    learner.learn()
    assert learner.add_rewards(reports[4]).accepted == 1
    learn_all(learner)
    assert learner.version == 5


def test_a_decision_that_came_out_of_order_is_known_nevertheless():
    learner = build_learner()
    decide(learner, decision("i-7"))
    decide(learner, decision("i-3"))
    decide(learner, decision("i-3"), decision("i-7"), decision("i-8"))
    assert learner.counters["decisions"] == learner.log.decisions_count() == 3


def test_the_log_is_not_asked_about_decisions_that_it_cannot_have():
    asked = []

    class Asked(FlakyLog):
        def find(self, decision_ids, reward_ids):
            asked.extend(decision_ids)
            return self.inner.find(decision_ids, reward_ids)

    learner = build_learner(log=Asked())
    decide(learner, decision("i-1"))
    assert asked == ["i-1"]
    decide(learner, decision("i-2"), decision("i-3"))
    assert asked == ["i-1"]
    decide(build_learner(log=learner.log), decision("i-4"))
    assert asked == ["i-1", "i-4"]


def test_the_published_numbers_are_those_of_the_state():
    learner = build_learner()
    learner.add_rewards([message_reward("r-1", {0: 1.0, 1: 0.0})])
    learn_all(learner)
    head = learner.rule.head(state_of(learner).rule)
    assert head_bits(learner)[0] == head.weight.numpy().tobytes()


def codes(report):
    return [rejection.code for rejection in report.rejected]


def test_a_decision_whose_embedding_is_being_erased_takes_no_more_rewards():
    """What comes in between would be in the log, and could not be learned again by a restart."""
    learner = build_learner()
    decide(learner, decision("i-1"), decision("i-2"))
    before, seq, after = learner.commit(
        [
            learner.stage_rewards([reward("i-1", {0: 0.5})]),
            learner.stage_erasure("i-1", "ops"),
            learner.stage_rewards([reward("i-1", {1: 0.5}), reward("i-2", {1: 0.5})]),
        ]
    )
    assert (before.accepted, seq, after.accepted, codes(after)) == (1, 2, 1, ["embedding_erased"])
    assert codes(learner.add_rewards([reward("i-1", {1: 0.5})])) == ["embedding_erased"]
    [erased] = [event for event in events_of(learner) if isinstance(event, OperatorEvent)]
    assert (erased.action, erased.author, erased.arguments) == (Action.ERASE, "ops", {"decision_id": "i-1"})


def test_a_decision_takes_rewards_again_if_its_erasure_could_not_be_logged():
    log = FlakyLog()
    learner = build_learner(log=log)
    decide(learner, decision("i-1"))
    log.fail_next = "before"
    with pytest.raises(LogUnavailableError):
        learner.commit_one(learner.stage_erasure("i-1", "ops"))
    assert learner.add_rewards([reward("i-1", {1: 0.5})]).accepted == 1


def test_a_decision_whose_embedding_is_being_erased_has_no_default_reward():
    clock = Clock()
    learner = build_learner(clock=clock, default_reward=0.25, reward_window_s=10.0)
    decide(learner, decision("i-1"), decision("i-2"))
    learner.commit_one(learner.stage_erasure("i-1", "ops"))
    clock.now_s = 11.0
    learner.commit_one(learner.stage_default_rewards())
    assert [event.decision_id for event in events_of(learner, after=1)] == ["i-2"]


def test_once_an_embedding_is_erased_the_log_says_so():
    log = FlakyLog()
    learner = build_learner(log=log)
    decide(learner, decision("i-1"), decision("i-2"))
    for decision_id in ("i-1", "i-2"):
        learner.commit_one(learner.stage_erasure(decision_id, "ops"))
    log.down = True
    with pytest.raises(LogUnavailableError):
        learner.finish_erasure("i-1")
    log.down = False
    assert list(learner._erasing) == ["i-1", "i-2"]
    assert learner.finish_erasure("i-1")
    assert list(learner._erasing) == ["i-2"]
    assert codes(learner.add_rewards([reward("i-1", {1: 0.5}), reward("i-2", {1: 0.5})])) == ["embedding_erased"] * 2
    assert not learner.finish_erasure("i-9")


class SlowToReadmit(MemoryEventLog):
    """Held events take as long as the test wants."""

    def __init__(self):
        super().__init__(started_at_ms=EPOCH)
        self.asked, self.may_go_on = threading.Event(), threading.Event()

    def reward_events(self, seqs):
        self.asked.set()
        assert self.may_go_on.wait(PATIENCE_S)
        return super().reward_events(seqs)


def test_while_held_events_are_learned_the_log_takes_more_and_the_claim_on_it_is_renewed():
    log = SlowToReadmit()
    learner = build_learner(log=log)
    act(learner, Action.FREEZE)
    learner.add_rewards([message_reward("r-1", {0: 1.0, 1: 0.0})])
    learner.commit_one(learner.stage_action(Action.THAW, "ops"))
    with ThreadPoolExecutor() as threads:
        learning = threads.submit(learn_all, learner)
        assert log.asked.wait(PATIENCE_S)
        saving = threads.submit(learner.capture)
        meanwhile = threads.submit(
            lambda: (
                decide(learner, decision("i-1", (0, 1))),
                learner.add_rewards([reward("i-1", {0: 1.0})]).accepted,
                learner.renew(),
            )
        )
        try:
            assert meanwhile.result(PATIENCE_S)[1] == 1
            assert not saving.done()
        finally:
            log.may_go_on.set()
        assert learning.result(PATIENCE_S) == [1, 1, 1]
        captured = saving.result(PATIENCE_S)
    assert (captured.decisions, captured.state.statistics.selections.tolist()) == (1, [1, 1, 0, 0, 0, 0])
    assert (selections(learner)[:2], counts(learner)[:2]) == ([1, 1], [2, 1])
    assert state_digest(replay(learner)) == state_digest(state_of(learner))


def test_decisions_are_counted_where_nothing_is_reported():
    learner = build_learner()
    decide(learner, decision("i-1", (0, 2)))
    assert learner.learn() == 0
    assert state_of(learner).statistics.selections.tolist() == [1, 0, 1, 0, 0, 0]
