"""What events do to the state, seen through a learner that logs them."""

import math

import numpy as np
import pytest
import torch

from gating import MetagraphView
from learner.config import AdagradConfig, SoftmaxMseConfig
from learner.errors import UnknownEventError, UnknownVersionError
from learner.events import Action, OperatorEvent
from learner.learning import initial_state, is_finite
from learner.protocol import RewardItem
from learner.rules import build_rule
from learner.state import Held

from .builders import (
    DIM,
    START,
    Clock,
    act,
    bits,
    build_learner,
    decide,
    decision,
    events_of,
    head_bits,
    learn_all,
    message_reward,
    replay,
    reward,
    roll_back,
    settle,
    state_digest,
    state_of,
)

RULES = pytest.mark.parametrize("config", [AdagradConfig(), SoftmaxMseConfig()])


def view(hotkeys, block=2):
    """A network in which the letter of a hotkey says when it has registered."""
    registered_at = tuple(ord(hotkey.lower()) for hotkey in hotkeys)
    return MetagraphView(tuple(hotkeys), (True,) * len(hotkeys), registered_at, block=block)


def earn(learner, name, rewards=None):
    """One message's rewards, learned; returns their place."""
    report = learner.add_rewards([message_reward(name, rewards or {0: 1.0, 1: 0.0})])
    learn_all(learner)
    return report.seq


def follow(learner, hotkeys):
    summary = learner.resync(view(hotkeys, learner.view.block + 1))
    learn_all(learner)
    return summary.seq


def rule_bits(learner):
    state = state_of(learner).rule
    return [{name: bits(tensor) for name, tensor in part.items()} for part in (state.rows, state.shared)]


def counts(learner):
    return state_of(learner).statistics.rewards.tolist()


def held(learner):
    return state_of(learner).held


def check_replay(learner):
    assert state_digest(replay(learner)) == state_digest(state_of(learner))


def test_the_first_rows_are_those_of_the_seed():
    rule = build_rule(SoftmaxMseConfig())
    states = [initial_state(rule, START, DIM, seed) for seed in (1, 1, 2)]
    assert state_digest(states[0]) == state_digest(states[1]) != state_digest(states[2])
    assert (states[0].version, states[0].frozen, states[0].held) == (0, False, {})


@RULES
def test_while_frozen_rewards_are_held_and_the_network_is_followed(config):
    learner = build_learner(view=view("abcdef", 1), rule_config=config)
    earn(learner, "r-1")
    frozen_at = act(learner, Action.FREEZE)
    before = head_bits(learner)
    assert learner.frozen
    assert earn(learner, "r-2") == frozen_at + 1
    assert learner.version == frozen_at + 1
    assert head_bits(learner) == before
    assert counts(learner)[:2] == [1, 1]
    assert held(learner) == {3: Held.FROZEN}
    follow(learner, "axcdef")
    assert learner.snapshot().view.hotkeys == tuple("axcdef")
    assert counts(learner)[:2] == [1, 0]
    assert learner.describe()["frozen"] is True
    check_replay(learner)


@RULES
def test_a_thaw_learns_what_is_held_as_if_it_had_come_together_then(config):
    learner, plain = (build_learner(rule_config=config) for _ in range(2))
    act(learner, Action.FREEZE)
    for index in range(3):
        earn(learner, f"r-{index}" * (index + 1), {0: 1.0, index + 1: 0.25 * index})
    act(learner, Action.THAW)
    plain.commit(
        [plain.stage_rewards([message_reward(f"r-{i}" * (i + 1), {0: 1.0, i + 1: 0.25 * i})]) for i in range(3)]
    )
    learn_all(plain)
    assert not learner.frozen
    assert held(learner) == {}
    assert head_bits(learner) == head_bits(plain)
    assert counts(learner) == counts(plain)
    check_replay(learner)


def test_more_than_one_chunk_of_held_events_is_learned_in_order(monkeypatch):
    monkeypatch.setattr("learner.learning._READMIT_CHUNK", 2)
    learner, plain = build_learner(), build_learner(batch_rewards=2)
    act(learner, Action.FREEZE)
    items = [message_reward("r" * (index + 1), {0: 1.0, index + 1: 0.2}) for index in range(5)]
    learner.add_rewards(items)
    act(learner, Action.THAW)
    plain.add_rewards(items)
    learn_all(plain)
    assert head_bits(learner) == head_bits(plain)


