"""What a gate has to beat: estimates of random choice and of the best fixed uids."""

import numpy as np
import pytest

from gating.policies import Greedy, TailExploration
from gating.selection import select
from learner.baselines import UidMeans, best_fixed, judge_random, mean_of_means
from learner.config import AdagradConfig
from learner.evaluation import Status, evaluate
from learner.events import Action
from learner.judging import Table
from learner.state import HeadSnapshot

from .builders import Clock, act, build_learner, learn_all, message_reward
from .history_books import network
from .live_gate import LiveGate

RANGE = (0.0, 1.0)


def build_gate(policy=None, seed=0, **settings):
    policy = policy or TailExploration(0.5, 0.5)
    given = {"rule_config": AdagradConfig(bonus=0.1), "clock": Clock(), "policy": policy}
    learner = build_learner(**{**given, **settings})
    learn_all(learner)
    return LiveGate(learner, policy, seed)


def snapshot(weight, bias):
    weight, bias = weight.astype(np.float32), bias.astype(np.float32)
    available = np.ones(len(bias), np.bool_)
    view = network("abcdef"[: len(bias)])
    return HeadSnapshot(1, 1, view, "tiny", weight, bias, np.zeros_like(bias), available)


def told(gate):
    gate.learner.compare()
    return gate.learner.describe()["baselines"]


def means_of(by_uid):
    uids = np.array([uid for uid, rewards in by_uid.items() for _ in rewards], np.int64)
    return UidMeans.of(uids, np.array([one for rewards in by_uid.values() for one in rewards], float))


def test_before_anything_is_learned_there_is_no_number():
    baselines = told(build_gate())
    assert baselines["events"] == 0
    assert {baselines[name]["status"] for name in ("earned", "random", "best_fixed")} == {"no_data"}
    assert baselines["random"]["value"] is None


def test_what_was_earned_is_the_mean_of_what_was_learned():
    gate = build_gate()
    gate.run(60, every=10)
    baselines = told(gate)
    assert baselines["events"] == 60
    assert baselines["earned"]["value"] == pytest.approx(gate.learner.describe()["moving_reward"])


def test_the_interval_of_random_choice_holds_what_it_earns():
    """100 logs of a gate that explores: random choice earns the mean over all uids, whatever the model believes."""
    rng, held = np.random.default_rng(0), 0
    n, k, dim, decisions = 6, 2, 4, 300
    for _ in range(100):
        head = snapshot(rng.normal(size=(n, dim)), rng.normal(size=n))
        prompts = rng.normal(size=(decisions, dim)).astype(np.float32)
        earned = rng.uniform(size=(decisions, n)) < np.linspace(0.2, 0.9, n)
        policy = TailExploration(0.5)
        chosen = select(prompts @ head.weight.T + head.bias, np.arange(n), k, policy=policy, generator=rng)
        table = Table(
            embedding=prompts,
            version=np.zeros(decisions, np.int64),
            uids=np.stack([one.uids for one in chosen]),
            propensities=np.stack([one.propensities for one in chosen]),
            rewards=np.stack([row[one.uids] for row, one in zip(earned.astype(float), chosen, strict=True)]),
        )
        estimate = evaluate(judge_random(head, table, np.arange(decisions))).dr
        held += estimate.low <= 0.55 <= estimate.high
    # Of 100, 95% are expected; 87 or fewer come about once in a thousand times.
    assert held >= 88


def test_a_gate_that_explores_is_told_of_random_choice_without_bias():
    gate = build_gate()
    gate.run(20, every=10)
    gate.learner.compare()
    gate.run(120, every=30)
    random = told(gate)["random"]
    assert (random["method"], random["status"], random["decisions"]) == ("doubly_robust", "ok", 120)
    # Every uid earns 1 for about half of the prompts.
    assert random["low"] <= 0.5 <= random["high"]


def test_a_gate_that_has_learned_beats_random_choice_by_its_own_account():
    gate = build_gate()
    gate.run(60, every=20)
    gate.learner.compare()
    gate.run(200, every=40)
    baselines = told(gate)
    assert baselines["earned"]["low"] > baselines["random"]["high"]


def test_where_nothing_was_left_to_chance_random_choice_is_told_by_observed_means():
    gate = build_gate(Greedy())
    gate.run(40, every=10)
    gate.learner.compare()
    gate.run(100, every=10)
    random = told(gate)["random"]
    assert (random["method"], random["available"]) == ("observed_means", 6)
    assert 1 <= random["uids"] <= 6


