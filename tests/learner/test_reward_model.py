import numpy as np
import pytest

from learner.reward_model import BLOCKS, cut, fit_reward_model


def linear_world(decisions=600, dim=6, num_uids=3, seed=0):
    """Two of the uids are asked at a time; what each earns is linear in the embedding."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(decisions, dim)).astype(np.float32)
    skill = rng.normal(size=(num_uids, dim)) * 0.2
    everything = embedding @ skill.T + 0.5
    uids = np.stack([rng.permutation(num_uids)[:2] for _ in range(decisions)])
    return embedding, uids, np.take_along_axis(everything, uids, axis=1), everything


def test_a_linear_reward_is_predicted_for_every_uid():
    embedding, uids, rewards, everything = linear_world(4_000)
    model = fit_reward_model(embedding, uids, rewards, np.ones(uids.shape, bool), 3)
    error = np.abs(model.predict(embedding, cut(len(embedding))) - everything)
    assert error[2_000:].mean() < 0.1 * np.abs(everything - everything.mean(axis=0)).mean()


def test_a_decision_is_predicted_from_earlier_ones_only():
    embedding, uids, rewards, _ = linear_world()
    asked, blocks = np.ones(uids.shape, bool), cut(len(embedding))
    before = fit_reward_model(embedding, uids, rewards, asked, 3).predict(embedding, blocks)
    changed = rewards.copy()
    changed[300] += 100.0
    after = fit_reward_model(embedding, uids, changed, asked, 3).predict(embedding, blocks)
    later = blocks > blocks[300]
    assert 0 < later.sum() < 300
    np.testing.assert_array_equal(after[~later], before[~later])
    assert (after[later][:, uids[300]] != before[later][:, uids[300]]).any(axis=1).all()


def test_a_uid_that_was_never_asked_is_predicted_as_the_pool():
    embedding, uids, rewards, _ = linear_world()
    model = fit_reward_model(embedding, uids, np.full(rewards.shape, 0.75), np.ones(uids.shape, bool), 4)
    predicted = model.predict(embedding, cut(len(embedding)))
    np.testing.assert_allclose(predicted[300:, 3], 0.75, atol=0.01)


def test_what_is_padded_is_not_learned():
    embedding, uids, rewards, _ = linear_world()
    asked = np.ones(uids.shape, bool)
    asked[::3, 1] = False
    model = fit_reward_model(embedding, uids, rewards, asked, 3)
    strange_uids, strange_rewards = np.where(asked, uids, -1), np.where(asked, rewards, 1e6)
    other = fit_reward_model(embedding, strange_uids, strange_rewards, asked, 3)
    np.testing.assert_array_equal(model.heads, other.heads)


def test_blocks_follow_the_order_and_the_first_are_short():
    blocks = cut(1_000)
    assert np.bincount(blocks).tolist() == [20, 30, 50, *[100] * 9]
    assert (np.diff(blocks) >= 0).all()
    assert len(np.unique(blocks)) == BLOCKS
    assert cut(3).tolist() == sorted(cut(3).tolist())
    assert cut(0).tolist() == []


def test_the_first_decisions_are_predicted_by_nothing():
    embedding, uids, rewards, _ = linear_world()
    model = fit_reward_model(embedding, uids, rewards, np.ones(uids.shape, bool), 3)
    assert not model.predict(embedding, cut(len(embedding)))[:12].any()


def test_embeddings_that_do_not_differ_are_no_trouble():
    embedding = np.ones((20, 3), np.float32)
    uids = np.zeros((20, 1), np.int64)
    model = fit_reward_model(embedding, uids, np.full((20, 1), 0.5), np.ones((20, 1), bool), 1)
    np.testing.assert_allclose(model.predict(embedding, cut(20))[10:], 0.5, atol=0.05)


@pytest.mark.parametrize("dim", [4, 100])
def test_any_width_of_embeddings_will_do(dim):
    embedding, uids, rewards, _ = linear_world(dim=dim)
    model = fit_reward_model(embedding, uids, rewards, np.ones(uids.shape, bool), 3)
    assert model.projection.shape == (dim, min(dim, 64))
    features = (embedding - model.mean) @ model.projection
    assert (features**2).sum(axis=1).mean() == pytest.approx(1.0)