@pytest.mark.parametrize(
    ("hotkeys", "learned"),
    [
        ("axcdef", [1, 0, 1, 0, 0, 0]),
        ("acdef", [1, 0, 0, 0, 0]),
        ("bacdef", [0, 0, 1, 0, 0, 0]),
        ("aBcdef", [1, 1, 1, 0, 0, 0]),
        ("a", [1]),
    ],
)
@pytest.mark.parametrize("settled", ["thawed", "readmitted"])
def test_what_was_held_is_learned_only_for_owners_that_have_stayed(hotkeys, learned, settled):
    """A newcomer, a compacted subnet, owners that traded places, a swapped hotkey, a smaller network."""
    learner = build_learner(view=view("abcdef", 1))
    if settled == "thawed":
        act(learner, Action.FREEZE)
    earn(learner, "r-1", {0: 0.5, 1: 0.5, 2: 0.5})
    if settled == "readmitted":
        roll_back(learner, 0)
    follow(learner, hotkeys)
    if settled == "thawed":
        act(learner, Action.THAW)
    else:
        settle(learner, Action.READMIT)
    assert counts(learner) == learned
    assert held(learner) == {}
    check_replay(learner)


def test_an_owner_that_left_and_came_back_does_not_get_what_was_held_for_it():
    learner = build_learner(view=view("abcdef", 1))
    act(learner, Action.FREEZE)
    earn(learner, "r-1", {1: 0.5})
    follow(learner, "axcdef")
    follow(learner, "abcdef")
    act(learner, Action.THAW)
    assert counts(learner) == [0] * 6


def test_to_freeze_twice_is_to_freeze_and_a_thaw_without_a_freeze_changes_nothing():
    learner = build_learner()
    earn(learner, "r-1")
    before = head_bits(learner)
    assert act(learner, Action.THAW) == 2
    assert (learner.version, learner.frozen, head_bits(learner)) == (2, False, before)
    act(learner, Action.FREEZE)
    earn(learner, "r-2")
    act(learner, Action.FREEZE)
    earn(learner, "r-3")
    assert held(learner) == {4: Held.FROZEN, 6: Held.FROZEN}
    act(learner, Action.THAW)
    assert counts(learner)[:2] == [3, 3]
    check_replay(learner)


@pytest.mark.parametrize("action", [Action.RESYNC, Action.CHECKPOINT, Action.ERASE])
def test_other_actions_are_versions_that_change_nothing(action):
    learner = build_learner()
    earn(learner, "r-1")
    before = head_bits(learner), counts(learner)
    assert act(learner, action) == learner.version == 2
    assert (head_bits(learner), counts(learner)) == before


@RULES
def test_a_rollback_brings_the_weights_back_to_the_bit_as_a_new_version(config):
    learner = build_learner(rule_config=config)
    earn(learner, "r-1", {0: 0.9, 2: 0.1})
    at_one = rule_bits(learner), counts(learner)
    earn(learner, "r-2")
    earn(learner, "r-3")
    seq = roll_back(learner, 1)
    assert learner.version == learner.snapshot().version == seq == 4
    assert (rule_bits(learner), counts(learner)) == at_one
    assert held(learner) == {2: Held.ROLLED_BACK, 3: Held.ROLLED_BACK}
    total, [first] = learner.held_events(after=0, limit=1)
    assert (total, first.event.seq, first.reason) == (2, 2, Held.ROLLED_BACK)
    _, [second] = learner.held_events(after=2, limit=10)
    assert second.event.reward_id == "r-3"
    earn(learner, "r-4")
    assert counts(learner)[:3] == [2, 1, 1]
    check_replay(learner)


