"""What every learning rule promises, whichever it is."""

import copy
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gating import MetagraphView
from learner.config import RuleConfig
from learner.resync import apply_resync
from learner.rules import LearnBatch, Rule, build_rule
from learner.state import LearnerState, RuleState, UidStatistics

from ..builders import bits, learn_batch, random_events

N, DIM = 6, 3
RULES = [config() for config in get_args(get_args(RuleConfig)[0])]

every_rule = pytest.mark.parametrize("config", RULES, ids=[config.name for config in RULES])
vectors = arrays(np.float16, DIM, elements=st.floats(-65_504, 65_504, width=16))
rewards_by_uid = st.dictionaries(st.integers(0, N - 1), st.floats(0, 1), min_size=1, max_size=4)
batches = st.lists(st.tuples(vectors, rewards_by_uid), min_size=1, max_size=6)


def start(config, seed=0):
    rule = build_rule(config)
    return rule, rule.initial_state(N, DIM, torch.Generator().manual_seed(seed))


def learned(config, events=40):
    """A rule and a state in which every row has learned something, some of them not lately."""
    rule, state = start(config)
    rng = np.random.default_rng(0)
    rule.update(state, learn_batch(*random_events(rng, events, num_uids=N, dim=DIM)))
    rule.update(state, learn_batch(*random_events(rng, 5, num_uids=2, dim=DIM, most=2)))
    return rule, state


def state_bits(state):
    return {name: bits(tensor) for part in (state.rows, state.shared) for name, tensor in part.items()}


def head_bits(head):
    return [bits(head.weight), bits(head.bias), bits(head.bonus)]


@every_rule
def test_it_is_a_rule_under_its_configured_name(config):
    rule = build_rule(config)
    assert isinstance(rule, Rule)
    assert rule.name == config.name


