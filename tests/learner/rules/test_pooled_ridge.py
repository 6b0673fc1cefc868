"""The rule against the formulas of its docstring in float64 numpy, one event after another."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gating import MetagraphView
from learner.checkpoint import CheckpointStore
from learner.config import PooledRidgeConfig
from learner.resync import apply_resync
from learner.rules import PooledRidge, build_rule, gains
from learner.state import LearnerState, UidStatistics

from ..builders import bits, build_learner, learn_all, learn_batch, message_reward, random_events, save, state_of

N, DIM, DIMS = 6, 7, 4
SETTINGS = {
    "dims": DIMS,
    "ridge": 3.0,
    "pool_ridge": 0.5,
    "bonus": 0.8,
    "optimism": 0.6,
    "memory_rewards": 40.0,
    "memory_rounds": 12.0,
}


def fresh(num_uids=N, **changed):
    rule = PooledRidge(**{**SETTINGS, **changed})
    return rule, rule.initial_state(num_uids, DIM, torch.Generator())


def head_bits(head):
    return [bits(head.weight), bits(head.bias), bits(head.bonus)]


def full_bonus(state):
    """That of a uid without rewards."""
    return SETTINGS["bonus"] * math.sqrt(float(state.shared["noise"]) / 20)


def as_of_now(state, name):
    """Rows as they would be had the last event touched them all."""
    left = torch.exp(state.rows["clock"] - state.shared["clock"]).float()
    rows = state.rows[name]
    return rows * left.reshape(-1, *[1] * (rows.ndim - 1))


class OneByOne:
    """All rows are touched at every event, in float64."""

    def __init__(self, num_uids):
        self.prompts = []
        self.directions = np.zeros((DIMS, DIM))
        self.grams = np.zeros((num_uids + 1, DIMS + 1, DIMS + 1))
        self.targets = np.zeros((num_uids + 1, DIMS + 1))
        self.counts = np.zeros(num_uids)
        self.ages = np.zeros(num_uids)
        self.squares = np.zeros(num_uids)
        self.ridge, self.noise = SETTINGS["ridge"], 0.25
        self.learned, self.next_fit = 0, 256

    def step(self, vector, rewards):
        vector = vector.astype(np.float64)
        self.look(vector)
        x = self.coordinates(vector)
        losses = [(self.weights(exact=True)[uid] @ x - np.float32(reward)) ** 2 for uid, reward in rewards.items()]
        num_uids = len(self.counts)
        left = 1.0 - len(rewards) / (SETTINGS["memory_rounds"] * num_uids)
        self.ages -= math.log(left)
        self.grams *= left
        self.targets *= left
        self.counts *= left
        self.squares *= left
        own = 1.0 - 1.0 / SETTINGS["memory_rewards"]
        for uid, reward in rewards.items():
            self.grams[uid] = own * self.grams[uid] + np.outer(x, x)
            self.targets[uid] = own * self.targets[uid] + np.float32(reward) * x
            self.counts[uid] = own * self.counts[uid] + 1.0
            self.squares[uid] = own * self.squares[uid] + np.float32(reward) ** 2
            self.ages[uid] = 0.0
            self.grams[-1] += np.outer(x, x)
            self.targets[-1] += np.float32(reward) * x
        self.learned += len(rewards)
        if self.learned >= self.next_fit:
            self.fit()
        return np.mean(losses)

    def pool(self):
        return np.linalg.solve(self.grams[-1] + SETTINGS["pool_ridge"] * np.eye(DIMS + 1), self.targets[-1])

    def fit(self):
        """Three steps of expectation maximisation, written down as the expectations that they are."""
        asked, pool, width = np.flatnonzero(self.counts > 0), self.pool(), DIMS + 1
        for _ in range(3):
            means = self.weights(exact=True)[asked]
            covariances = self.noise * np.linalg.inv(self.grams[asked] + self.ridge * np.eye(width))
            errors = apart = 0.0
            for uid, mean, covariance in zip(asked, means, covariances, strict=True):
                second = np.outer(mean, mean) + covariance
                errors += self.squares[uid] - 2 * mean @ self.targets[uid] + (second * self.grams[uid]).sum()
                apart += (mean - pool) @ (mean - pool) + np.trace(covariance)
            spread = (apart / width + 2 * self.noise / SETTINGS["ridge"]) / (len(asked) + 2)
            self.noise = errors / self.counts[asked].sum()
            self.ridge = np.clip(self.noise / spread, 1.0, 1e6)
        self.next_fit = self.learned + min(self.learned, max(256, SETTINGS["memory_rounds"] * len(self.counts)))

    def look(self, vector):
        if len(self.prompts) >= 512:
            return
        self.prompts.append(vector)
        if len(self.prompts) in (32, 128, 512):
            _, lengths, directions = np.linalg.svd(np.stack(self.prompts), full_matrices=False)
            scale = np.sqrt(len(self.prompts) / (lengths[:DIMS] ** 2).sum())
            new = scale * directions[:DIMS]
            turn = np.eye(DIMS + 1)
            turn[:-1, :-1] = new @ np.linalg.pinv(self.directions)
            self.grams = turn @ self.grams @ turn.T
            self.targets = self.targets @ turn.T
            self.directions = new

    def coordinates(self, vector):
        along = self.directions @ vector
        return np.append(along * min(1.0, 4.0 / max(np.linalg.norm(along), 1e-300)), 1.0)

    def weights(self, exact=False):
        eye = np.eye(DIMS + 1)
        # The head takes what has faded since a row's last reward in notches.
        back = np.ones(len(self.ages)) if exact else np.exp(self.ages - np.floor(self.ages * 64) / 64)
        grams, targets = self.grams[:-1] * back[:, None, None], self.targets[:-1] * back[:, None]
        prior = np.tile(self.pool(), (len(self.counts), 1))
        if not exact:
            hope = SETTINGS["optimism"] * math.sqrt(2 * self.noise / self.ridge)
            prior[:, -1] += hope * self.counts / (self.counts + 2)
        right = targets + self.ridge * prior
        return np.linalg.solve(grams + self.ridge * eye, right[:, :, None])[:, :, 0]

    def check(self, head):
        weights = self.weights()
        np.testing.assert_allclose(head.weight.numpy(), weights[:, :-1] @ self.directions, rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(head.bias.numpy(), weights[:, -1], rtol=2e-3, atol=2e-4)
        bonus = SETTINGS["bonus"] * np.sqrt(self.noise)
        np.testing.assert_allclose(head.bonus.numpy(), bonus / np.sqrt(self.counts + 20), rtol=1e-3)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_every_step_is_that_of_the_formulas(seed):
    rng = np.random.default_rng(seed)
    rule, state = fresh()
    reference = OneByOne(N)
    for event in random_events(rng, 150, num_uids=N, dim=DIM):
        expected = reference.step(*event)
        losses = rule.update(state, learn_batch(event))
        np.testing.assert_allclose(losses.numpy(), [expected], rtol=2e-3, atol=2e-4)
        reference.check(rule.head(state))


def test_the_last_refit_and_a_long_time_are_those_of_the_formulas_too():
    rng = np.random.default_rng(0)
    rule, state = fresh()
    reference = OneByOne(N)
    events = random_events(rng, 700, num_uids=N, dim=DIM)
    events += random_events(rng, 60, num_uids=2, dim=DIM, most=2)
    for event in events:
        reference.step(*event)
        rule.update(state, learn_batch(event))
    assert int(state.shared["basis"]) == 3
    reference.check(rule.head(state))


def test_shrinkage_is_fitted_to_rows_that_are_behind_too():
    """The 128th prompt turns the directions and brings the 256th reward, and four of the six rows have none of it."""
    rng = np.random.default_rng(0)
    rule, state = fresh()
    reference = OneByOne(N)
    for number in range(128):
        rewards = {uid: float(rng.random()) for uid in (number % N, (number + 1) % N)}
        event = rng.normal(size=DIM).astype(np.float16), rewards
        reference.step(*event)
        rule.update(state, learn_batch(event))
    assert int((state.rows["basis"] < state.shared["basis"]).sum()) == N - 2
    assert float(state.shared["noise"]) == pytest.approx(reference.noise, rel=1e-4)
    assert float(state.shared["ridge"]) == pytest.approx(reference.ridge, rel=1e-4)
    reference.check(rule.head(state))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 79), max_size=4))
def test_where_a_batch_is_cut_makes_no_difference_once_the_directions_are_found(seed, cuts):
    rng = np.random.default_rng(seed)
    rule, whole = fresh()
    rule.update(whole, learn_batch(*random_events(rng, 520, num_uids=N, dim=DIM)))
    parts = copy.deepcopy(whole)
    events = random_events(rng, 80, num_uids=N, dim=DIM)
    rule.update(whole, learn_batch(*events))
    for start, end in pairwise([0, *sorted(set(cuts)), len(events)]):
        rule.update(parts, learn_batch(*events[start:end]))
    for name in ("gram", "target", "squares", "rewards"):
        torch.testing.assert_close(as_of_now(parts, name), as_of_now(whole, name), rtol=1e-4, atol=1e-4)
    for name in ("pool_gram", "pool_target", "clock"):
        torch.testing.assert_close(parts.shared[name], whole.shared[name], rtol=1e-6, atol=1e-6)


def test_the_order_of_the_rewards_of_one_event_makes_no_difference():
    rng = np.random.default_rng(3)
    rule, forward = fresh()
    _, backward = fresh()
    for vector, rewards in random_events(rng, 60, num_uids=N, dim=DIM):
        rule.update(forward, learn_batch((vector, rewards)))
        rule.update(backward, learn_batch((vector, dict(reversed(rewards.items())))))
    torch.testing.assert_close(rule.head(backward).weight, rule.head(forward).weight, rtol=1e-5, atol=1e-6)


def test_a_uid_that_earns_most_of_a_batchs_rewards_learns_them_all():
    rng = np.random.default_rng(0)
    rule, state = fresh()
    reference = OneByOne(N)
    events = [(rng.normal(size=DIM).astype(np.float16), {3: float(rng.random())}) for _ in range(31)]
    events += [(rng.normal(size=DIM).astype(np.float16), {3: float(rng.random()), 1: 0.5}) for _ in range(1)]
    for event in events[:-1]:
        reference.step(*event)
    rule.update(state, learn_batch(*events[:-1]))
    reference.check(rule.head(state))


def test_an_untried_uid_scores_as_the_pool_and_has_the_full_bonus():
    rule, state = fresh()
    rule.update(state, learn_batch(*random_events(np.random.default_rng(0), 60, num_uids=3, dim=DIM, most=3)))
    head = rule.head(state)
    shared = state.shared
    pool = torch.linalg.solve(shared["pool_gram"] + 0.5 * torch.eye(DIMS + 1).double(), shared["pool_target"])
    for untried in range(3, N):
        torch.testing.assert_close(
            head.weight[untried], (pool[:-1] @ shared["projection"]).float(), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(head.bias[untried], pool[-1].float())
        assert head.bonus[untried].item() == pytest.approx(full_bonus(state))
    assert bool((head.bonus[:3] < head.bonus[3]).all())


def test_it_learns_from_single_answers():
    """Which of the uids is best depends on the prompt, and only the chosen one's reward is ever seen."""
    rng = np.random.default_rng(0)
    steps = 1_000
    prompts = rng.normal(size=(steps, DIM))
    prompts /= np.linalg.norm(prompts, axis=1, keepdims=True)
    rewards = np.clip(0.5 + prompts @ rng.normal(size=(DIM, N)) / 3, 0, 1)
    rule, state = fresh(dims=DIM, optimism=0.7, memory_rewards=2000.0, memory_rounds=500.0)
    earned = []
    for prompt, row in zip(prompts, rewards, strict=True):
        head = rule.head(state)
        chosen = int((head.weight @ torch.from_numpy(prompt).float() + head.bias + head.bonus).argmax())
        earned.append(row[chosen])
        rule.update(state, learn_batch((prompt, {chosen: float(row[chosen])})))
    last = slice(-steps // 3, None)
    oracle, best_fixed = rewards[last].max(axis=1).mean(), rewards[last].mean(axis=0).max()
    assert np.mean(earned[last]) > best_fixed + 0.9 * (oracle - best_fixed)


def earned_by_experts_of_one_kind_each(seed, optimism):
    """Four kinds of prompts at right angles, an expert for each, no noise; the best score of all is asked, no other."""
    kinds = np.eye(DIM)[:DIMS]
    rule = PooledRidge(dims=DIMS, optimism=optimism)
    state = rule.initial_state(DIMS, DIM, torch.Generator())
    earned = []
    for kind in np.random.default_rng(seed).integers(DIMS, size=800):
        head = rule.head(state)
        chosen = int((head.weight @ torch.from_numpy(kinds[kind]).float() + head.bias + head.bonus).argmax())
        earned.append(0.9 if chosen == kind else 0.1)
        rule.update(state, learn_batch((kinds[kind], {chosen: earned[-1]})))
    return np.mean(earned[-200:])


@pytest.mark.parametrize("seed", range(3))
def test_optimism_finds_the_expert_for_every_kind_of_prompt_where_one_is_asked(seed):
    assert earned_by_experts_of_one_kind_each(seed, PooledRidge().optimism) == pytest.approx(0.9)


def test_without_optimism_a_uid_that_was_bad_at_one_kind_may_be_tried_at_no_other():
    assert earned_by_experts_of_one_kind_each(0, optimism=0.0) < 0.75


def test_among_many_uids_optimism_falls_in_proportion():
    def lift(num_uids):
        biases = []
        for optimism in (0.0, 2.0):
            rule, state = fresh(num_uids, optimism=optimism)
            rule.update(state, learn_batch((np.ones(DIM, np.float16), {0: 0.5})))
            biases.append(float(rule.head(state).bias[0]))
        return biases[1] - biases[0]

    assert lift(32) == pytest.approx(lift(8), rel=1e-3)
    assert lift(128) == pytest.approx(lift(32) / 4, rel=1e-3)


def test_a_uid_that_is_no_longer_asked_is_forgotten_and_gets_its_bonus_back():
    rule, state = fresh()
    rng = np.random.default_rng(0)
    rule.update(state, learn_batch(*random_events(rng, 60, num_uids=N, dim=DIM)))
    before = rule.head(state).bonus[2:] / full_bonus(state)
    for _ in range(10):
        rule.update(state, learn_batch(*random_events(rng, 100, num_uids=2, dim=DIM, most=2)))
    head = rule.head(state)
    assert bool((head.bonus[2:] / full_bonus(state) > before).all())
    torch.testing.assert_close(head.bonus[2:], torch.full((N - 2,), full_bonus(state)), rtol=1e-4, atol=0)
    torch.testing.assert_close(head.weight[2], head.weight[3], rtol=1e-3, atol=1e-4)


def newcomer(new_row):
    """The head of a network in which uid 2 has just changed hands, and what the rule knows then."""
    rule, rule_state = fresh(new_row=new_row)
    rule.update(rule_state, learn_batch(*random_events(np.random.default_rng(0), 60, num_uids=N, dim=DIM)))
    view = MetagraphView.from_hotkeys(list("abcdef"), block=1)
    state = LearnerState(view=view, rule=rule_state, statistics=UidStatistics.empty(N))
    before = copy.deepcopy(rule_state)
    apply_resync(state, MetagraphView.from_hotkeys(list("abxdef"), block=2), rule, seed=3)
    return rule, state.rule, before


@pytest.mark.parametrize("new_row", ["pool", "xavier", "zeros"])
def test_nothing_that_an_owner_earned_reaches_the_next_ones_own_sums(new_row):
    rule, state, before = newcomer(new_row)
    assert before.rows["gram"][2].any()
    for name in ("gram", "target", "squares", "rewards", "stamp"):
        assert not state.rows[name][2].any()
    for name, tensor in before.shared.items():
        assert torch.equal(state.shared[name], tensor)
    assert rule.head(state).bonus[2].item() == pytest.approx(full_bonus(state))


def test_a_newcomer_that_is_drawn_to_zero_or_chance_comes_to_score_what_it_earns():
    for new_row in ("xavier", "zeros"):
        rule, state, _ = newcomer(new_row)
        vector = np.ones(DIM) / np.sqrt(DIM)
        start = rule.head(state)
        if new_row == "xavier":
            projection = state.shared["projection"].float()
            directions = projection / projection.norm(dim=1, keepdim=True)
            onto = state.rows["start"][2] @ directions.T @ directions
            torch.testing.assert_close(start.weight[2], onto, rtol=1e-4, atol=1e-5)
            assert start.bias[2] == 0
        else:
            assert not start.weight[2].any()
        for _ in range(40):
            rule.update(state, learn_batch((vector, {2: 0.9})))
        head = rule.head(state)
        assert 0.7 < float(head.weight[2] @ torch.from_numpy(vector).float() + head.bias[2]) < 0.9


actions = st.one_of(
    st.tuples(st.just("learn"), st.integers(1, 12)),
    st.tuples(st.just("learn"), st.integers(30, 90)),
    st.tuples(st.just("wait"), st.integers(1, 30)),
    st.tuples(st.just("resync"), st.sampled_from(["abcdef", "bacdef", "axcdef", "abc", "abcdefgh", "fedcba"])),
    st.tuples(st.just("save"), st.none()),
    st.tuples(st.just("go back"), st.none()),
    st.tuples(st.just("refuse"), st.none()),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(actions, max_size=12), st.integers(0, 2**16))
def test_what_a_rule_keeps_between_heads_changes_none_of_them(history, seed):
    """Whatever happens to the state, through the rule or not, the head is that of a rule that never saw it before."""
    rng = np.random.default_rng(seed)
    # Matrices of 8 x 8, as aligned in a batch as alone: how MKL rounds depends on where in memory a matrix begins.
    rule, rule_state = fresh(dims=DIM)
    view = MetagraphView.from_hotkeys(list("abcdef"), block=1)
    state = LearnerState(view=view, rule=rule_state, statistics=UidStatistics.empty(N))
    saved = state.copy()
    for block, (what, how) in enumerate(history, start=2):
        num_uids = state.view.n
        match what:
            case "learn":
                rule.update(state.rule, learn_batch(*random_events(rng, how, num_uids=num_uids, dim=DIM, most=3)))
            case "wait":
                rule.update(state.rule, learn_batch(*random_events(rng, how, num_uids=1, dim=DIM, most=1)))
            case "resync":
                apply_resync(state, MetagraphView.from_hotkeys(list(how), block=block), rule, seed=block)
            case "save":
                saved = state.copy()
            case "go back":
                state = saved.copy()
            case _:
                undone = state.copy()
                rule.update(state.rule, learn_batch((np.full(DIM, np.inf), {0: 0.5})))
                state = undone
        assert head_bits(rule.head(state.rule)) == head_bits(fresh(dims=DIM)[0].head(state.rule))


def test_two_futures_of_one_state_have_each_its_own_head():
    rule, state = fresh()
    rng = np.random.default_rng(0)
    rule.update(state, learn_batch(*random_events(rng, 40, num_uids=N, dim=DIM)))
    for _ in range(3):
        future = copy.deepcopy(state)
        rule.update(future, learn_batch((rng.normal(size=DIM), dict.fromkeys(range(N), 0.5))))
        assert head_bits(rule.head(future)) == head_bits(fresh()[0].head(future))


def test_two_owners_that_change_places_take_their_heads_along():
    rule, state = fresh()
    vector = np.ones(DIM)
    rule.update(state, learn_batch(*[(vector, {0: 0.9, 1: 0.9})] * 40, (-vector, {0: 0.5}), (2 * vector, {1: 0.1})))
    before = rule.head(state)
    state.rows = {name: rows[[1, 0, *range(2, N)]] for name, rows in state.rows.items()}
    after = rule.head(state)
    assert bits(after.weight[:2]) == bits(before.weight[:2].flip(0))
    assert bits(before.weight[0]) != bits(before.weight[1])


@pytest.fixture
def worked_out(monkeypatch):
    """How many rows' gains were worked out, call by call."""
    counts = []
    real = gains.factored
    monkeypatch.setattr(gains, "factored", lambda gram, ridge: counts.append(len(gram)) or real(gram, ridge))
    return counts


def test_a_head_works_out_only_the_rows_that_changed(worked_out):
    rule, state = fresh(num_uids=50, memory_rounds=500.0)
    rng = np.random.default_rng(0)
    rule.update(state, learn_batch(*random_events(rng, 600, num_uids=50, dim=DIM)))
    rule.head(state)
    rule.update(state, learn_batch((np.ones(DIM), {7: 0.5, 31: 0.25})))
    worked_out.clear()
    rule.head(state)
    assert worked_out == [2]


def test_rows_that_learned_nothing_are_never_worked_out_though_directions_and_ridge_change(worked_out):
    rule, state = fresh(num_uids=50, memory_rounds=500.0)
    rng = np.random.default_rng(0)
    rule.head(state)
    for refit in (32, 128):
        rule.update(state, learn_batch(*random_events(rng, refit, num_uids=5, dim=DIM)))
        rule.head(state)
    assert int(state.shared["basis"]) == 2
    assert float(state.shared["ridge"]) != SETTINGS["ridge"]
    assert worked_out == [0, 5, 5]


def test_a_rule_may_serve_states_of_several_widths():
    rule, state = fresh(dims=255)
    rule.head(state)
    other = rule.initial_state(N, DIM + 2, torch.Generator())
    assert rule.head(other).weight.shape == (N, DIM + 2)


def test_wide_embeddings_have_as_many_directions_as_asked_for_and_narrow_ones_as_they_have():
    assert fresh()[1].rows["gram"].shape == (N, DIMS + 1, DIMS + 1)
    assert fresh(dims=63)[1].rows["gram"].shape == (N, DIM + 1, DIM + 1)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from([0.0, 6e-8, -6e-8, 1.0, -1.0, 65_504.0, -65_504.0]), min_size=DIM, max_size=DIM),
    st.lists(st.sampled_from([0.0, 6e-8, 1.0, 65_504.0]), min_size=DIM, max_size=DIM),
    st.integers(1, 600),
)
def test_wild_prompts_leave_finite_numbers(first, then, times):
    rule, state = fresh(ridge=1.0, memory_rewards=20_000.0, memory_rounds=1e6)
    for vector in (first, then, first):
        batch = learn_batch(*[(np.array(vector, np.float16), {1: 1.0, 2: 0.0})] * times)
        assert rule.update(state, batch).isfinite().all()
        head = rule.head(state)
        for tensor in (head.weight, head.bias, head.bonus, *state.rows.values(), *state.shared.values()):
            assert tensor.isfinite().all()
        assert head.bias.abs().max() < 10


