"""Reward trust within a whole learner: what is logged, learned, held, and known again after a restart."""

import uuid

import numpy as np
import pytest

from gating import MetagraphView
from learner.checkpoint import CheckpointStore
from learner.config import AdagradConfig, TrustConfig
from learner.errors import LogUnavailableError
from learner.events import Action, OperatorEvent, Outcome, RewardEvent, Standing
from learner.prequential import gather
from learner.protocol import DecisionBatch, RewardItem
from learner.state import Held

from .builders import (
    FINGERPRINT,
    Clock,
    act,
    build_learner,
    decision,
    embedding,
    events_of,
    learn_all,
    replay,
    roll_back,
    save,
    settle,
    state_digest,
    state_of,
)
from .flaky_log import FlakyLog

SKILL = np.array([0.1, 0.3, 0.5, 0.6, 0.7, 0.9])
LIES = {"a": False, "b": False, "c": True}


class Reporting:
    """A learner, and three authors who report to it."""

    def __init__(self, **settings):
        self.clock, self.log = Clock(), settings.pop("log", None) or FlakyLog()
        self.settings = {"rule_config": AdagradConfig(), "clock": self.clock, "log": self.log, **settings}
        self.learner = build_learner(**self.settings)
        self.rng, self.count = np.random.default_rng(0), 0

    def item(self, author, lies, uids=None):
        self.count += 1
        uids = self.rng.choice(6, 3, replace=False) if uids is None else np.array(uids)
        prompt = embedding(self.count)
        true = np.clip(SKILL[uids] + 0.3 * float(prompt[0]) + self.rng.normal(0, 0.1, 3), 0, 1)
        told = 1 - true if lies else true
        return RewardItem(
            tuple(uids.tolist()), tuple(told.tolist()), reward_id=f"m-{self.count}", embedding=prompt, author=author
        )

    def report(self, **lies):
        """One report of each author, in one commit; learned at once."""
        self.clock.now_s += 1.0
        items = [self.item(author, lie) for author, lie in (lies or LIES).items()]
        report = self.learner.add_rewards(items)
        learn_all(self.learner)
        return report

    def until_quarantined(self):
        for rounds in range(200):
            if self.quarantined():
                return rounds
            self.report()
        raise AssertionError("nobody was quarantined")

    def quarantined(self):
        return [author for author, known in state_of(self.learner).standings.items() if known.is_quarantined]

    def restart(self):
        self.log.refresh()
        self.learner = build_learner(**self.settings)


def rewards_of(learner, author):
    return [event for event in events_of(learner) if isinstance(event, RewardEvent) and event.author == author]


@pytest.fixture
def reporting():
    return Reporting()


def test_a_quarantined_authors_rewards_are_accepted_logged_held_and_counted(reporting):
    reporting.until_quarantined()
    before = reporting.learner.counters["rewards_accepted"]
    learned = state_of(reporting.learner).statistics.rewards.sum()
    assert reporting.report().accepted == 9
    assert reporting.learner.counters["rewards_accepted"] == before + 9
    assert reporting.learner.counters["rewards_quarantined"] == 3
    assert reporting.learner.counters["authors_quarantined"] == 1
    assert state_of(reporting.learner).statistics.rewards.sum() == learned + 6
    [event] = [event for event in rewards_of(reporting.learner, "c") if event.outcome is Outcome.QUARANTINED]
    assert state_of(reporting.learner).held == {event.seq: Held.AUTHOR}
    assert reporting.learner.describe()["quarantine"]["author"] == 1
    assert reporting.learner.describe()["trust"]["quarantined"] == ["c"]


def test_a_report_that_was_held_is_a_duplicate_the_next_time(reporting):
    reporting.until_quarantined()
    item = reporting.item("c", True)
    reporting.learner.add_rewards([item])
    report = reporting.learner.add_rewards([item])
    assert (report.accepted, report.duplicates) == (0, 3)


@pytest.mark.parametrize("what", [Action.READMIT, Action.DROP])
def test_what_is_held_can_be_learned_after_all_or_given_up(reporting, what):
    reporting.until_quarantined()
    reporting.report()
    learned = state_of(reporting.learner).statistics.rewards.sum()
    settle(reporting.learner, what)
    assert state_of(reporting.learner).held == {}
    more = 3 if what is Action.READMIT else 0
    assert state_of(reporting.learner).statistics.rewards.sum() == learned + more
    assert state_digest(replay(reporting.learner)) == state_digest(state_of(reporting.learner))


def test_a_rollback_keeps_who_is_quarantined_and_what_is_held(reporting):
    reporting.until_quarantined()
    reporting.report()
    [held] = state_of(reporting.learner).held
    roll_back(reporting.learner, 0)
    assert reporting.quarantined() == ["c"]
    assert state_of(reporting.learner).held[held] is Held.AUTHOR
    assert state_digest(replay(reporting.learner)) == state_digest(state_of(reporting.learner))


def test_a_thaw_learns_what_the_freeze_has_held_and_no_more(reporting):
    reporting.until_quarantined()
    act(reporting.learner, Action.FREEZE)
    reporting.report()
    act(reporting.learner, Action.THAW)
    assert list(state_of(reporting.learner).held.values()) == [Held.AUTHOR]


