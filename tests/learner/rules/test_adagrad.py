from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.rules import Adagrad

from ..builders import learn_batch, random_events

N, DIM = 6, 5


def fresh(learning_rate=0.2, initial_score=0.5, bonus=1.0, num_uids=N, dim=DIM):
    rule = Adagrad(learning_rate=learning_rate, initial_score=initial_score, bonus=bonus)
    return rule, rule.initial_state(num_uids, dim, torch.Generator())


class OneByOne:
    """AdaGrad-Norm in float64, one reward after another: G += |g|^2, then w -= lr g / sqrt(G)."""

    def __init__(self, num_uids, dim, *, learning_rate, initial_score):
        self.weight = np.zeros((num_uids, dim + 1))
        self.weight[:, -1] = initial_score
        self.squared = np.zeros(num_uids)
        self.learning_rate = learning_rate

    def step(self, vector, rewards):
        inputs = np.append(vector.astype(np.float64), 1.0)
        losses = []
        for uid, reward in rewards.items():
            error = self.weight[uid] @ inputs - np.float32(reward)
            gradient = error * inputs
            self.squared[uid] += gradient @ gradient
            if self.squared[uid] > 0:
                self.weight[uid] -= self.learning_rate * gradient / np.sqrt(self.squared[uid])
            losses.append(error**2)
        return np.mean(losses)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**32 - 1), st.lists(st.integers(1, 20), min_size=1, max_size=5), st.sampled_from([0.02, 0.2, 1.0])
)
def test_the_rounds_are_one_reward_after_another(seed, batch_sizes, learning_rate):
    rng = np.random.default_rng(seed)
    rule, state = fresh(learning_rate)
    reference = OneByOne(N, DIM, learning_rate=learning_rate, initial_score=0.5)
    for size in batch_sizes:
        events = random_events(rng, size, num_uids=N, dim=DIM)
        expected = [reference.step(*event) for event in events]
        losses = rule.update(state, learn_batch(*events))
        np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-3, atol=1e-4)
        head = rule.head(state)
        np.testing.assert_allclose(head.weight.numpy(), reference.weight[:, :-1], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(head.bias.numpy(), reference.weight[:, -1], rtol=1e-3, atol=1e-4)


def test_a_uid_that_earns_all_of_a_batchs_rewards_learns_them_in_order():
    rule, state = fresh()
    reference = OneByOne(N, DIM, learning_rate=0.2, initial_score=0.5)
    rng = np.random.default_rng(0)
    events = [(rng.normal(size=DIM).astype(np.float16), {3: float(index % 2)}) for index in range(40)]
    for event in events:
        reference.step(*event)
    rule.update(state, learn_batch(*events))
    np.testing.assert_allclose(rule.head(state).bias.numpy(), reference.weight[:, -1], atol=1e-5)
    assert state.rows["rewards"].tolist() == [0, 0, 0, 40, 0, 0]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 29), max_size=4))
def test_where_a_batch_is_cut_makes_no_difference(seed, cuts):
    events = random_events(np.random.default_rng(seed), 30, num_uids=N, dim=DIM)
    rule, whole = fresh()
    _, parts = fresh()
    rule.update(whole, learn_batch(*events))
    edges = [0, *sorted(set(cuts)), len(events)]
    for start, end in pairwise(edges):
        rule.update(parts, learn_batch(*events[start:end]))
    for name, rows in whole.rows.items():
        torch.testing.assert_close(parts.rows[name], rows, rtol=1e-6, atol=1e-6)


def test_an_events_loss_is_the_mean_squared_error_before_its_step():
    rule, state = fresh(initial_score=0.25)
    vector = np.ones(DIM, np.float16)
    losses = rule.update(state, learn_batch((vector, {0: 1.0, 1: 0.25}), (vector, {}), (vector, {2: 0.0})))
    assert losses.tolist() == pytest.approx([0.75**2 / 2, 0.0, 0.25**2])


def test_a_batch_without_rewards_teaches_nothing():
    rule, state = fresh()
    assert rule.update(state, learn_batch((np.ones(DIM, np.float16), {}))).tolist() == [0.0]


def test_it_learns_from_single_answers():
    """Which of the uids is best depends on the prompt, and only the chosen one's reward is ever seen."""
    rng = np.random.default_rng(0)
    dim, steps = 8, 1_500
    prompts = rng.normal(size=(steps, dim))
    prompts /= np.linalg.norm(prompts, axis=1, keepdims=True)
    rewards = np.clip(0.5 + prompts @ rng.normal(size=(dim, N)) / 3, 0, 1)
    rule, state = fresh(dim=dim)
    earned = []
    for prompt, row in zip(prompts, rewards, strict=True):
        head = rule.head(state)
        scores = head.weight @ torch.from_numpy(prompt).float() + head.bias + head.bonus
        chosen = int(scores.argmax())
        earned.append(row[chosen])
        rule.update(state, learn_batch((prompt, {chosen: float(row[chosen])})))
    last = slice(-steps // 3, None)
    oracle, best_fixed = rewards[last].max(axis=1).mean(), rewards[last].mean(axis=0).max()
    assert np.mean(earned[last]) > best_fixed + 0.7 * (oracle - best_fixed)


def test_the_bonus_falls_with_a_uids_rewards():
    rule, state = fresh(bonus=2.0)
    assert rule.head(state).bonus.tolist() == pytest.approx([2.0 / np.sqrt(20)] * N)
    for _ in range(16):
        before = rule.head(state).bonus
        rule.update(state, learn_batch((np.ones(DIM, np.float16), {1: 0.5, 4: 0.1})))
        assert (rule.head(state).bonus < before).tolist() == [False, True, False, False, True, False]
    assert rule.head(state).bonus[1].item() == pytest.approx(2.0 / 6.0)


def test_before_any_reward_every_uid_scores_the_initial_score():
    rule, state = fresh(initial_score=0.3)
    head = rule.head(state)
    assert not head.weight.any()
    assert head.bias.tolist() == pytest.approx([0.3] * N)