def test_a_checkpoint_keeps_all_of_it():
    config, store = PooledRidgeConfig(new_row="xavier"), CheckpointStore("memory://pooled-ridge", keep=1)
    learner = build_learner(rule_config=config, store=store)
    for number in range(40):
        learner.add_rewards([message_reward("x" * (number + 1), {number % 5: 0.5, 5: number / 40})])
    learn_all(learner)
    save(learner, store)
    again = build_learner(rule_config=config, store=store, log=learner.log)
    assert int(state_of(again).rule.shared["basis"]) == 1
    assert state_of(again).digest() == state_of(learner).digest()
    assert again.snapshot().weight.tobytes() == learner.snapshot().weight.tobytes()


def test_a_state_is_as_large_as_is_said():
    rule = PooledRidge()
    for num_uids in (1, 256):
        rows = rule.initial_state(num_uids, 384, torch.Generator()).rows
        assert sum(tensor.numel() * tensor.element_size() for tensor in rows.values()) == num_uids * 16_673


def test_the_configured_settings_are_the_rules():
    config = PooledRidgeConfig(**SETTINGS, new_row="zeros")
    rule = build_rule(config)
    assert isinstance(rule, PooledRidge)
    assert (rule.dims, rule.ridge, rule.pool_ridge, rule.bonus, rule.memory_rounds) == (DIMS, 3.0, 0.5, 0.8, 12.0)
    assert (rule.own_share, rule.new_row) == (1 - 1 / 40, "zeros")


def test_by_default_the_class_and_the_configuration_agree():
    configured, plain = build_rule(PooledRidgeConfig()), PooledRidge()
    names = ("dims", "ridge", "pool_ridge", "bonus", "own_share", "memory_rounds", "new_row")
    assert [getattr(configured, name) for name in names] == [getattr(plain, name) for name in names]