@RULES
def test_after_a_rollback_over_resyncs_the_rows_are_those_of_the_owners_of_now(config):
    learner = build_learner(view=view("abcdef", 1), rule_config=config)
    earn(learner, "r-1", {0: 1.0, 1: 0.9, 2: 0.1, 3: 0.3})
    before = learner.snapshot()
    follow(learner, "axdcef")
    earn(learner, "r-2", {0: 1.0, 1: 0.9})
    roll_back(learner, 1)
    after = learner.snapshot()
    assert after.view.hotkeys == tuple("axdcef")
    assert after.weight[[0, 2, 3]].tobytes() == before.weight[[0, 3, 2]].tobytes()
    assert (after.bias[[0, 2, 3]] == before.bias[[0, 3, 2]]).all()
    assert not np.array_equal(after.weight[1], before.weight[1])
    assert counts(learner) == [1, 0, 1, 1, 0, 0]
    assert state_of(learner).statistics.resets.tolist() == [0, 1, 0, 0, 0, 0]
    # Uids 2 and 3 have changed hands since the first reward; they keep what they had learned, and are known as new.
    assert state_of(learner).tenures.since == {1: 2, 2: 2, 3: 2}
    check_replay(learner)


def test_a_rollback_into_a_batch_goes_to_the_batch_before_it():
    learner = build_learner()
    earn(learner, "r-1")
    before = rule_bits(learner)
    learner.add_rewards([message_reward(f"s-{index}", {0: 1.0, 1: 0.0}) for index in range(3)])
    learn_all(learner)
    seq = roll_back(learner, 3)
    assert events_of(learner, after=4)[-1].arguments == {"version": 1}
    assert rule_bits(learner) == before
    assert list(held(learner)) == [2, 3, 4]
    earn(learner, "r-2")
    roll_back(learner, seq)
    assert rule_bits(learner) == before


def test_a_rollback_to_now_holds_nothing():
    learner = build_learner()
    earn(learner, "r-1")
    before = rule_bits(learner)
    roll_back(learner, 1)
    assert (rule_bits(learner), held(learner), learner.version) == (before, {}, 2)


@pytest.mark.parametrize("version", [-1, 2, 10**12])
def test_a_version_that_there_is_not_is_refused(version):
    learner = build_learner()
    earn(learner, "r-1")
    learner.add_rewards([message_reward("r-2", {0: 1.0})])
    with pytest.raises(UnknownVersionError, match=f"there is no version {version}; versions go from 0 to 1"):
        learner.stage_rollback(version, "ops")


@RULES
def test_what_was_rolled_back_is_learned_when_it_is_readmitted(config):
    learner = build_learner(rule_config=config)
    for name in ("r-1", "rr-2", "rrr-3"):
        earn(learner, name)
    roll_back(learner, 0)
    assert counts(learner)[:2] == [0, 0]
    settle(learner, Action.READMIT, [2])
    assert held(learner) == {1: Held.ROLLED_BACK, 3: Held.ROLLED_BACK}
    assert counts(learner)[:2] == [1, 1]
    settle(learner, Action.READMIT)
    assert held(learner) == {}
    assert counts(learner)[:2] == [3, 3]
    plain = build_learner(rule_config=config)
    plain.add_rewards([message_reward("rr-2", {0: 1.0, 1: 0.0})])
    learn_all(plain)
    plain.add_rewards([message_reward(name, {0: 1.0, 1: 0.0}) for name in ("r-1", "rrr-3")])
    learn_all(plain)
    assert head_bits(plain) == head_bits(learner)
    check_replay(learner)


def test_what_was_dropped_is_given_up_for_good():
    learner = build_learner()
    for name in ("r-1", "r-2", "r-3"):
        earn(learner, name)
    roll_back(learner, 0)
    settle(learner, Action.DROP, [2])
    assert list(held(learner)) == [1, 3]
    with pytest.raises(UnknownEventError, match=r"events \[2\] are not in quarantine"):
        learner.stage_settlement(Action.READMIT, [2, 3], "ops")
    roll_back(learner, 0)
    assert list(held(learner)) == [1, 3]
    settle(learner, Action.READMIT)
    assert counts(learner)[:2] == [2, 2]
    assert learner.held_events(after=0, limit=9) == (0, [])
    check_replay(learner)


