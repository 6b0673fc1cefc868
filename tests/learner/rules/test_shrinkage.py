"""The noise and the ridge that made-up uids were drawn with are found again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.rules import PooledRidge
from learner.rules.ridge import Sums
from learner.rules.shrinkage import MOST_UIDS, Shrinkage, evenly_spaced, fitted

from ..builders import bits, learn_batch

WIDTH = 6
USUAL = Shrinkage(0.25, 20.0)


def drawn(*, uids, rewards, noise_sd, spread_sd, seed=0, unit=1.0):
    """Uids whose regressions lie around a common one, and what their rewards at random inputs sum up to."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=WIDTH)
    weight = centre + spread_sd * rng.normal(size=(uids, WIDTH))
    x = rng.normal(size=(uids, rewards, WIDTH))
    r = ((x @ weight[:, :, None])[:, :, 0] + noise_sd * rng.normal(size=(uids, rewards))) * unit
    sums = Sums(torch.tensor(x.swapaxes(1, 2) @ x).float(), torch.tensor((r[:, None] @ x)[:, 0]).float())
    squares = torch.tensor((r**2).sum(axis=1)).float()
    prior = torch.tensor(centre * unit).float().repeat(uids, 1)
    return sums, squares, torch.full((uids,), float(rewards)), prior


def found(*of, start=USUAL, usual=20.0, times=100):
    for _ in range(times):
        start = fitted(*of, start, usual)
    return start


@pytest.mark.parametrize("spread_sd", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("noise_sd", [0.2, 0.5])
def test_the_noise_and_the_spread_that_uids_were_drawn_with_are_found(noise_sd, spread_sd):
    noise, ridge = found(*drawn(uids=120, rewards=100, noise_sd=noise_sd, spread_sd=spread_sd))
    assert noise == pytest.approx(noise_sd**2, rel=0.1)
    assert ridge == pytest.approx(max(noise_sd**2 / spread_sd**2, 1.0), rel=0.25)


def test_few_uids_do_not_pull_the_ridge_far_from_the_usual():
    alike = {"rewards": 200, "noise_sd": 0.1, "spread_sd": 1e-3}
    few, many = (found(*drawn(uids=uids, **alike)).ridge for uids in (2, 100))
    assert 20.0 < few < 100.0 < many


@given(st.floats(1e-2, 1e3))
@settings(deadline=None, max_examples=20)
def test_the_unit_of_the_rewards_makes_no_difference(unit):
    of = {"uids": 30, "rewards": 40, "noise_sd": 0.3, "spread_sd": 0.1}
    expected = found(*drawn(**of), times=3)
    noise, ridge = found(*drawn(**of, unit=unit), start=Shrinkage(0.25 * unit**2, 20.0), times=3)
    assert noise == pytest.approx(expected.noise * unit**2, rel=1e-2)
    assert ridge == pytest.approx(expected.ridge, rel=1e-2)


@pytest.mark.parametrize("reward", [0.0, 0.5, 1.0])
def test_rewards_that_never_differ_leave_finite_numbers_in_range(reward):
    rule = PooledRidge(dims=3)
    state = rule.initial_state(4, 5, torch.Generator())
    rng = np.random.default_rng(0)
    for _ in range(12):
        rule.update(state, learn_batch(*[(rng.normal(size=5), dict.fromkeys(range(4), reward)) for _ in range(100)]))
        assert 0.0 < float(state.shared["noise"]) < 0.26
        assert 1.0 <= float(state.shared["ridge"]) <= 1e6
        assert rule.head(state).weight.isfinite().all()


def test_what_is_looked_at_are_those_with_rewards_and_not_too_many_of_them():
    rewards = torch.zeros(1000)
    rewards[100:700:3] = 1.0
    assert bits(evenly_spaced(rewards[:130])) == bits(torch.arange(100, 130, 3))
    these = evenly_spaced(rewards)
    assert len(these) == len(set(these.tolist())) == MOST_UIDS
    assert bool((rewards[these] > 0).all())
    assert these[0] == 100
    assert these[-1] > 690


def test_uids_that_differ_come_to_be_shrunk_less_than_uids_that_are_alike():
    ridges = []
    for apart in (0.0, 0.3):
        rule = PooledRidge(dims=3)
        state = rule.initial_state(20, 5, torch.Generator())
        rng = np.random.default_rng(0)
        level = 0.5 + apart * rng.normal(size=20)
        for _ in range(20):
            uids = [rng.permutation(20)[:4].tolist() for _ in range(50)]
            events = [(rng.normal(size=5), {u: level[u] + 0.1 * rng.normal() for u in chosen}) for chosen in uids]
            rule.update(state, learn_batch(*events))
        ridges.append(float(state.shared["ridge"]))
        assert float(state.shared["noise"]) == pytest.approx(0.01, rel=0.2)
    assert ridges[1] < 5.0 < 20.0 < ridges[0]


def test_a_fit_comes_when_the_rewards_have_doubled_and_at_the_latest_after_the_memory():
    rule = PooledRidge(dims=3, memory_rounds=100.0)
    state = rule.initial_state(4, 5, torch.Generator())
    rng = np.random.default_rng(0)
    fits, before = [], float(state.shared["noise"])
    for step in range(1, 1_700):
        rule.update(state, learn_batch((rng.normal(size=5), {step % 4: float(rng.random())})))
        if float(state.shared["noise"]) != before:
            fits.append(step)
            before = float(state.shared["noise"])
    assert fits == [256, 512, 912, 1312]
