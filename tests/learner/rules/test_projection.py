import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.rules.projection import (
    REFITS,
    initial_projection,
    inputs,
    onto_directions,
    see,
    turned_gram,
    turned_target,
)


def stream(count, dim=12, rank=None, seed=0, scale=1.0):
    """Prompts that lie in `rank` directions, some of which matter more."""
    rng = np.random.default_rng(seed)
    rank = rank or dim
    spread = np.linspace(2.0, 0.5, rank)
    mixed = rng.normal(size=(count, rank)) * spread @ np.linalg.qr(rng.normal(size=(dim, rank)))[0].T
    return torch.from_numpy(scale * mixed).float()


def seen(prompts, dims=4, step=8):
    shared = initial_projection(dims, prompts.shape[1])
    for batch in torch.split(prompts, step):
        see(shared, batch)
    return shared


@pytest.mark.parametrize(("count", "fitted_at"), [(32, 32), (127, 32), (128, 128), (511, 128), (512, 512), (700, 512)])
def test_the_directions_are_the_main_ones_of_the_prompts_at_the_last_count(count, fitted_at):
    prompts = stream(count)
    projection = seen(prompts, step=1)["projection"].numpy()
    first = prompts[:fitted_at].double().numpy()
    directions = np.linalg.svd(first)[2][:4]
    found = projection / np.linalg.norm(projection, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs((found * directions).sum(axis=1)), 1.0, atol=1e-6)
    assert np.mean(((first @ projection.T) ** 2).sum(axis=1)) == pytest.approx(1.0)
    assert (found[np.arange(4), np.abs(found).argmax(axis=1)] > 0).all()


def test_before_the_first_count_a_prompt_is_a_constant():
    prompts = stream(31)
    x = inputs(seen(prompts)["projection"], prompts)
    assert not x[:, :-1].any()
    assert (x[:, -1] == 1).all()


def test_one_batch_may_pass_several_counts():
    shared = seen(stream(600), step=600)
    assert int(shared["basis"]) == 1
    assert int(shared["seen"]) == 600
    assert shared["projection"].any()


def test_the_moment_is_given_up_once_it_is_no_longer_needed():
    prompts = stream(REFITS[-1] + 100)
    assert seen(prompts[: REFITS[-1] - 1])["moment"].shape == (12, 12)
    before, after = seen(prompts[: REFITS[-1]], step=1), seen(prompts, step=1)
    assert before["moment"].numel() == 0
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(32, 127), st.floats(1e-3, 1e3))
def test_sums_of_prompts_within_the_old_directions_are_carried_over_as_if_taken_anew(seed, cut, scale):
    prompts = stream(128, rank=4, seed=seed, scale=scale)
    rewards = torch.from_numpy(np.random.default_rng(seed).random(cut)).float()
    shared = initial_projection(4, 12)
    for prompt in torch.split(prompts[:cut], 1):
        see(shared, prompt)
    # What was seen until the first count is not along any direction; here the sums begin after it.
    x = inputs(shared["projection"], prompts[:cut])
    gram, target, basis = (x.T @ x)[None], (rewards @ x)[None], shared["basis"].repeat(1)
    see(shared, prompts[cut:])
    anew = inputs(shared["projection"], prompts[:cut])
    near = (anew[:, :-1].norm(dim=1) < 3.5) & (x[:, :-1].norm(dim=1) < 3.5)
    if bool(near.all()):
        torch.testing.assert_close(turned_gram(shared, basis, gram)[0], anew.T @ anew, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(turned_target(shared, basis, target)[0], rewards @ anew, rtol=1e-3, atol=1e-2)


def test_rows_of_several_times_are_carried_over_each_from_its_own():
    prompts = stream(600, rank=4)
    shared = initial_projection(4, 12)
    taken = []
    for number, batch in enumerate(torch.split(prompts, 8)):
        see(shared, batch)
        if number in (4, 20, 70):
            x = inputs(shared["projection"], prompts[:8])
            taken.append((x.T @ x, x.sum(dim=0), shared["basis"]))
    gram, target, basis = (torch.stack(parts) for parts in zip(*taken, strict=True))
    assert basis.tolist() == [1, 2, 3]
    for row in range(3):
        torch.testing.assert_close(turned_gram(shared, basis, gram)[row], gram[2], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(turned_target(shared, basis, target)[row], target[2], rtol=1e-3, atol=1e-3)


def test_a_freak_is_brought_near():
    shared = seen(stream(64))
    x = inputs(shared["projection"], 1e4 * stream(5))
    torch.testing.assert_close(x[:, :-1].norm(dim=1), torch.full((5,), 4.0))
    assert (x[:, -1] == 1).all()


def test_weights_on_embeddings_become_weights_on_coordinates():
    prompts = stream(64, rank=4)
    shared = seen(prompts)
    weight = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 12))).float()
    x = inputs(shared["projection"], prompts[:10] / 10)
    torch.testing.assert_close(
        x[:, :-1] @ onto_directions(shared["projection"], weight).T, prompts[:10] / 10 @ weight.T, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("prompts", [torch.zeros(40, 12), torch.ones(40, 12), 1e-7 * torch.ones(40, 12)])
def test_prompts_that_do_not_differ_have_one_direction_or_none(prompts):
    shared = seen(prompts)
    assert (shared["projection"].abs().sum(dim=1) > 0).sum() == int(prompts.any())
    assert inputs(shared["projection"], prompts).isfinite().all()
    assert onto_directions(shared["projection"], torch.ones(2, 12)).isfinite().all()


def test_a_moment_that_is_not_finite_has_no_directions():
    shared = seen(stream(31))
    assert see(shared, torch.full((1, 12), torch.inf)) is None
    assert not shared["projection"].any()