def test_a_rollback_over_a_rollback_takes_back_what_was_learned_since_and_what_was_readmitted():
    learner = build_learner()
    earn(learner, "r-1")
    at_one = rule_bits(learner)
    earn(learner, "r-2")
    at_two = rule_bits(learner)
    roll_back(learner, 1)
    settle(learner, Action.READMIT)
    earn(learner, "r-3")
    roll_back(learner, 1)
    assert rule_bits(learner) == at_one
    assert list(held(learner)) == [2, 5]
    roll_back(learner, 2)
    assert rule_bits(learner) == at_two
    assert list(held(learner)) == [5]
    roll_back(learner, 0)
    assert list(held(learner)) == [1, 2, 5]
    check_replay(learner)


def test_a_rollback_over_a_freeze_leaves_learning_as_the_operator_has_set_it():
    learner = build_learner()
    earn(learner, "r-1")
    act(learner, Action.FREEZE)
    earn(learner, "r-2")
    roll_back(learner, 0)
    assert learner.frozen
    assert held(learner) == {1: Held.ROLLED_BACK, 3: Held.FROZEN}
    act(learner, Action.THAW)
    assert held(learner) == {1: Held.ROLLED_BACK}
    assert counts(learner)[:2] == [1, 1]
    # To a version that was frozen: it stays thawed, and what was held then is held again, for another reason.
    roll_back(learner, 3)
    assert not learner.frozen
    assert held(learner) == {3: Held.ROLLED_BACK}
    check_replay(learner)


def test_what_waits_for_the_thaw_can_be_neither_readmitted_nor_dropped():
    learner = build_learner()
    earn(learner, "r-1")
    act(learner, Action.FREEZE)
    earn(learner, "r-2")
    roll_back(learner, 0)
    for action in (Action.READMIT, Action.DROP):
        with pytest.raises(UnknownEventError, match=r"events \[3\] are not in quarantine, or wait for the thaw"):
            learner.stage_settlement(action, [1, 3], "ops")
    settle(learner, Action.READMIT)
    assert held(learner) == {3: Held.FROZEN}
    assert counts(learner)[:2] == [1, 1]
    check_replay(learner)


def test_two_who_readmit_the_same_have_it_learned_once():
    learner = build_learner()
    earn(learner, "r-1")
    roll_back(learner, 0)
    stages = [learner.stage_settlement(Action.READMIT, None, name) for name in ("alice", "bob")]
    assert learner.commit(stages) == [3, 4]
    learn_all(learner)
    assert counts(learner)[:2] == [1, 1]
    assert [event.author for event in events_of(learner) if isinstance(event, OperatorEvent)] == ["ops", "alice", "bob"]


def test_selections_outlive_a_rollback():
    learner = build_learner()
    earn(learner, "r-1")
    decide(learner, decision("i-1"))
    roll_back(learner, 0)
    decide(learner, decision("i-2"))
    assert [row["selections"] for row in learner.uid_table()] == [2, 2, 0, 0, 0, 0]


def test_a_default_reward_is_logged_once_and_learned_as_any_other():
    clock = Clock()
    learner = build_learner(clock=clock, default_reward=0.25, reward_window_s=10.0, rule_config=AdagradConfig())
    decide(learner, decision("i-1", (0, 1)), decision("i-2", (0, 1)))
    learner.add_rewards([reward("i-1", {0: 1.0})])
    clock.now_s = 10.0
    assert learner.commit_one(learner.stage_default_rewards()) is False
    assert learner.log.last_seq == 1
    clock.now_s = 10.1
    for _ in range(2):
        assert learner.commit_one(learner.stage_default_rewards()) is False
    assert [(event.decision_id, event.uids, event.rewards) for event in events_of(learner, after=1)] == [
        ("i-1", (1,), (0.25,)),
        ("i-2", (0, 1), (0.25, 0.25)),
    ]
    learn_all(learner)
    assert state_of(learner).statistics.reward_sum[:2].tolist() == [1.25, 0.5]
    late = learner.add_rewards([reward("i-2", {0: 1.0})])
    assert [(rejection.code, rejection.uid) for rejection in late.rejected] == [("late", 0)]
    assert learner.add_rewards([reward("i-2", {0: 1.0})]).duplicates == 1
    learn_all(learner)
    assert state_of(learner).statistics.reward_sum[:2].tolist() == [1.25, 0.5]
    assert learner.counters["rewards_default"] == 3
    check_replay(learner)


