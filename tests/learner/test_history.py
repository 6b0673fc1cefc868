"""Any history of reports, resyncs, operator's actions, failing commits, checkpoints and restarts: nothing is lost,
nothing leaks to another owner, and what the log says gives the same bits from wherever it is replayed.
"""

import uuid
from collections import Counter

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from learner.checkpoint import CheckpointStore
from learner.config import AdagradConfig, PooledRidgeConfig, SoftmaxMseConfig, TrustConfig, label_of
from learner.errors import LearnerError, LogUnavailableError
from learner.events import Action, OperatorEvent, Outcome, ResyncEvent, RewardEvent, Standing
from learner.learning import free_to_settle
from learner.protocol import DecisionBatch, RewardItem
from learner.restore import Restored
from learner.standings import follow_standing

from .builders import (
    DIM,
    FINGERPRINT,
    Clock,
    bits,
    build_learner,
    decision,
    embedding,
    events_of,
    message_reward,
    replay,
    reward,
    save,
    state_digest,
    state_of,
)
from .flaky_log import FlakyLog
from .history_books import Books, network

START = network("abcdef")
WINDOW_S = 10.0
HUGE = np.full(DIM, np.inf, np.float16)

names = st.integers(1, 15)
uids = st.integers(0, 5)
values = st.dictionaries(uids, st.floats(-0.1, 1.1), min_size=1, max_size=3)
authors = st.sampled_from("xyz")
of_decision = st.builds(lambda name, *given: reward(f"i-{name}", *given), names, values, authors)
of_message = st.builds(lambda name, *given: message_reward(f"r-{name}", *given), names, values, authors)
of_huge_message = st.builds(
    lambda name, given: RewardItem(tuple(given), tuple(given.values()), reward_id=f"h-{name}", embedding=HUGE),
    names,
    values,
)
reported = st.one_of(of_decision, of_decision, of_decision, of_message, of_message, of_huge_message)
networks = st.sampled_from(["abcdef", "axcdef", "abc", "bacdef", "aBcdef", "abfde", "abcdefg"])
action = st.one_of(
    st.tuples(st.just("decide"), st.lists(uids, min_size=1, max_size=4, unique=True), st.integers(0, 3)),
    st.tuples(st.just("decide"), st.lists(uids, min_size=1, max_size=4, unique=True), st.integers(0, 3)),
    st.tuples(st.just("report"), st.lists(reported, min_size=1, max_size=4)),
    st.tuples(st.just("report"), st.lists(reported, min_size=1, max_size=4)),
    st.tuples(st.just("resync"), networks),
    st.tuples(st.just("act"), st.sampled_from([Action.FREEZE, Action.THAW, Action.THAW, Action.CHECKPOINT])),
    st.tuples(st.just("roll_back"), st.floats(0, 1)),
    st.tuples(st.just("settle"), st.sampled_from([Action.READMIT, Action.READMIT, Action.DROP]), st.integers(0, 3)),
    st.tuples(st.just("promote"), st.integers(0, 2)),
    st.tuples(st.just("assume")),
    st.tuples(st.just("say"), authors, st.sampled_from(list(Standing))),
)
# Soon on, and as suspicious as can be: what is looked at here is that nothing is lost, not who is right.
TRUST = TrustConfig(
    active_rewards=1, free_rewards=1, max_row_share=0.4, clip=1, min_events=10, quarantine_at=2, release_at=0
)
OTHERS = (SoftmaxMseConfig(learning_rate=0.25, label="other"), AdagradConfig(bonus=0.25, label="third"))
COUNTED = {
    Outcome.QUARANTINED: "rewards_quarantined",
    Outcome.DEFAULT: "rewards_default",
    Outcome.LATE: "rewards_late",
    Outcome.STALE: "rewards_stale_hotkey",
}
failures = st.sampled_from([None, None, None, None, "before", "after"])


