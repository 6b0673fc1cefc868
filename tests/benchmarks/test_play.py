from dataclasses import replace

import numpy as np
import pytest

from benchmarks.play import WINDOW, Outcome, play
from benchmarks.streams import Stream, cold_arm, delayed, drift, missing_and_noisy, poisoned

from .worlds import Scripted, small_stream


def stream_of(rewards, **fields):
    rewards = np.asarray(rewards, np.float64)
    embedding = np.arange(len(rewards), dtype=np.float32)[:, None]
    return Stream(fields.pop("name", "stationary"), embedding, rewards, **fields)


def steps_told(agent):
    """The prompts that were learned, in order; the embedding is the step's number."""
    return [int(row[0]) for embedding, *_ in agent.told for row in embedding]


def test_figures_are_those_that_are_worked_out_by_hand():
    rewards = [[0.9, 0.1, 0.5], [0.2, 0.8, 0.4], [0.3, 0.6, 0.7]]
    outcome = play(stream_of(rewards), Scripted([[0, 2], [2, 1], [1, 0]]), 2)
    assert outcome.figures() == pytest.approx(
        {
            "first": (0.9 + 0.4 + 0.6) / 3,
            "first_last_third": 0.6,
            "all": (0.9 + 0.5 + 0.4 + 0.8 + 0.6 + 0.3) / 6,
            "best_of_k": (0.9 + 0.8 + 0.6) / 3,
        }
    )
    assert outcome.regret() == [[1, 0.0], [2, pytest.approx(0.4)], [3, pytest.approx(0.5)]]


def test_regret_is_against_what_could_be_chosen():
    stream = cold_arm(stream_of([[1.0, 0.5]] * 4), np.random.default_rng(0))
    assert [regret for _, regret in play(stream, Scripted([[1]] * 4), 1).regret()] == [0.0, 0.0, 0.5, 1.0]


def test_an_agent_learns_what_its_choices_earned_before_the_next_request():
    stream = small_stream(steps=20)
    agent = Scripted(np.tile([[1, 3]], (20, 1)))
    play(stream, agent, 2)
    assert [count for count, _ in agent.asked] == [8, 8, 4]
    assert [len(rewards) for _, _, rewards, _ in agent.told] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate([told[2] for told in agent.told]), stream.rewards[:, [1, 3]])
    assert [name for *_, names in agent.told for name in names] == [f"author-{author}" for author in stream.authors]


def test_delayed_reports_are_learned_when_they_are_due_in_that_order_and_once():
    delay = np.array([30, 0, 9, 2, 0, 1_000, 0, 3] + [0] * 24)
    agent = Scripted([[0]] * 32)
    play(stream_of(np.zeros((32, 2)), delay=delay, authors=np.arange(32) % 20), agent, 1)
    # By the end of the first request (7) are due 1, 4, 3 (at 5) and 6; then 7 (at 10), 2 (at 11); 0 at 30; never 5.
    assert steps_told(agent)[:4] == [1, 4, 3, 6]
    second = [int(row[0]) for row in agent.told[1][0]]
    assert second == [8, 9, 7, 10, 2, 11, 12, 13, 14, 15]
    assert sorted(steps_told(agent)) == [step for step in range(32) if step != 5]
    told_by = [name for *_, names in agent.told for name in names]
    assert told_by == [f"author-{step % 20}" for step in steps_told(agent)]


def test_no_report_of_a_long_stream_is_lost():
    stream = delayed(small_stream(steps=3_000), np.random.default_rng(0))
    stream = replace(stream, embedding=np.arange(3_000, dtype=np.float32)[:, None])
    agent = Scripted([[0]] * 3_000)
    play(stream, agent, 1)
    due = np.flatnonzero(np.arange(3_000) + stream.delay < 3_000)
    assert sorted(steps_told(agent)) == due.tolist()


def test_missing_reports_are_told_as_unknown_and_lies_as_they_were_reported():
    for scenario in (missing_and_noisy, poisoned):
        stream = scenario(small_stream(), np.random.default_rng(0))
        agent = Scripted([[2]] * 400)
        outcome = play(stream, agent, 1)
        np.testing.assert_array_equal(np.concatenate([told[2] for told in agent.told]), stream.reported[:, [2]])
        # Whatever is reported, what counts is what was earned.
        assert outcome.figures()["all"] == pytest.approx(stream.rewards[:, 2].mean())


def test_only_who_is_there_can_be_chosen():
    agent = Scripted([[1]] * 50)
    play(cold_arm(small_stream(steps=50), np.random.default_rng(0)), agent, 1)
    asked = [(count, candidates.tolist()) for count, candidates in agent.asked]
    assert asked[:4] == [(8, [1, 2, 3, 4])] * 3 + [(1, [1, 2, 3, 4])]
    assert {tuple(candidates) for _, candidates in asked[4:]} == {(0, 1, 2, 3, 4)}


def test_what_an_old_owner_earned_reaches_nobody():
    delay = np.array([10, 10] + [0] * 14)
    stream = stream_of(np.full((16, 2), 0.5), delay=delay, newcomers={5: (1,)})
    agent = Scripted([[0], [1]] + [[1]] * 14)
    play(stream, agent, 1)
    assert agent.replaced == [(1,)]
    told = dict(zip(steps_told(agent), np.concatenate([rewards[:, 0] for _, _, rewards, _ in agent.told]), strict=True))
    assert told[0] == 0.5
    assert np.isnan(told[1])
    assert told[5] == 0.5


def drifted(first):
    """An outcome on a stream of drift whose first choices earned this."""
    first = np.asarray(first, np.float64)
    return Outcome(Stream("drift", np.zeros((len(first), 1)), np.zeros((len(first), 2)), half=600), first, first, first)


def test_recovery_counts_the_steps_until_the_last_200_earn_95_percent_of_before():
    # Of the last 200 at most 10 may earn nothing.
    assert drifted([1.0] * 600 + [0.0] * 130 + [1.0] * 470).figures()["recovered_after"] == 130 + 190
    assert drifted([1.0] * 1_200).figures()["recovered_after"] == WINDOW
    assert drifted([1.0] * 600 + [0.9] * 600).figures()["recovered_after"] is None
    # What came long before the change does not count.
    assert drifted([1.0] * 100 + [0.5] * 1_100).figures()["recovered_after"] == WINDOW


def test_only_drift_has_something_to_recover_from():
    assert "recovered_after" not in play(small_stream(), Scripted([[0]] * 400), 1).figures()
    assert "recovered_after" in play(drift(small_stream(), None), Scripted([[0]] * 400), 1).figures()


@pytest.mark.parametrize(
    ("asked_from", "every", "share", "after"),
    [(0, 1, 0.5, 50), (30, 1, 0.5, 80), (0, 2, 0.5, 99), (0, 4, 0.5, 197), (0, 5, 0.5, None), (10, 1, 0.0, 11)],
)
def test_adoption_counts_the_steps_until_the_newcomer_is_asked_half_as_often_as_it_should_be(
    asked_from, every, share, after
):
    stream = cold_arm(small_stream(steps=1_000), np.random.default_rng(0))
    choices = np.full((1_000, 2), [1, 2])
    choices[500 + asked_from :: every, 1] = 0
    outcome = play(stream, Scripted(choices), 2)
    assert outcome.figures(share)["adopted_after"] == after
    assert "adopted_after" not in outcome.figures()