def test_rewards_without_a_decision_count_as_observed_means():
    learner = build_learner(rule_config=AdagradConfig())
    for number in range(30):
        learner.add_rewards([message_reward(f"m-{number}", {0: 0.25, 1: 0.75})])
    learn_all(learner)
    learner.snapshot()
    learner.compare()
    baselines = learner.describe()["baselines"]
    assert baselines["random"]["value"] == pytest.approx(0.5)
    assert (baselines["random"]["method"], baselines["random"]["uids"]) == ("observed_means", 2)
    # Two were asked each time, so the best fixed uids are two.
    assert sorted(baselines["best_fixed"]["uids"]) == [0, 1]


def test_what_an_earlier_owner_has_earned_does_not_count():
    learner = build_learner(view=network("abcdef"), rule_config=AdagradConfig())
    for number in range(30):
        learner.add_rewards([message_reward(f"m-{number}", {0: 1.0, 1: 0.5})])
    learner.resync(network("zbcdef", block=9))
    for number in range(30):
        learner.add_rewards([message_reward(f"n-{number}", {0: 0.0, 1: 0.5})])
    learn_all(learner)
    learner.snapshot()
    learner.compare()
    random = learner.describe()["baselines"]["random"]
    assert random["value"] == pytest.approx(0.25)


def test_uids_that_are_not_available_are_nobodys_choice():
    learner = build_learner(rule_config=AdagradConfig())
    gate = LiveGate(learner)
    for number in range(30):
        learner.add_rewards([message_reward(f"m-{number}", {0: 1.0, 1: 0.5})])
    view = learner.view
    away = type(view)(view.hotkeys, (False, *view.available[1:]), view.registered_at, view.netuid, block=2)
    learner.resync(away)
    gate.publish()
    baselines = told(gate)
    assert baselines["random"]["value"] == pytest.approx(0.5)
    assert (baselines["random"]["uids"], baselines["random"]["available"]) == (1, 5)
    # Two were asked each time, and there are no two that were and may be.
    assert baselines["best_fixed"]["status"] == "no_data"


def test_every_uid_counts_once_however_often_it_was_asked():
    estimate = mean_of_means(means_of({3: [1.0] * 90 + [0.0] * 10, 5: [0.1, 0.1]}), RANGE)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.low < 0.5 < estimate.high


def test_one_reward_a_uid_tells_little():
    estimate = mean_of_means(means_of({3: [1.0], 5: [0.0]}), RANGE)
    assert estimate.value == 0.5
    assert estimate.high - estimate.low > 1.0
    assert mean_of_means(means_of({}), RANGE).status is Status.NO_DATA


def test_the_best_fixed_uid_is_not_the_lucky_one():
    rng = np.random.default_rng(0)
    solid = rng.normal(0.85, 0.05, 500)
    fixed = best_fixed(means_of({1: solid, 2: [1.0] * 20, 3: [0.2] * 300, 4: [1.0] * 3}), 1, RANGE)
    assert fixed["uids"] == [1]
    assert fixed["value"] == pytest.approx(solid.mean())
    assert fixed["low"] < fixed["value"] < fixed["high"]


def test_the_best_fixed_pair_earns_the_mean_of_both():
    fixed = best_fixed(means_of({1: [0.8] * 400, 2: [0.6] * 400, 3: [0.2] * 400}), 2, RANGE)
    assert fixed["uids"] == [1, 2]
    assert fixed["value"] == pytest.approx(0.7)


@pytest.mark.parametrize("rewards", [[1.0] * 20, [0.0] * 20, [0.93] * 5000])
@pytest.mark.parametrize("k", [1, 4])
def test_an_interval_holds_its_value_also_where_all_rewards_are_alike(rewards, k):
    fixed = best_fixed(means_of(dict.fromkeys(range(k), rewards)), k, RANGE)
    assert fixed["low"] < fixed["value"] < fixed["high"]


def test_there_is_no_best_where_too_few_were_tried():
    assert best_fixed(means_of({0: [1.0] * 19}), 1, RANGE)["status"] == "no_data"
    assert best_fixed(means_of({0: [1.0] * 50}), 2, RANGE)["status"] == "no_data"


def test_what_the_head_may_know_of_is_not_judged_by_it():
    gate = build_gate()
    gate.run(10, every=5)
    act(gate.learner, Action.FREEZE)
    gate.run(150, every=50)
    # The head of now is of a version after those rewards, which are learned only now.
    gate.learner.compare()
    act(gate.learner, Action.THAW)
    learn_all(gate.learner)
    baselines = told(gate)
    assert baselines["events"] == 160
    assert baselines["random"]["method"] == "observed_means"
