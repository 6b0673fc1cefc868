"""The rule against dense SGD with momentum, in which every row moves at every step, written out and torch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gating import MetagraphView
from learner.resync import apply_resync
from learner.rules import SoftmaxMse
from learner.state import LearnerState, UidStatistics

from ..builders import bits, learn_batch, random_events

N, DIM = 7, 5


class DenseSgd:
    """The seed's arithmetic in float64 numpy: v = m v + g and w = w - lr v for all rows, g zero where not asked."""

    def __init__(self, head, *, learning_rate, momentum):
        self.weight = np.column_stack([head.weight, head.bias]).astype(np.float64)
        self.velocity = np.zeros_like(self.weight)
        self.learning_rate = learning_rate
        self.momentum = momentum

    def step(self, vector, rewards):
        uids, inputs = list(rewards), np.append(vector.astype(np.float64), 1.0)
        scored = softmax(self.weight[uids] @ inputs)
        difference = scored - softmax(np.array(list(rewards.values())))
        jacobian = np.diag(scored) - np.outer(scored, scored)
        gradient = np.zeros_like(self.weight)
        gradient[uids] = np.outer(jacobian @ (2.0 / len(uids) * difference), inputs)
        self.velocity = self.momentum * self.velocity + gradient
        self.weight = self.weight - self.learning_rate * self.velocity
        return np.mean(difference**2)


def softmax(values):
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def fresh(learning_rate=0.1, momentum=0.9, num_uids=N):
    rule = SoftmaxMse(learning_rate=learning_rate, momentum=momentum)
    return rule, rule.initial_state(num_uids, DIM, torch.Generator().manual_seed(0))


def assert_heads_match(head, weight, bias, rtol=1e-5):
    scale = max(np.abs(weight).max(), 1.0)
    np.testing.assert_allclose(head.weight.numpy(), weight, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(head.bias.numpy(), bias, rtol=rtol, atol=rtol * scale)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 5), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.5, 0.9, 0.999]),
    st.sampled_from([0.01, 0.5]),
)
def test_every_step_is_one_of_dense_sgd(seed, batch_sizes, momentum, learning_rate):
    rng = np.random.default_rng(seed)
    rule, state = fresh(learning_rate, momentum)
    dense = DenseSgd(rule.head(state), learning_rate=learning_rate, momentum=momentum)
    for size in batch_sizes:
        events = random_events(rng, size, num_uids=N, dim=DIM)
        expected = [dense.step(*event) for event in events]
        losses = rule.update(state, learn_batch(*events))
        np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-4, atol=1e-7)
        assert_heads_match(rule.head(state), dense.weight[:, :-1], dense.weight[:, -1])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_head_is_that_of_torchs_own_sgd_and_autograd(momentum):
    rule, state = fresh(0.1, momentum)
    layer = torch.nn.Linear(DIM, N)
    with torch.no_grad():
        layer.weight.copy_(rule.head(state).weight)
        layer.bias.copy_(rule.head(state).bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=momentum)
    for vector, rewards in random_events(np.random.default_rng(1), 300, num_uids=N, dim=DIM):
        optimizer.zero_grad()
        scores = layer(torch.from_numpy(vector).float())[list(rewards)]
        target = torch.softmax(torch.tensor(list(rewards.values())), dim=0)
        loss = torch.nn.functional.mse_loss(torch.softmax(scores, dim=0), target)
        loss.backward()
        optimizer.step()
        [learned] = rule.update(state, learn_batch((vector, rewards))).tolist()
        assert learned == pytest.approx(loss.item(), rel=1e-4, abs=1e-7)
    assert_heads_match(rule.head(state), layer.weight.detach().numpy(), layer.bias.detach().numpy())


def test_a_row_that_was_not_asked_for_long_has_drifted_as_far_as_momentum_carries_it():
    rule, state = fresh()
    dense = DenseSgd(rule.head(state), learning_rate=0.1, momentum=0.9)
    rng = np.random.default_rng(2)
    first = [(rng.normal(size=DIM).astype(np.float16), {0: 1.0, 1: 0.0})]
    others = [
        (vector, {uid + 2: value for uid, value in rewards.items()})
        for vector, rewards in random_events(rng, 500, num_uids=N - 2, dim=DIM)
    ]
    again = [(rng.normal(size=DIM).astype(np.float16), {0: 0.0, 3: 1.0})]
    for events in (first, others, again):
        rule.update(state, learn_batch(*events))
        for event in events:
            dense.step(*event)
        assert_heads_match(rule.head(state), dense.weight[:, :-1], dense.weight[:, -1])


