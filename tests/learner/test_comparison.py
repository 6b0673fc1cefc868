"""Rules judged on the decisions as they come."""

import threading

import numpy as np
import pytest

from gating.policies import Greedy, TailExploration
from learner.comparison import Comparison, ComparisonLoop
from learner.config import AdagradConfig, PooledRidgeConfig, SoftmaxMseConfig
from learner.evaluation import Status, difference, evaluate
from learner.events import Action

from .builders import Clock, act, build_learner, learn_all, state_of
from .history_books import network
from .live_gate import LiveGate

POLICY = TailExploration(0.5, 0.5)
SHADOWS = (AdagradConfig(bonus=0.1), SoftmaxMseConfig(learning_rate=0.5))


@pytest.fixture
def gate():
    return build_gate()


def build_gate(**settings):
    given = {"rule_config": PooledRidgeConfig(dims=3), "shadow": SHADOWS, "clock": Clock(), "policy": POLICY}
    learner = build_learner(**{**given, **settings})
    learner.take_configured_shadows()
    learn_all(learner)
    return LiveGate(learner, given["policy"])


def earns(gate, label):
    return gate.learner.describe()["rules"][label]["would_earn"]


def test_every_rule_is_judged_on_the_decisions_since_its_head_was_taken(gate):
    gate.run(50, every=10)
    gate.learner.compare()
    assert earns(gate, "adagrad") == {"decisions": 0, "status": "no_data"}
    gate.run(200, every=10)
    gate.learner.compare()
    for label in ("pooled_ridge", "adagrad", "softmax_mse"):
        told = earns(gate, label)
        assert (told["decisions"], told["status"]) == (200, "ok")
        assert told["low"] < told["value"] < told["high"]
    gate.run(100, every=10)
    gate.learner.compare()
    assert earns(gate, "adagrad")["decisions"] == 300


def test_the_rule_that_serves_earns_what_was_logged(gate):
    gate.run(150, every=20)
    gate.learner.compare()
    gate.run(200, every=20)
    gate.learner.compare()
    served = earns(gate, "pooled_ridge")
    earned = [event for event in gate.learner.progress.rewards]
    assert served["low"] <= np.mean(earned[-200:]) <= served["high"]


def test_a_rule_that_knows_nothing_is_seen_to_be_worse(gate):
    gate.run(150, every=20)
    gate.learner.compare()
    gate.run(40, every=10)
    gate.learner.compare()
    assert "better_by" not in earns(gate, "pooled_ridge")
    # It does not learn at all.
    lazy = build_gate(shadow=(AdagradConfig(label="lazy", learning_rate=1e-9, bonus=0.0),))
    lazy.run(100, every=20)
    lazy.learner.compare()
    lazy.run(300, every=20)
    lazy.learner.compare()
    better = earns(lazy, "lazy")["better_by"]
    assert better["status"] == "ok"
    assert better["high"] < 0
    narrow = better["high"] - better["low"]
    own = earns(lazy, "lazy")
    assert narrow < (own["high"] - own["low"]) * 1.5


def test_where_nothing_was_left_to_chance_there_is_no_number():
    gate = build_gate(policy=Greedy())
    gate.policy = Greedy()
    gate.run(100, every=10)
    gate.learner.compare()
    gate.run(100, every=10)
    gate.learner.compare()
    told = earns(gate, "softmax_mse")
    assert told["status"] == "no_support"
    assert told["value"] is None
    assert told["better_by"]["status"] == "no_support"


def test_without_shadows_nothing_is_judged_and_nothing_kept():
    gate = build_gate(shadow=())
    gate.run(20, every=10)
    gate.learner.compare()
    gate.run(20, every=10)
    gate.learner.compare()
    comparison = gate.learner._comparison
    assert not comparison._judged
    assert not comparison._earned.by_decision
    assert gate.learner.describe()["rules"]["pooled_ridge"]["would_earn"] is None