def test_many_default_rewards_are_logged_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr("learner.ingest._DEFAULTS_AT_ONCE", 2)
    clock = Clock()
    learner = build_learner(clock=clock, default_reward=0.25, reward_window_s=10.0)
    decide(learner, *(decision(f"i-{index}") for index in range(1, 6)))
    clock.now_s = 11.0
    assert [learner.commit_one(learner.stage_default_rewards()) for _ in range(4)] == [True, True, False, False]
    assert [event.decision_id for event in events_of(learner)] == [f"i-{index}" for index in range(1, 6)]


def test_while_much_waits_to_be_learned_no_default_reward_is_added(monkeypatch):
    monkeypatch.setattr("learner.ingest._DEFAULTS_BEFORE", 2)
    clock = Clock()
    learner = build_learner(clock=clock, default_reward=0.25, reward_window_s=10.0)
    decide(learner, decision("i-1"))
    clock.now_s = 11.0
    learner.add_rewards([message_reward(name, {0: 1.0}) for name in ("r-1", "r-2")])
    assert learner.commit_one(learner.stage_default_rewards()) is False
    assert learner.log.last_seq == 2
    learn_all(learner)
    assert learner.commit_one(learner.stage_default_rewards()) is False
    assert [event.decision_id for event in events_of(learner, after=2)] == ["i-1"]


def test_no_default_reward_is_assumed_where_none_is_set():
    clock = Clock()
    learner = build_learner(clock=clock, reward_window_s=10.0)
    decide(learner, decision("i-1"))
    clock.now_s = 100.0
    assert learner.commit_one(learner.stage_default_rewards()) is False
    assert learner.log.last_seq == 0


def test_of_what_was_erased_nothing_can_be_learned_later(caplog):
    learner = build_learner()
    decide(learner, decision("i-1"))
    act(learner, Action.FREEZE)
    learner.add_rewards([reward("i-1", {0: 1.0, 1: 0.0}), message_reward("r-1", {2: 1.0, 3: 0.0})])
    learn_all(learner)
    learner.log.erase_embedding("i-1")
    act(learner, Action.THAW)
    assert counts(learner) == [0, 0, 1, 1, 0, 0]
    assert held(learner) == {}
    assert learner._learning.progress.erased == 1
    assert "not_learned events=1 reason=embedding_erased" in caplog.text


def test_a_readmitted_event_is_quarantined_again_without_harm_to_those_beside_it():
    learner = build_learner()
    huge = RewardItem((0, 1), (1.0, 0.0), reward_id="h", embedding=np.full(DIM, np.inf, np.float16))
    learner.add_rewards([message_reward("r-1", {0: 1.0, 1: 0.0}), huge, message_reward("r-2", {2: 1.0, 1: 0.0})])
    learn_all(learner)
    roll_back(learner, 0)
    assert held(learner) == {1: Held.ROLLED_BACK, 2: Held.NON_FINITE, 3: Held.ROLLED_BACK}
    settle(learner, Action.READMIT, [2])
    assert list(held(learner)) == [1, 2, 3]
    assert [entry.event.seq for entry in learner.held_events(after=1, limit=2)[1]] == [2, 3]
    settle(learner, Action.READMIT)
    assert held(learner) == {2: Held.NON_FINITE}
    assert counts(learner)[:3] == [1, 2, 1]
    settle(learner, Action.DROP)
    assert held(learner) == {}
    check_replay(learner)


def test_a_frozen_learner_forgets_nothing_over_a_restart():
    learner = build_learner()
    act(learner, Action.FREEZE)
    earn(learner, "r-1")
    again = build_learner(log=learner.log)
    assert again.frozen
    assert held(again) == {2: Held.FROZEN}
    act(again, Action.THAW)
    assert counts(again)[:2] == [1, 1]


@pytest.mark.parametrize("values", [[3e38, 3e38, 1.0], [], [0.0]])
def test_great_numbers_are_finite_though_their_sum_is_not(values):
    assert is_finite(torch.tensor(values))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_one_number_that_is_not_finite_is_found_among_many(value):
    numbers = torch.zeros(100, 100)
    numbers[37, 11] = value
    assert not is_finite(numbers)
    assert not is_finite(torch.tensor([math.inf, -math.inf]))