def test_with_a_momentum_near_one_a_missed_step_is_as_long_as_the_step_before():
    rule, state = fresh(learning_rate=100.0, momentum=0.99999)
    vector = np.ones(DIM, np.float16)
    rule.update(state, learn_batch((vector, {0: 1.0, 1: 0.0})))
    before = rule.head(state).weight[0]
    rule.update(state, learn_batch((vector, {5: 1.0})))
    drifted = before - rule.head(state).weight[0]
    np.testing.assert_allclose(drifted, 100.0 * 0.99999 * state.rows["velocity"][0, :-1], rtol=1e-4)


def test_a_single_answer_has_no_gradient_but_lets_the_rest_drift_a_step():
    rule, state = fresh()
    before = rule.head(state)
    vector = np.ones(DIM, np.float16)
    losses = rule.update(state, learn_batch((vector, {3: 0.2})))
    assert losses.tolist() == [0.0]
    assert bits(rule.head(state).weight) == bits(before.weight)

    dense = DenseSgd(before, learning_rate=0.1, momentum=0.9)
    dense.step(vector, {3: 0.2})
    for rewards in ({0: 1.0, 1: 0.0}, {3: 0.9}, {0: 0.3}):
        dense.step(vector, rewards)
        rule.update(state, learn_batch((vector, rewards)))
    assert_heads_match(rule.head(state), dense.weight[:, :-1], dense.weight[:, -1])


def test_rewards_reported_in_parts_are_a_step_for_each_part():
    rule, state = fresh()
    dense = DenseSgd(rule.head(state), learning_rate=0.1, momentum=0.9)
    vector = np.linspace(-1, 1, DIM).astype(np.float16)
    parts = [(vector, {2: 0.9, 5: 0.1}), (vector, {0: 0.4}), (vector, {6: 0.0, 1: 1.0})]
    expected = [dense.step(*part) for part in parts]
    losses = rule.update(state, learn_batch(*parts))
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-4)
    assert_heads_match(rule.head(state), dense.weight[:, :-1], dense.weight[:, -1])


def test_an_event_without_rewards_is_no_step():
    rule, state = fresh()
    vector = np.ones(DIM, np.float16)
    losses = rule.update(state, learn_batch((vector, {}), (vector, {0: 1.0, 1: 0.0}), (vector, {})))
    assert [loss > 0 for loss in losses.tolist()] == [False, True, False]
    assert int(state.shared["step"]) == 1


def test_fresh_rows_do_not_catch_up_on_steps_before_their_time():
    rule, rule_state = fresh()
    rule.new_row = "xavier"
    view = MetagraphView.from_hotkeys([f"hotkey-{uid}" for uid in range(N)], block=1)
    state = LearnerState(view=view, rule=rule_state, statistics=UidStatistics.empty(N))
    events = random_events(np.random.default_rng(3), 60, num_uids=N, dim=DIM)
    rule.update(state.rule, learn_batch(*events[:30]))
    dense = DenseSgd(rule.head(state.rule), learning_rate=0.1, momentum=0.9)
    dense.velocity = row_velocities(rule, state.rule)

    hotkeys = [*view.hotkeys[:2], "newcomer", *view.hotkeys[3:], "added"]
    apply_resync(state, MetagraphView.from_hotkeys(hotkeys, block=2), rule, seed=9)
    drawn = rule.fresh_rows(state.rule, 2, torch.Generator().manual_seed(9))["weight"]
    head = rule.head(state.rule)
    assert bits(head.weight[[2, N]]) == bits(drawn[:, :-1])
    assert head.bias[[2, N]].tolist() == [0.0, 0.0]

    dense.weight = np.vstack([dense.weight, drawn[1].numpy()])
    dense.weight[2] = drawn[0].numpy()
    dense.velocity = np.vstack([dense.velocity, np.zeros(DIM + 1)])
    dense.velocity[2] = 0.0
    later = [(vector, {2: 0.3, N: 0.8, **rewards}) for vector, rewards in events[30:]]
    for event in later:
        dense.step(*event)
    rule.update(state.rule, learn_batch(*later))
    assert_heads_match(rule.head(state.rule), dense.weight[:, :-1], dense.weight[:, -1])


def row_velocities(rule, state):
    """What every row's velocity is now, read off one more step of drift of a copy."""
    before = rule.head(state)
    moved = DenseSgd(before, learning_rate=1.0, momentum=0.0).weight
    state.shared["step"] += 1
    after = DenseSgd(rule.head(state), learning_rate=1.0, momentum=0.0).weight
    state.shared["step"] -= 1
    return (moved - after) / (rule.learning_rate * rule.momentum)


def test_a_row_that_would_drift_to_infinity_is_reported_at_once():
    rule, state = fresh(learning_rate=1e38, momentum=0.99)
    losses = rule.update(state, learn_batch((np.ones(DIM, np.float16), {0: 1.0, 1: 0.0})))
    assert state.rows["weight"].isfinite().all()
    assert losses.isnan().all()