def test_decisions_that_cannot_be_judged_are_left_out(gate):
    gate.publish()
    gate.learner.compare()
    named = gate.decide(2, uids=[0, 1, 2])
    partly = gate.decide(2)
    erased = gate.decide(2)
    whole = gate.decide(2)
    gate.reward(named)
    gate.reward(partly, list(partly.uids[:1]))
    for one in (erased, whole):
        gate.reward(one)
    gate.publish()
    gate.learner.log.erase_embedding(erased.id)
    gate.learner.compare()
    gate.run(1)
    gate.learner.compare()
    assert earns(gate, "adagrad")["decisions"] == 2


def test_rewards_of_the_time_between_do_not_count(gate):
    """A reward that is learned while heads are taken may or may not be known to them."""
    gate.run(20, every=10)
    comparison = gate.learner._comparison
    taken = gate.learner._heads

    def take():
        gate.run(5)
        return taken()

    comparison.look(take, gate.learner.log.decision)
    comparison.look(taken, gate.learner.log.decision)
    assert earns(gate, "adagrad")["decisions"] == 0


def test_the_network_of_the_heads_is_the_one_that_counts(gate):
    gate.run(20, every=10)
    gate.learner.compare()
    gate.learner.resync(network("abcdefgh", block=9))
    gate.publish()
    gate.run(20, every=10)
    gate.learner.compare()
    assert earns(gate, "adagrad")["decisions"] == 0
    gate.run(20, every=10)
    gate.learner.compare()
    assert earns(gate, "adagrad")["decisions"] == 20


def test_only_the_latest_decisions_count_and_only_some_at_once(monkeypatch):
    monkeypatch.setattr("learner.comparison._MOST_AT_ONCE", 30)
    gate = build_gate()
    gate.learner._comparison = comparison = Comparison(POLICY, window=70)
    gate.learner._learning.on_learning = comparison.note
    gate.learner.compare()
    for _ in range(4):
        gate.run(40, every=10)
        gate.learner.compare()
    assert earns(gate, "adagrad")["decisions"] == 60


def test_a_promotion_changes_what_the_others_are_held_against(gate):
    gate.run(100, every=10)
    gate.learner.compare()
    gate.run(100, every=10)
    gate.learner.compare()
    gate.learner.commit_one(gate.learner.stage_promotion("adagrad", "ops"))
    gate.publish()
    gate.learner.compare()
    gate.run(50, every=10)
    gate.learner.compare()
    assert "better_by" not in earns(gate, "adagrad")
    assert earns(gate, "pooled_ridge")["better_by"]["status"] == "ok"


def test_what_is_learned_after_the_thaw_is_judged_then(gate):
    gate.run(20, every=10)
    act(gate.learner, Action.FREEZE)
    gate.learner.compare()
    gate.run(10)
    act(gate.learner, Action.THAW)
    gate.learner.compare()
    assert earns(gate, "adagrad")["decisions"] == 10


def test_the_difference_is_that_of_the_values(gate):
    gate.run(100, every=10)
    gate.learner.compare()
    gate.run(200, every=10)
    gate.learner.compare()
    looks = list(gate.learner._comparison._judged)
    one, other = looks[0]["adagrad"], looks[0]["pooled_ridge"]
    told = difference(one, other)
    assert told.value == pytest.approx(evaluate(one).dr.value - evaluate(other).dr.value)
    assert difference(one, one).low == difference(one, one).high == 0.0
    assert difference(one.take(np.arange(1)), other.take(np.arange(1))).status is Status.NO_DATA


def test_the_loop_goes_on_after_what_went_wrong(caplog):
    looks, done = [], threading.Event()

    def look():
        looks.append(1)
        if len(looks) == 1:
            raise RuntimeError("no luck")
        done.set()

    loop = ComparisonLoop(look, interval_s=0.001)
    loop.start()
    assert done.wait(10)
    loop.stop()
    assert "comparison_failed" in caplog.text
    assert not loop.is_alive()
    assert state_of(build_learner()) is not None
