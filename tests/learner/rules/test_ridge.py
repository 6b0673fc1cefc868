import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from learner.rules.ridge import Sums, factored, solved, sums_by_uid


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 80), min_size=1, max_size=5))
@example(0, [40, 0])
def test_the_sums_are_those_of_each_uid_one_reward_after_another(seed, counts):
    if not sum(counts):
        counts = [*counts, 1]
    rng = np.random.default_rng(seed)
    position = np.repeat(np.arange(len(counts)), counts)
    x, rewards, weights = rng.normal(size=(len(position), 3)), rng.random(len(position)), rng.random(len(position))
    sums = sums_by_uid(
        torch.from_numpy(position),
        len(counts),
        torch.from_numpy(x).float(),
        torch.from_numpy(rewards).float(),
        torch.from_numpy(weights).float(),
    )
    gram, target = np.zeros((len(counts), 3, 3)), np.zeros((len(counts), 3))
    for uid, vector, reward, weight in zip(position, x, rewards, weights, strict=True):
        gram[uid] += weight * np.outer(vector, vector)
        target[uid] += weight * reward * vector
    np.testing.assert_allclose(sums.gram.numpy(), gram, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sums.target.numpy(), target, rtol=1e-4, atol=1e-4)


def test_a_regression_lies_between_its_own_rewards_and_its_prior():
    gram, target = torch.diag(torch.tensor([4.0, 0.0]))[None], torch.tensor([[2.0, 0.0]])
    weight = solved(Sums(gram, target), torch.tensor([[1.0, 3.0]]), 4.0)
    torch.testing.assert_close(weight, torch.tensor([[0.75, 3.0]]))


def test_what_rounding_has_left_without_a_factor_gets_one_and_the_others_keep_theirs():
    spoiled = torch.diag(torch.tensor([1e6, -50.0]))
    sound = torch.diag(torch.tensor([8.0, 3.0]))
    both = factored(torch.stack([spoiled, sound]), 1.0)
    assert both.isfinite().all()
    assert (both[0].diagonal() > 0).all()
    torch.testing.assert_close(both[1].diagonal(), torch.tensor([3.0, 2.0]))
