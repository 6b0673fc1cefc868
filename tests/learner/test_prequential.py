import numpy as np
import pytest

from gating.policies import Greedy, Softmax, SquareCB, TailExploration
from learner.config import AdagradConfig, SoftmaxMseConfig
from learner.evaluation import Status, evaluate
from learner.events import Action
from learner.prequential import Target, collect_evidence, gather
from learner.restore import Restorer
from learner.rules import build_rule
from learner.sql import SqlEventLog, read_sql_log, reader

from .builders import FINGERPRINT, START, Clock, act, build_learner, expected, roll_back
from .history_books import network
from .live_gate import LiveGate

WINDOW_S = 10.0


@pytest.fixture
def sqlite_log(tmp_path, opened):
    return opened(f"sqlite:///{tmp_path}/events.db", fingerprint=FINGERPRINT)


@pytest.fixture
def build_gate(sqlite_log):
    """A gate whose learner writes SQLite; its clock stands at 0 until it is set."""

    def build(policy=None, **settings):
        given = {"view": START, "rule_config": AdagradConfig(), "clock": Clock(), "reward_window_s": WINDOW_S}
        return LiveGate(build_learner(log=sqlite_log, **{**given, **settings}), policy)

    return build


def usable_of(gate, *, first=0, last=None, now_s=1e6):
    last = gate.learner.log.last_seq if last is None else last
    return gather(gate.learner.log, first=first, last=last, now_s=now_s, window_s=WINDOW_S)


def evidence_of(gate, policy, *, k=None, refresh=1, usable=None, rule=None, first=0, last=None, on_version=None):
    log, config = gate.learner.log, gate.learner.config
    restorer = Restorer(log, build_rule(rule or config.rule), expected(log, config))
    last = log.last_seq if last is None else last
    usable = usable or usable_of(gate, first=first, last=last)
    return collect_evidence(
        restorer,
        restorer.at(first),
        usable,
        Target(policy, k),
        last=last,
        refresh=refresh,
        on_version=on_version,
    )


@pytest.mark.parametrize("policy", [TailExploration(0.5, 0.5), SquareCB(5.0, 2), Softmax(0.3)], ids=str)
@pytest.mark.parametrize("rule", [AdagradConfig(), SoftmaxMseConfig()], ids=lambda rule: rule.name)
def test_a_replay_gives_the_logging_policy_the_very_propensities_that_were_logged(build_gate, policy, rule):
    gate = build_gate(policy, rule_config=rule)
    gate.run(60, every=3)
    found = evidence_of(gate, policy)
    assert found.size == 60
    np.testing.assert_allclose(found.target, found.propensities, rtol=1e-5)
    assert evaluate(found).mean_weight == pytest.approx(1.0, rel=1e-5)


def test_the_evidence_is_that_of_the_log(build_gate):
    gate = build_gate()
    gate.run(30, every=4)
    found = evidence_of(gate, Greedy())
    assert found.asked.all()
    for row, decision in enumerate(gate.decisions):
        assert found.propensities[row].tolist() == list(decision.propensities)
        earned = [float(decision.embedding[uid % 4] > 0) for uid in decision.uids]
        assert found.rewards[row].tolist() == earned
    assert (found.slots == 2).all()
    assert (found.candidates == START.n).all()


def test_no_decision_is_judged_by_what_was_learned_from_it_or_later(build_gate):
    """Evaluated again when more has been learned since, the earlier decisions are judged as they were."""
    gate = build_gate()
    gate.run(20)
    last = gate.learner.log.last_seq
    before = evidence_of(gate, Softmax(0.2), last=last)
    gate.run(20)
    after = evidence_of(gate, Softmax(0.2), last=last)
    np.testing.assert_array_equal(before.target, after.target[:20])
    # The first decision was made by a rule that knew nothing.
    np.testing.assert_allclose(before.target[0], 2 / 6, rtol=1e-5)


@pytest.mark.parametrize("refresh", [1, 7, 1_000])
def test_a_head_may_be_older_than_the_decision_but_never_younger(build_gate, refresh):
    gate = build_gate()
    gate.run(40)
    found = evidence_of(gate, Softmax(0.2), refresh=refresh)
    exact = evidence_of(gate, Softmax(0.2))
    age = np.arange(40) % refresh
    np.testing.assert_allclose(found.target[age == 0], exact.target[age == 0], rtol=1e-5)
    # The model of the rewards knows no versions.
    np.testing.assert_allclose(found.predicted, exact.predicted)
    if refresh > 1:
        assert not np.allclose(found.target[age > 0], exact.target[age > 0])


