import numpy as np
import pytest

from benchmarks.synthetic import NARROW_BAD, NARROW_GOOD, narrow_world, synthetic_world


def prompts(count=400, dim=16, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_world_is_the_same_whenever_its_seed_is_and_another_with_another():
    first, second, other = (synthetic_world(prompts(), 40, seed=seed).rewards for seed in (1, 1, 2))
    assert first.tobytes() == second.tobytes()
    assert (first != other).any()


def test_rewards_lie_between_0_and_1_with_a_row_per_prompt_and_a_column_per_uid():
    rewards = synthetic_world(prompts(), 40).rewards
    assert (rewards.dtype, rewards.shape) == (np.float32, (400, 40))
    assert rewards.min() >= 0
    assert rewards.max() <= 1


def test_three_tenths_are_spammers_and_a_twentieth_is_chance():
    world = synthetic_world(prompts(), 40)
    assert (world.spammers.sum(), world.random.sum()) == (12, 2)
    assert not (world.spammers & world.random).any()
    assert world.rewards[:, world.spammers].mean(axis=0).max() < 0.25
    chance = world.rewards[:, world.random]
    assert chance.mean() == pytest.approx(0.5, abs=0.05)
    assert chance.std() == pytest.approx(1 / np.sqrt(12), abs=0.03)


def test_an_honest_expert_earns_more_at_its_topics():
    world = synthetic_world(prompts(), 40, noise=0.0)
    honest = np.flatnonzero(~world.spammers & ~world.random)
    for uid in honest:
        at_its_best = world.topics[:, world.skills[uid].argsort()[-4:]].sum(axis=1)
        assert np.corrcoef(at_its_best, world.rewards[:, uid])[0, 1] > 0.3


def test_every_prompt_belongs_to_the_topics_near_it():
    topics = synthetic_world(prompts(), 10).topics
    np.testing.assert_allclose(topics.sum(axis=1), 1.0, atol=1e-5)
    assert len(np.unique(topics.argmax(axis=1))) > 12


def test_whom_to_ask_depends_on_the_prompt():
    world = synthetic_world(prompts(), 60)
    means = world.topics @ world.skills.T
    assert means.max(axis=1).mean() > means.mean(axis=0).max() + 0.05


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [(10, {}, "10 prompts do not make 24 topics"), (100, {"spam_share": 0.97}, "leave none of 40 honest")],
)
def test_a_world_without_topics_or_honest_experts_is_refused(count, settings, message):
    with pytest.raises(ValueError, match=message):
        synthetic_world(prompts(count), 40, **settings)


def test_a_narrow_expert_is_good_at_one_kind_of_prompt_and_at_no_other():
    rewards = narrow_world(prompts(), 12, num_kinds=5)
    assert rewards.dtype == np.float32
    assert set(np.unique(rewards)) == {np.float32(NARROW_GOOD), np.float32(NARROW_BAD)}
    # Experts 0 and 5 are of one kind, 0 and 1 are not.
    np.testing.assert_array_equal(rewards[:, 0], rewards[:, 5])
    is_good = rewards[:, :5] == np.float32(NARROW_GOOD)
    np.testing.assert_array_equal(is_good.sum(axis=1), 1)
    assert is_good.any(axis=0).all()
    np.testing.assert_array_equal(narrow_world(prompts(), 12, num_kinds=5), rewards)


def test_kinds_need_prompts():
    with pytest.raises(ValueError, match="7 prompts do not make 8 kinds"):
        narrow_world(prompts(7), 4)