@every_rule
@settings(deadline=None, max_examples=25)
@given(history=st.lists(batches, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_the_same_batches_give_the_same_bits(config, history, seed):
    states = []
    for _ in range(2):
        rule, state = start(config, seed)
        losses = [bits(rule.update(state, learn_batch(*batch))) for batch in history]
        states.append((state_bits(state), head_bits(rule.head(state)), losses))
    assert states[0] == states[1]


@every_rule
@settings(deadline=None, max_examples=25)
@given(batch=batches)
def test_an_update_touches_only_the_rows_of_its_uids(config, batch):
    rule, state = learned(config)
    before = copy.deepcopy(state)
    rule.update(state, learn_batch(*batch))
    others = [uid for uid in range(N) if not any(uid in rewards for _, rewards in batch)]
    assert state.rows.keys() == before.rows.keys()
    for name, rows in state.rows.items():
        assert bits(rows[others]) == bits(before.rows[name][others])


@every_rule
def test_an_update_leaves_its_batch_alone(config):
    rule, state = learned(config)
    batch = learn_batch(*random_events(np.random.default_rng(1), 5, num_uids=N, dim=DIM))
    before = [bits(tensor) for tensor in (batch.embedding, batch.event, batch.uids, batch.rewards)]
    rule.update(state, batch)
    assert [bits(tensor) for tensor in (batch.embedding, batch.event, batch.uids, batch.rewards)] == before


@every_rule
def test_a_head_has_its_own_tensors_and_changes_nothing(config):
    rule, state = learned(config)
    before = state_bits(state)
    head = rule.head(state)
    expected = head_bits(head)
    for tensor in (head.weight, head.bias, head.bonus):
        tensor.fill_(7.0)
    assert state_bits(state) == before
    assert head_bits(rule.head(state)) == expected


@every_rule
def test_a_head_that_was_taken_stays_as_it_was(config):
    rule, state = learned(config)
    head = rule.head(state)
    expected = head_bits(head)
    rule.update(state, learn_batch((np.ones(DIM), {0: 1.0, 1: 0.0, 2: 0.5})))
    assert head_bits(head) == expected
    assert head_bits(rule.head(state)) != expected


@every_rule
def test_a_draft_is_the_head_of_its_time_whatever_comes_before_it_is_finished(config):
    rule, state = learned(config)
    for _ in range(2):  # the second one finds what the first has kept
        wanted, draft = head_bits(build_rule(config).head(state)), rule.draft(state)
        rule.update(state, learn_batch(*random_events(np.random.default_rng(1), 30, num_uids=N, dim=DIM)))
        for rows in state.rows.values():
            rows[:2] = rows[2:4].clone()
        assert head_bits(draft()) == wanted


@every_rule
@settings(deadline=None, max_examples=50)
@given(history=st.lists(batches, max_size=4))
def test_finite_events_give_finite_numbers(config, history):
    rule, state = start(config)
    for batch in history:
        assert rule.update(state, learn_batch(*batch)).isfinite().all()
    assert all(tensor.isfinite().all() for tensor in (*state.rows.values(), *state.shared.values()))
    head = rule.head(state)
    assert all(tensor.isfinite().all() for tensor in (head.weight, head.bias, head.bonus))
    assert (head.bonus >= 0).all()


@every_rule
def test_what_earns_more_comes_to_score_more(config):
    rule, state = start(config)
    event = (np.array([0.5, -0.5, 0.7]), {1: 0.9, 3: 0.1})

    def lead():
        head = rule.head(state)
        scores = head.weight @ torch.from_numpy(event[0]).float() + head.bias
        return float(scores[1] - scores[3])

    before = lead()
    losses = torch.cat([rule.update(state, learn_batch(*[event] * 10)) for _ in range(5)])
    assert lead() > before
    assert losses[-1] < losses[0]
    assert (losses >= 0).all()


@every_rule
def test_fresh_rows_fit_the_state_and_depend_only_on_the_seed(config):
    rule, state = learned(config)
    before = state_bits(state)
    first, second = (rule.fresh_rows(state, 3, torch.Generator().manual_seed(8)) for _ in range(2))
    assert first.keys() == state.rows.keys()
    for name, rows in first.items():
        assert rows.dtype == state.rows[name].dtype
        assert rows.shape == (3, *state.rows[name].shape[1:])
        assert bits(rows) == bits(second[name])
    assert state_bits(state) == before


def newcomers(rule, state, count=2, seed=0):
    """The weights and biases that newcomers' rows have in the head."""
    fresh = rule.fresh_rows(state, count, torch.Generator().manual_seed(seed))
    grown = RuleState({name: torch.cat([rows, fresh[name]]) for name, rows in state.rows.items()}, state.shared)
    head = rule.head(grown)
    return head.weight[-count:], head.bias[-count:]


@every_rule
def test_a_pooled_row_scores_as_the_uids_that_have_learned_do_on_the_whole(config):
    rule, state = learned(config)
    head, (weight, bias) = rule.head(state), newcomers(rule, state)
    assert bits(weight[0]) == bits(weight[1])
    for learned_numbers, pooled in ((head.weight, weight[0]), (head.bias, bias[0])):
        assert bool((pooled >= learned_numbers.min(dim=0).values - 1e-6).all())
        assert bool((pooled <= learned_numbers.max(dim=0).values + 1e-6).all())
    assert bool(weight.any())


@every_rule
def test_where_nothing_was_learned_a_pooled_row_starts_as_all_rows_did(config):
    rule, state = start(config, seed=3)
    fresh = rule.fresh_rows(state, N, torch.Generator().manual_seed(3))
    for name, rows in state.rows.items():
        assert bits(fresh[name]) == bits(rows)


@every_rule
@pytest.mark.parametrize("new_row", ["xavier", "zeros"])
def test_a_row_may_start_at_random_or_knowing_nothing(config, new_row):
    rule, state = learned(config.model_copy(update={"new_row": new_row}))
    weight, _ = newcomers(rule, state, seed=1)
    assert bool(weight.any()) == (new_row == "xavier")
    assert new_row == "zeros" or bits(weight[0]) != bits(weight[1])


@every_rule
@settings(deadline=None, max_examples=25)
@given(keeps=st.lists(st.booleans(), min_size=1, max_size=N + 3))
def test_a_resync_keeps_the_rows_of_owners_that_stay_to_the_bit(config, keeps):
    rule, rule_state = learned(config)
    view = MetagraphView.from_hotkeys([f"hotkey-{uid}" for uid in range(N)], block=1)
    state = LearnerState(view=view, rule=rule_state, statistics=UidStatistics.empty(N))
    before, head_before = copy.deepcopy(rule_state), rule.head(rule_state)
    hotkeys = [f"hotkey-{uid}" if keep else f"newcomer-{uid}" for uid, keep in enumerate(keeps)]
    apply_resync(state, MetagraphView.from_hotkeys(hotkeys, block=2), rule, seed=3)
    kept = [uid for uid, keep in enumerate(keeps) if keep and uid < N]
    for name, rows in state.rule.rows.items():
        assert bits(rows[kept]) == bits(before.rows[name][kept])
    head = rule.head(state.rule)
    assert len(head.weight) == len(keeps)
    assert bits(head.weight[kept]) == bits(head_before.weight[kept])
    assert bits(head.bias[kept]) == bits(head_before.bias[kept])


@settings(deadline=None, max_examples=25)
@given(batch=batches)
def test_the_events_of_a_batch_can_be_taken_one_by_one(batch):
    whole = learn_batch(*batch)
    assert whole.size == len(batch)
    for index, event in enumerate(batch):
        alone, expected = whole.only(index), learn_batch(event)
        for name in LearnBatch.__dataclass_fields__:
            assert bits(getattr(alone, name)) == bits(getattr(expected, name))


@every_rule
def test_where_no_weights_are_given_every_reward_counts_one(config):
    batch = learn_batch(*random_events(np.random.default_rng(1), 8, num_uids=N, dim=DIM))
    assert batch.weights.tolist() == [1.0] * len(batch.rewards)
    given = replace(batch, weights=torch.ones(len(batch.rewards)))
    (rule, one), (_, other) = learned(config), learned(config)
    rule.update(one, batch)
    rule.update(other, given)
    assert state_bits(one) == state_bits(other)


@every_rule
def test_what_counts_nothing_teaches_nothing_and_what_counts_less_teaches_less(config):
    events = random_events(np.random.default_rng(1), 8, num_uids=N, dim=DIM)
    batch = learn_batch(*events)
    moved = []
    for weight in (0.0, 0.1, 0.5, 1.0):
        (rule, state), (_, without) = learned(config), learned(config)
        rule.update(state, replace(batch, weights=torch.full((len(batch.rewards),), weight)))
        rule.update(without, replace(batch, weights=torch.zeros(len(batch.rewards))))
        moved.append(float((rule.head(state).weight - rule.head(without).weight).abs().sum()))
    assert moved[0] == 0
    assert moved == sorted(moved)
    assert moved[1] > 0


@every_rule
def test_one_event_of_a_batch_takes_its_weights_along(config):
    batch = learn_batch((np.ones(DIM), {0: 1.0, 2: 0.5}), (np.ones(DIM), {1: 0.25}))
    batch = replace(batch, weights=torch.tensor([0.5, 0.25, 0.75]))
    assert batch.only(0).weights.tolist() == [0.5, 0.25]
    assert batch.only(1).weights.tolist() == [0.75]


def test_rewards_of_no_weight_leave_every_sum_as_it_was_and_make_nobody_forget():
    config = next(config for config in RULES if config.name == "pooled_ridge")
    batch = learn_batch(*random_events(np.random.default_rng(1), 8, num_uids=N, dim=DIM))
    rule, state = learned(config)
    before = state.copy()
    rule.update(state, replace(batch, weights=torch.zeros(len(batch.rewards))))
    # A row is brought up to date when it is touched.
    left = torch.exp(before.rows["clock"] - before.shared["clock"])
    for name in ("rewards", "squares"):
        now = torch.exp(state.rows["clock"] - state.shared["clock"]) * state.rows[name]
        torch.testing.assert_close(now, left * before.rows[name], atol=1e-6, rtol=1e-6)
    for name in ("pool_gram", "pool_target", "clock"):
        assert torch.equal(state.shared[name], before.shared[name])


def test_two_halves_of_a_reward_are_one():
    config = next(config for config in RULES if config.name == "pooled_ridge")
    events = random_events(np.random.default_rng(1), 8, num_uids=N, dim=DIM)
    states = []
    for some, weight in ((events, 1.0), ([event for event in events for _ in range(2)], 0.5)):
        rule, state = learned(config)
        batch = learn_batch(*some)
        rule.update(state, replace(batch, weights=torch.full((len(batch.rewards),), weight)))
        states.append(state)
    for name in ("gram", "target", "rewards", "squares"):
        torch.testing.assert_close(states[0].rows[name], states[1].rows[name], atol=1e-3, rtol=1e-3)