class HistoryMachine(RuleBasedStateMachine):
    """Drives a learner over a log whose line breaks, and keeps what it was at each version."""

    @initialize(
        config=st.sampled_from(
            [
                AdagradConfig(),
                SoftmaxMseConfig(learning_rate=0.5),
                PooledRidgeConfig(),
                PooledRidgeConfig(new_row="xavier"),
            ]
        ),
        batch=st.integers(1, 4),
        default=st.sampled_from([None, 0.25]),
        saves=st.booleans(),
        wanted=st.sets(st.integers(0, 2)),
    )
    def start(self, config, batch, default, saves, wanted):
        self.log, self.clock = FlakyLog(), Clock()
        # Two are kept, so that a rollback may find its base gone and has to replay from the beginning.
        self.store = CheckpointStore(f"memory://{uuid.uuid4()}", keep=2) if saves else None
        self.pool = {label_of(rule): rule for rule in (config, *OTHERS)}
        self.settings = {
            "batch_rewards": batch,
            "default_reward": default,
            "reward_window_s": WINDOW_S,
            "trust": TRUST,
            "view": START,
            "clock": self.clock,
            "log": self.log,
            "store": self.store,
        }
        self.snapshots, self.digests, self.rules = [], {}, {}
        self.captured, self.acknowledged = [], set()
        self.made, self.taken = [], 0
        self.build(label_of(config), wanted)

    def build(self, serving, wanted):
        """A learner of some of the rules, that which serves among them; the first of them is called the rule."""
        kept = [rule for place, (label, rule) in enumerate(self.pool.items()) if place in wanted or label == serving]
        self.learner = build_learner(**self.settings, rule_config=kept[0], shadow=tuple(kept[1:]))
        self.started_at = self.log.last_seq, self.log.decisions_count()
        self.remember()
        self.learner.take_configured_shadows()

    def remember(self):
        """What is learned at a version is the same whenever the learner comes by it."""
        state = state_of(self.learner)
        assert self.digests.setdefault(state.version, state_digest(state)) == state_digest(state)
        self.rules[state.version] = rule_bits(state)
        self.snapshots.append(self.learner.snapshot())

    @rule(actions=st.lists(action, min_size=1, max_size=3), fails=failures)
    def log_together(self, actions, fails):
        """What several callers want goes into one commit, which may fail."""
        stages = [getattr(self, name)(*rest) for name, *rest in actions]
        before = state_digest(state_of(self.learner)), dict(self.learner.counters)
        self.log.fail_next = fails if self.learner._doubtful is None else None
        try:
            answers = self.learner.commit(stages)
        except LogUnavailableError:
            assert (state_digest(state_of(self.learner)), dict(self.learner.counters)) == before
            return
        finally:
            self.log.fail_next = None
        for (name, *rest), answer in zip(actions, answers, strict=True):
            if name == "decide":
                self.taken = len(self.made)
            elif name == "report" and not isinstance(answer, LearnerError):
                self.check_account(rest[0], answer)

    def check_account(self, items, report):
        whole = {rejection.index for rejection in report.rejected if rejection.uid is None}
        single = sum(1 for rejection in report.rejected if rejection.uid is not None)
        sent = sum(len(item.uids) for index, item in enumerate(items) if index not in whole)
        assert report.accepted + report.duplicates + single == sent
        for index, item in enumerate(items):
            if index not in whole:
                self.acknowledged |= {(item.decision_id, item.reward_id, uid) for uid in item.uids}

    def decide(self, chosen, age):
        """A replica `age` snapshots behind decides, and sends all that was not acknowledged, and a little more."""
        snapshot = self.snapshots[max(0, len(self.snapshots) - 1 - age)]
        chosen = [uid for uid in chosen if uid < snapshot.view.n] or [0]
        counter = len(self.made) + 1
        self.made.append(
            decision(f"i-{counter}", chosen, view=snapshot.view, version=snapshot.version, prompt=embedding(counter))
        )
        return self.learner.stage_decisions(DecisionBatch.of(FINGERPRINT, self.made[max(0, self.taken - age) :]))

    def report(self, items):
        return self.learner.stage_rewards(items)

    def resync(self, hotkeys):
        return self.learner.stage_resync(network(hotkeys, block=self.learner.view.block + 1))

    def act(self, what):
        return self.learner.stage_action(what, "ops")

    def roll_back(self, share):
        first = state_of(self.learner).served_since
        return self.learner.stage_rollback(first + round(share * (self.learner.version - first)), "ops")

    def settle(self, what, every):
        free = free_to_settle(state_of(self.learner))
        return self.learner.stage_settlement(what, free[::every] if every else None, "ops")

    def promote(self, which):
        shadows = list(state_of(self.learner).shadows)
        if not shadows:
            return self.act(Action.CHECKPOINT)
        return self.learner.stage_promotion(shadows[which % len(shadows)], "ops")

    def say(self, author, standing):
        return self.learner.stage_standing(author, standing, "ops")

    def assume(self):
        return self.learner.stage_default_rewards()

    @rule()
    def learn(self):
        if self.learner.learn():
            self.remember()

    @rule()
    def learn_everything(self):
        while self.learner.has_work:
            self.learn()

    @rule()
    def wait(self):
        self.clock.now_s += 6.0

    @rule()
    def capture(self):
        """A checkpoint, or its content where there is no place for one."""
        captured = self.learner.capture()
        self.captured.append(captured.state)
        if self.learner._doubtful is None:
            assert captured.decisions == self.log.decisions_count()
        if self.store is not None:
            save(self.learner, self.store)

    @rule(wanted=st.sets(st.integers(0, 2)))
    def restart(self, wanted):
        """With another choice of rules."""
        self.log.refresh()
        rules = list(self.pool.values())
        # A promotion that waits to be learned is so at the restart.
        serving = state_of(build_learner(**self.settings, rule_config=rules[0], shadow=tuple(rules[1:]))).identity.label
        self.build(serving, wanted)

    @invariant()
    def the_books_agree_with_the_log(self):
        if not hasattr(self, "learner") or self.learner._doubtful is not None:
            return
        learner, events = self.learner, events_of(self.learner)
        assert learner.version + len(learner.backlog) == self.log.last_seq == len(events)
        assert len(learner.backlog) == sum(map(len, learner.backlog._batches))
        views = [START, *(event.view for event in events if isinstance(event, ResyncEvent))]
        assert learner.view == views[-1]
        after, decisions = self.started_at
        singles = Counter()
        for event in events[after:]:
            if isinstance(event, RewardEvent):
                singles[event.outcome] += len(event.uids)
        assert learner.counters["decisions"] == self.log.decisions_count() - decisions
        assert {outcome: learner.counters[name] for outcome, name in COUNTED.items()} == {
            outcome: singles[outcome] for outcome in COUNTED
        }
        assert learner.counters["rewards_accepted"] == singles[Outcome.LEARNED] + singles[Outcome.QUARANTINED]
        self.check_trust(events)

    def check_trust(self, events):
        """Who is trusted follows from the log, and is held or weakened only as far as it says."""
        standings = {}
        for event in events:
            if isinstance(event, OperatorEvent) and event.action is Action.STANDING:
                follow_standing(standings, event)
            elif isinstance(event, RewardEvent):
                assert all(0 <= weight <= 1 for weight in event.weights)
                if event.outcome is not Outcome.LEARNED:
                    assert event.weights == ()
        assert self.learner._trust.standings == standings
        if not self.learner.has_work:
            assert state_of(self.learner).standings == standings

    def teardown(self):
        if not hasattr(self, "learner"):
            return
        self.learner.renew()
        self.the_books_agree_with_the_log()
        self.learn_everything()
        self.check_who_earned_what()
        self.check_replays()

    def check_who_earned_what(self):
        """Read from the log alone: what the present owners earned is what their rows have learned."""
        books, reported = Books(START), set()
        for batch in self.log.batches(0):
            for event in batch:
                if isinstance(event, RewardEvent):
                    self.check_reported_once(event, reported)
                    self.check_outcome(event, books)
                elif isinstance(event, OperatorEvent) and event.action is Action.ROLLBACK:
                    self.check_weights_came_back(event, books.served_since)
            books.enter(batch)
        assert self.acknowledged <= reported
        state = state_of(self.learner)
        assert (state.frozen, list(state.held.items())) == (books.frozen, sorted(books.held.items()))
        assert (set(state.shadows), state.served_since) == (books.shadows, books.served_since)
        assert state.statistics.rewards.tolist() == [len(earned) for earned in books.earned]
        sums = [sum(reward for _, reward in earned) for earned in books.earned]
        np.testing.assert_allclose(state.statistics.reward_sum, sums, atol=1e-9)

    def check_reported_once(self, event, reported):
        for uid in event.uids:
            key = (event.decision_id, event.reward_id, uid)
            assert key not in reported
            if event.outcome is not Outcome.DEFAULT:
                reported.add(key)

    def check_outcome(self, event, books):
        """A decision's reward counts for whom it was asked of, and for nobody who came since."""
        if event.decision_id is None:
            return
        version = self.log.decision(event.decision_id).version
        for uid in event.uids:
            stayed = uid < len(books.owners) and books.since.get(uid, 0) <= version
            assert stayed is (event.outcome is not Outcome.STALE)

    def check_weights_came_back(self, event, served_since):
        target = event.arguments["version"]
        if target < served_since:
            return
        since = self.log.batches(target, event.seq - 1)
        if any(isinstance(batch[0], ResyncEvent) for batch in since) or not {target, event.seq} <= self.rules.keys():
            return
        assert self.rules[event.seq] == self.rules[target]

    def check_replays(self):
        learned = state_digest(state_of(self.learner))
        assert state_digest(replay(self.learner)) == learned
        restorer = self.learner._restorer
        for state in self.captured:
            learning = restorer._learning(Restored(state.copy()), {})
            for batch in self.log.batches(state.version):
                learning.apply(batch)
            assert state_digest(learning.state) == learned
        state = state_of(self.learner)
        self.restart(
            {place for place, label in enumerate(self.pool) if label in (state.identity.label, *state.shadows)}
        )
        assert state_digest(state_of(self.learner)) == learned
        assert np.isfinite(self.learner.snapshot().weight).all()


def rule_bits(state):
    return [{name: bits(tensor) for name, tensor in part.items()} for part in (state.rule.rows, state.rule.shared)]


TestHistoryMachine = HistoryMachine.TestCase
TestHistoryMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
