import importlib.util
import warnings

import numpy as np
import pytest

from benchmarks.peers import COMPONENTS, PEERS, Contexts, installed
from benchmarks.play import play
from benchmarks.streams import churn

from .worlds import separable_stream, small_stream

# paretobandit is installed anyway, as the demo needs it.
ALL = [pytest.param(name, marks=[] if name == "paretobandit" else [pytest.mark.peers]) for name in PEERS]
PER_UID = [one for one in ALL if "vowpal" not in one.values[0]]


def peer(name):
    package, build = PEERS[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; it comes with the extra peers")
    return build


@pytest.fixture(autouse=True)
def _their_own_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", ALL)
def test_a_peer_learns_whom_to_ask_for_what(name):
    agent, stream = peer(name)(4, 44, 0), separable_stream(steps=400)
    earned = []
    for steps in stream.requests():
        first = agent.choose(stream.embedding[steps], np.arange(4), 1)
        earned.append(np.take_along_axis(stream.rewards[steps], first, axis=1))
        # Told of everybody, it need not explore.
        agent.learn(stream.embedding[steps], np.tile(np.arange(4), (len(steps), 1)), stream.rewards[steps])
    assert np.concatenate(earned[-12:]).mean() > 0.85


@pytest.mark.parametrize("name", ALL)
def test_a_peer_learns_from_its_own_choices(name):
    stream = small_stream(steps=500)
    figures = play(stream, peer(name)(5, 4, 0), 2).figures()
    # The two best are worth .725; chance is .5.
    assert figures["all"] > 0.6


@pytest.mark.parametrize("name", ALL)
def test_a_peer_ranks_the_candidates_and_no_one_else(name):
    agent = peer(name)(5, 4, 0)
    stream = small_stream(steps=40)
    for steps in stream.requests():
        chosen = agent.choose(stream.embedding[steps], np.array([0, 2, 3]), 2)
        assert np.isin(chosen, [0, 2, 3]).all()
        assert (chosen[:, 0] != chosen[:, 1]).all()
        agent.learn(stream.embedding[steps], chosen, np.take_along_axis(stream.rewards[steps], chosen, axis=1))


@pytest.mark.parametrize("name", ALL)
def test_a_peer_is_told_of_new_owners_and_forgets_the_old_ones(name):
    agent = peer(name)(3, 4, 0)
    prompts = iter(small_stream(steps=240).embedding.reshape(-1, 40, 4))

    def teach(*rewards):
        embedding = next(prompts)
        agent.learn(embedding, np.tile([0, 1, 2], (40, 1)), np.tile(rewards, (40, 1)))

    def favourite():
        return np.bincount(agent.choose(next(prompts), np.arange(3), 1)[:, 0], minlength=3).argmax()

    teach(0.0, 1.0, 0.6)
    teach(0.0, 1.0, 0.6)
    assert favourite() == 1
    agent.replace((1,))
    # With what the old owner has earned, the new one would still be the best by far.
    teach(0.0, 0.45, 0.6)
    assert favourite() == 2


@pytest.mark.peers
def test_vowpalwabbit_holds_nothing_against_a_new_owner():
    agent, stream = peer("vowpalwabbit squarecb")(3, 4, 0), small_stream(steps=400)
    agent.learn(stream.embedding[:200], np.tile([0, 1, 2], (200, 1)), np.tile([0.0, 0.5, 0.5], (200, 1)))
    shares = []
    for _ in range(2):
        shares.append((agent.choose(stream.embedding[200:], np.arange(3), 1) == 0).mean())
        agent.replace((0,))
    assert shares[0] < 0.05 < 0.2 < shares[1]


@pytest.mark.parametrize("name", ALL)
def test_a_peer_goes_on_when_reports_are_missing_and_owners_change(name):
    stream = churn(small_stream(steps=700), np.random.default_rng(0))
    reported = stream.rewards.copy()
    reported[np.random.default_rng(1).random(reported.shape) < 0.3] = np.nan
    reported[:16] = np.nan
    outcome = play(type(stream)(**{**vars(stream), "reported": reported}), peer(name)(5, 4, 0), 2)
    assert outcome.figures()["all"] > 0.55


def test_paretobandit_at_k_1_chooses_what_its_router_would():
    agent = peer("paretobandit")(5, 45, 0)
    stream = separable_stream(steps=400, uids=5)
    play(stream, agent, 1)
    embedding = stream.embedding[:50] + np.float32(0.01)
    ours = [int(agent.choose(one[None], np.arange(5), 1)[0, 0]) for one in embedding]
    theirs = [int(agent.router.route(context)[0]) for context in agent._contexts(embedding)]
    assert ours == theirs


def test_contexts_are_principal_components_once_enough_has_been_seen():
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(400, 60)) * np.linspace(3, 0.1, 60) + 5.0
    contexts = Contexts(60)
    assert not contexts.see(embedding[:255])
    assert contexts(embedding[:3]).shape == (3, COMPONENTS + 1)
    assert contexts.see(embedding[255:256])
    assert not contexts.see(embedding[256:])
    found = contexts(embedding[:256])
    np.testing.assert_array_equal(found[:, -1], 1.0)
    along = found[:, :-1]
    np.testing.assert_allclose(along.mean(axis=0), 0.0, atol=1e-9)
    assert (along**2).sum(axis=1).mean() == pytest.approx(1.0)
    spread = along.std(axis=0)
    assert (np.diff(spread) <= 1e-9).all()
    np.testing.assert_allclose(along.T @ along, np.diag(256 * spread**2), atol=1e-9)


def test_white_contexts_have_variance_1_in_every_direction():
    embedding = np.random.default_rng(0).normal(size=(256, 60)) * np.linspace(3, 0.1, 60)
    contexts = Contexts(60, 25, whiten=True)
    contexts.see(embedding)
    np.testing.assert_allclose(contexts(embedding)[:, :-1].std(axis=0), 1.0)


@pytest.mark.parametrize("name", PER_UID)
def test_what_was_learned_along_random_directions_is_learned_again_along_the_components(name):
    stream = separable_stream(steps=264)
    agent, told = peer(name)(4, 44, 0), []
    fit = agent._fit

    def keep_and_fit(contexts, uids, rewards):
        told.append((len(uids), contexts))
        fit(contexts, uids, rewards)

    agent._fit = keep_and_fit
    play(stream, agent, 1)
    counts = [count for count, _ in told]
    # 31 requests, then all of those before the 256th prompt's request at once, and it and the last one.
    assert counts == [8] * 31 + [248, 8, 8]
    np.testing.assert_allclose(told[31][1], agent._contexts(stream.embedding[:248]))


def test_peers_are_left_out_where_their_package_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: object() if package == "mabwiser" else None)
    assert list(installed()) == ["mabwiser LinUCB", "mabwiser LinTS"]
