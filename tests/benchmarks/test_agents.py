import numpy as np
import pytest
from pydantic import TypeAdapter

from benchmarks.agents import RandomAgent, RuleAgent
from benchmarks.play import play
from benchmarks.streams import churn
from gating.policies import Greedy, SquareCB
from learner.config import RuleConfig

from .worlds import separable_stream, small_stream


def rule_agent(name, uids, dim, **options):
    # As it is by default, a ridge takes time.
    settings = {"name": name, **({"dims": 8} if name == "pooled_ridge" else {})}
    return RuleAgent(TypeAdapter(RuleConfig).validate_python(settings), uids, dim, 0, **options)


def random_embedding(count, dim=4):
    return np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)


@pytest.mark.parametrize(("name", "k"), [("pooled_ridge", 1), ("adagrad", 1), ("adagrad", 2)])
def test_a_rule_learns_whom_to_ask_for_what(name, k):
    stream = separable_stream(steps=320)
    figures = play(stream, rule_agent(name, 4, 44), k).figures()
    # Chance is .3.
    assert figures["first_last_third"] > 0.7


def test_a_rule_that_is_told_nothing_learns_nothing():
    agent = rule_agent("adagrad", 4, 4, policy=Greedy())
    embedding = random_embedding(8)
    before = agent.choose(embedding, np.arange(4), 2)
    agent.learn(embedding, before, np.full((8, 2), np.nan))
    np.testing.assert_array_equal(agent.choose(embedding, np.arange(4), 2), before)


def test_of_a_prompt_only_the_known_rewards_are_learned_each_for_its_uid():
    agents = [rule_agent("adagrad", 4, 4, policy=Greedy()) for _ in range(2)]
    embedding = random_embedding(3)
    uids = np.array([[0, 1], [2, 3], [1, 0]])
    agents[0].learn(embedding, uids, np.array([[np.nan, 1.0], [np.nan, np.nan], [0.0, 0.5]]))
    agents[1].learn(embedding[[0]], np.array([[1]]), np.array([[1.0]]))
    agents[1].learn(embedding[[2]], np.array([[1, 0]]), np.array([[0.0, 0.5]]))
    for agent in agents:
        assert agent._state.rule.rows["rewards"].tolist() == [1, 2, 0, 0]
    first, second = (agent._state.rule.rows["weight"].numpy() for agent in agents)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_new_owner_begins_without_what_the_old_one_had():
    agent = rule_agent("adagrad", 4, 4)
    agent.learn(random_embedding(8), np.tile([0, 1], (8, 1)), np.ones((8, 2)))
    agent.replace((1,))
    assert agent._state.rule.rows["rewards"].tolist() == [8, 0, 0, 0]
    agent.replace((0,))
    assert agent._state.rule.rows["rewards"].tolist() == [0, 0, 0, 0]


def test_a_rule_can_have_another_policy():
    # Greedily each of 4 prompts has its certain uid; by inverse gap weighting with so small a gamma, any.
    embedding = np.repeat(random_embedding(1), 400, axis=0)
    greedy = rule_agent("adagrad", 4, 4, policy=Greedy()).choose(embedding, np.arange(4), 1)
    drawn = rule_agent("adagrad", 4, 4, policy=SquareCB(gamma=0.01)).choose(embedding, np.arange(4), 1)
    assert len(np.unique(greedy)) == 1
    assert np.bincount(drawn[:, 0], minlength=4).min() > 50


def test_only_candidates_are_chosen():
    for agent in (rule_agent("pooled_ridge", 6, 4), RandomAgent(6, 4, 0)):
        chosen = agent.choose(random_embedding(20), np.array([1, 3, 4]), 2)
        assert np.isin(chosen, [1, 3, 4]).all()
        assert (chosen[:, 0] != chosen[:, 1]).all()


def test_chance_earns_what_chance_earns():
    stream = small_stream(steps=4_000)
    assert play(stream, RandomAgent(5, 4, 0), 2).figures()["all"] == pytest.approx(stream.rewards.mean(), abs=0.01)


def test_a_rule_plays_a_stream_on_which_owners_change():
    stream = churn(small_stream(steps=560), np.random.default_rng(0))
    assert play(stream, rule_agent("adagrad", 5, 4), 2).figures()["first_last_third"] > 0.6