def test_decisions_of_late_replicas_are_judged_by_the_version_that_made_them(build_gate):
    gate = build_gate(Softmax(0.3))
    late = LiveGate(gate.learner, Softmax(0.3), seed=1)
    late.decisions = gate.decisions
    for _ in range(20):
        gate.run(1)
        late.reward(late.decide())
    found = evidence_of(gate, Softmax(0.3))
    np.testing.assert_allclose(found.target, found.propensities, rtol=1e-5)
    assert found.size == 40


def test_another_number_of_slots_and_another_rule_may_be_asked_for(build_gate):
    gate = build_gate()
    gate.run(30)
    found = evidence_of(gate, Softmax(0.2), k=4, rule=SoftmaxMseConfig())
    assert (found.slots == 4).all()
    assert found.target.max() > 0.5
    assert (evidence_of(gate, Softmax(0.2), k=99).slots == START.n).all()
    assert (evidence_of(gate, Softmax(0.2), k=99).target == 1.0).all()


def test_each_decision_asks_as_many_as_it_did(build_gate):
    gate = build_gate()
    gate.run(10, k=1)
    gate.run(10, k=3)
    found = evidence_of(gate, gate.policy)
    assert found.slots.tolist() == [1] * 10 + [3] * 10
    assert found.asked.sum(axis=1).tolist() == [1] * 10 + [3] * 10
    np.testing.assert_allclose(found.target[found.asked], found.propensities[found.asked])
    assert not found.target[~found.asked].any()


def test_the_model_predicts_what_the_candidates_earn(build_gate):
    gate = build_gate(Softmax(5.0))
    gate.run(400, every=50)
    found = evidence_of(gate, Greedy(), refresh=50)
    assert np.corrcoef(found.predicted.ravel(), found.rewards.ravel())[0, 1] > 0.4
    # Greedy asks the best, of whom more is expected than of those who were asked evenly.
    assert found.baseline.mean() > found.predicted.mean() + 0.1
    estimates = evaluate(found)
    assert estimates.dr.value == pytest.approx(estimates.ips.value, abs=0.1)
    assert estimates.dr.value > estimates.logged.value + 0.1


def test_a_request_for_some_uids_is_left_out_and_counted(build_gate):
    gate = build_gate()
    gate.run(5)
    gate.reward(gate.decide(uids=[0, 1, 2]))
    usable = usable_of(gate)
    assert evidence_of(gate, Greedy(), usable=usable).size == 5
    assert usable.left_out == {"other_candidates": 1}


def test_candidates_are_those_of_the_decisions_own_version(build_gate):
    gate = build_gate(Softmax(0.3), view=network("abcdef"))
    gate.run(6)
    gate.learner.resync(network("abXdefgh", 2))
    gate.publish()
    gate.run(6)
    usable = usable_of(gate)
    found = evidence_of(gate, Softmax(0.3), usable=usable, refresh=1_000)
    assert found.candidates.tolist() == [6] * 6 + [8] * 6
    assert usable.left_out["other_candidates"] == 0
    exact = evidence_of(gate, Softmax(0.3))
    np.testing.assert_allclose(exact.target, exact.propensities, rtol=1e-5)


def test_the_same_number_of_other_candidates_is_noticed(build_gate):
    gate = build_gate(view=network("abcdef"))
    gate.run(3)
    gate.reward(gate.decide(digest="0123456789abcdef"))
    usable = usable_of(gate)
    assert evidence_of(gate, Greedy(), usable=usable).size == 3
    assert usable.left_out["other_candidates"] == 1


def test_weights_that_were_rolled_back_are_those_that_decided(build_gate):
    gate = build_gate(Softmax(0.3))
    gate.run(8)
    roll_back(gate.learner, 3)
    gate.publish()
    gate.run(8)
    found = evidence_of(gate, Softmax(0.3))
    np.testing.assert_allclose(found.target, found.propensities, rtol=1e-5)


def test_rewards_that_are_held_count_as_earned(build_gate):
    gate = build_gate()
    act(gate.learner, Action.FREEZE)
    gate.run(4)
    assert len(usable_of(gate).decisions) == 4


def test_decisions_without_all_their_rewards_are_left_out_and_counted(build_gate):
    gate = build_gate()
    gate.run(3)
    gate.decide()
    partly = gate.decide()
    gate.reward(partly, [partly.uids[0]])
    gate.run(2)
    usable = usable_of(gate)
    assert [decision.id for decision in usable.decisions] == ["gate-0", "gate-1", "gate-2", "gate-5", "gate-6"]
    assert usable.left_out == {"unrewarded": 1, "incomplete": 1}


def test_from_the_first_that_may_still_earn_rewards_on_all_wait(build_gate):
    gate = build_gate()
    gate.run(3)
    gate.decide()
    gate.run(2)
    waiting = usable_of(gate, now_s=WINDOW_S)
    assert len(waiting.decisions) == 3
    assert waiting.left_out == {"pending": 3}
    assert usable_of(gate, now_s=WINDOW_S + 0.1).left_out == {"unrewarded": 1}