def test_replaying_gives_the_same_bits_with_weights_and_held_rewards(reporting):
    reporting.until_quarantined()
    for _ in range(20):
        reporting.report()
    weights = [weight for event in rewards_of(reporting.learner, "c") for weight in event.weights]
    assert min(weights) < 0.9
    assert state_digest(replay(reporting.learner)) == state_digest(state_of(reporting.learner))


@pytest.mark.parametrize("saves", [False, True])
def test_a_restart_knows_who_is_quarantined_and_goes_on_holding(saves):
    store = CheckpointStore(f"memory://{uuid.uuid4()}", keep=2) if saves else None
    reporting = Reporting(store=store)
    reporting.until_quarantined()
    if saves:
        save(reporting.learner, store)
    known = reporting.learner.authors()
    reporting.restart()
    assert reporting.quarantined() == ["c"]
    again = reporting.learner.authors()
    assert [(view.author, view.weight, view.recent_rewards) for view in again] == [
        (view.author, view.weight, pytest.approx(view.recent_rewards, rel=0.1)) for view in known
    ]
    reporting.report()
    assert rewards_of(reporting.learner, "c")[-1].outcome is Outcome.QUARANTINED
    assert rewards_of(reporting.learner, "a")[-1].outcome is Outcome.LEARNED


def remembered(learner):
    """What reward trust expects of the uids, and its evidence on the authors."""
    consensus, memory = learner._trust._consensus, learner._trust._memory
    by_author = {author: memory.agreement._sums[number] for author, number in sorted(memory.numbers.items())}
    return [consensus._count, consensus._total, consensus._hardness, *by_author.values()]


def test_a_restart_forgets_what_owners_and_authors_before_have_done(reporting):
    learner = reporting.learner
    reporting.until_quarantined()
    shrunk = MetagraphView.from_hotkeys("nbcde", block=2)
    learner.commit(
        [
            learner.stage_resync(shrunk),
            learner.stage_rewards([reporting.item("a", False, uids=[0, 1, 2])]),
            learner.stage_standing("c", Standing.AUTO, "ops"),
        ]
    )
    learn_all(learner)
    known = remembered(learner)
    assert 0 < known[0][0] < 2
    assert known[0][5] == 0
    reporting.restart()
    for mine, before in zip(remembered(reporting.learner), known, strict=True):
        np.testing.assert_allclose(mine, before, rtol=1e-9, atol=1e-12)
    assert {view.author: view.score for view in reporting.learner.authors()}["c"] == 0.0
    assert reporting.learner._trust.standings == {}
    for _ in range(5):
        learner, seq = reporting.learner, reporting.log.last_seq
        learner.add_rewards([reporting.item("b", False, uids=[1, 2, 3])])
        assert all(isinstance(event, RewardEvent) for event in events_of(learner, after=seq))


def test_an_operators_word_outlives_the_events_that_said_it():
    store = CheckpointStore(f"memory://{uuid.uuid4()}", keep=2)
    reporting = Reporting(store=store)
    seq = reporting.learner.commit_one(reporting.learner.stage_standing("a", Standing.DISTRUSTED, "ops"))
    learn_all(reporting.learner)
    said = [event for event in events_of(reporting.learner) if isinstance(event, OperatorEvent)]
    assert [(event.seq, event.author, event.arguments["author"]) for event in said] == [(seq, "ops", "a")]
    save(reporting.learner, store)
    # As if the log's beginning had been pruned.
    reporting.log.inner._events.clear()
    reporting.log.inner._logged_s.clear()
    reporting.restart()
    reporting.report()
    assert rewards_of(reporting.learner, "a")[-1].outcome is Outcome.QUARANTINED


@pytest.mark.parametrize("fails", ["before", "after"])
def test_a_commit_that_fails_leaves_trust_as_the_log_has_it(reporting, fails):
    for _ in range(40):
        reporting.report()
    before = reporting.learner.authors()
    reporting.log.fail_next = fails
    with pytest.raises(LogUnavailableError):
        reporting.learner.add_rewards([reporting.item("c", True) for _ in range(50)])
    assert reporting.learner.authors() == before
    reporting.learner.renew()
    now = {view.author: view for view in reporting.learner.authors()}
    then = {view.author: view for view in before}
    assert (now["c"].recent_rewards > then["c"].recent_rewards) is (fails == "after")
    assert now["a"].recent_rewards == then["a"].recent_rewards


def test_one_author_gives_the_same_bits_with_trust_and_without():
    on, off = Reporting(), Reporting(trust=TrustConfig(enabled=False))
    for _ in range(30):
        on.report(a=False)
        off.report(a=False)
    assert state_digest(state_of(on.learner)) == state_digest(state_of(off.learner))


def test_what_was_held_is_no_evidence_about_a_policy():
    reporting = Reporting()
    learner = reporting.learner
    learner.commit_one(learner.stage_standing("x", Standing.DISTRUSTED, "ops"))
    made = [decision("i-1"), decision("i-2")]
    learner.add_decisions(DecisionBatch.of(FINGERPRINT, made))
    learner.add_rewards(
        [
            RewardItem((0, 1), (1.0, 0.0), decision_id="i-1", author="x"),
            RewardItem((0, 1), (1.0, 0.0), decision_id="i-2", author="y"),
        ]
    )
    usable = gather(reporting.log.inner, first=0, last=100, now_s=1e9, window_s=1.0)
    assert [one.id for one in usable.decisions] == ["i-2"]
    assert usable.left_out["unrewarded"] == 1