def test_a_default_is_a_reward_and_a_late_one_is_none(build_gate):
    gate = build_gate(default_reward=0.25)
    with_default = gate.decide()
    gate.learner._clock.now_s = WINDOW_S + 1
    gate.learner.commit_one(gate.learner.stage_default_rewards())
    gate.reward(with_default)
    [rewards] = usable_of(gate).rewards
    assert rewards == dict.fromkeys(with_default.uids, 0.25)


def test_a_reward_that_came_too_late_leaves_the_decision_without(build_gate):
    gate = build_gate()
    late = gate.decide()
    gate.learner._clock.now_s = WINDOW_S + 1
    gate.reward(late)
    assert usable_of(gate).left_out == {"unrewarded": 1}


def test_an_erased_decision_cannot_be_judged(build_gate):
    gate = build_gate()
    gate.run(3)
    gate.learner.log.erase_embedding("gate-1")
    usable = usable_of(gate)
    assert len(usable.decisions) == 2
    assert usable.left_out == {"erased": 1}


def test_a_decision_that_asked_nobody_is_left_out(build_gate):
    gate = build_gate(view=network("ab"))
    gate.decide(uids=[])
    assert usable_of(gate).left_out == {"empty": 1}


def test_only_decisions_of_the_range_of_versions_count(build_gate):
    gate = build_gate()
    gate.run(20)
    versions = [decision.version for decision in usable_of(gate, first=5, last=8).decisions]
    assert versions == [5, 6, 7, 8]
    whole, part = evidence_of(gate, Softmax(0.2)), evidence_of(gate, Softmax(0.2), first=5, last=8)
    np.testing.assert_allclose(part.target, whole.target[5:9], rtol=1e-5)


def test_every_version_is_told(build_gate):
    gate = build_gate()
    gate.run(5)
    told = []
    evidence_of(gate, Greedy(), on_version=told.append)
    assert told == [0, 1, 2, 3, 4, 5]


def test_an_empty_log_is_no_evidence(build_gate):
    gate = build_gate()
    found = evidence_of(gate, Greedy())
    assert found.size == 0
    assert evaluate(found).ips.status is Status.NO_DATA


def test_greedy_logs_of_one_slot_support_themselves_and_nothing_else(build_gate):
    gate = build_gate(TailExploration(0.5, 0.0))
    gate.run(60, k=1)
    assert evaluate(evidence_of(gate, TailExploration(0.5, 0.0))).ips.status is Status.OK
    assert evaluate(evidence_of(gate, Softmax(0.2))).ips.status is Status.NO_SUPPORT


def observed_in(log=None):
    """What a log tells of the same few decisions."""
    gate = LiveGate(build_learner(rule_config=AdagradConfig(), reward_window_s=WINDOW_S, log=log))
    gate.run(5)
    gate.decide()
    return [(one.decision.id, one.received_s, one.rewards) for one in gate.learner.log.observed()]


def test_every_log_tells_the_same(log_url, opened):
    assert observed_in(opened(log_url, fingerprint=FINGERPRINT)) == observed_in()


def test_all_pages_of_a_log_are_read(build_gate, monkeypatch):
    gate = build_gate()
    gate.run(10, every=5)
    monkeypatch.setattr(reader, "PAGE", 4)
    observed = list(gate.learner.log.observed())
    assert [one.decision.id for one in observed] == [f"gate-{number}" for number in range(10)]
    assert all(set(one.rewards) == set(one.decision.uids) for one in observed)


def test_a_log_is_read_while_its_learner_writes_it(build_gate, tmp_path):
    gate = build_gate()
    gate.run(5)
    reading: SqlEventLog = read_sql_log(f"sqlite:///{tmp_path}/events.db")
    assert len(list(reading.observed())) == 5
    gate.run(1)
    assert len(list(reading.observed())) == 6
    reading.close()


def test_decisions_without_chance_may_be_left_out(build_gate):
    gate = build_gate(TailExploration(0.5, 0.0))
    for _ in range(30):
        gate.run(1, k=1)
        gate.run(1, k=2)
        gate.run(1, k=START.n)
    log = gate.learner.log
    usable = gather(log, first=0, last=log.last_seq, now_s=1e6, window_s=WINDOW_S, explored_only=True)
    assert usable.left_out == {"certain": 30}
    assert evaluate(evidence_of(gate, Softmax(0.5))).ips.status is Status.NO_SUPPORT
    found = evaluate(evidence_of(gate, Softmax(0.5), usable=usable))
    assert (found.decisions, found.unreachable, found.ips.status) == (60, 0.0, Status.OK)
