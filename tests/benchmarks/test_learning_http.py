import json
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from benchmarks.learning_http import differences, kept, play_over_http, said
from deployments.client import Selection

from .worlds import small_stream


class FakeGate:
    """Chooses the uids 3 and 1 for everything, and keeps what it was asked and told."""

    def __init__(self, **report):
        self.asked, self.told, self.answer = [], [], report

    def select(self, messages, *, k, uids, explore):
        self.asked.append((messages, k, list(uids), explore))
        selections = [
            Selection(f"{len(self.asked)}-{place}", (3, 1), (0.5, 0.4), (1.0, 1.0)) for place in range(len(messages))
        ]
        return SimpleNamespace(selections=tuple(selections))

    def report(self, rewards, *, wait):
        self.told.append((rewards, wait))
        count = sum(len(reward.uids) for reward in rewards)
        return SimpleNamespace(**{"rejected": (), "accepted": count, "reached": True, "version": 7, **self.answer})


def test_the_texts_are_sent_in_order_eight_at_a_time_and_rewarded_with_what_the_chosen_earn():
    stream, gate = small_stream(steps=20), FakeGate()
    outcome = play_over_http(gate, stream, [f"text {step}" for step in range(20)], 2, Console(quiet=True))
    assert [len(messages) for messages, *_ in gate.asked] == [8, 8, 4]
    assert [text for messages, *_ in gate.asked for text in messages] == [f"text {step}" for step in range(20)]
    assert {(k, tuple(uids), explore) for _, k, uids, explore in gate.asked} == {(2, (0, 1, 2, 3, 4), True)}
    assert {wait for _, wait in gate.told} == {"published"}
    told = [reward for rewards, _ in gate.told for reward in rewards]
    np.testing.assert_array_equal([reward.rewards for reward in told], stream.rewards[:, [3, 1]])
    assert told[9].decision_id == "2-1"
    assert outcome.figures()["first"] == pytest.approx(stream.rewards[:, 3].mean())


def test_rewards_that_are_not_taken_end_it():
    stream = small_stream(steps=8)
    with pytest.raises(RuntimeError, match="15 of 16 rewards were taken"):
        play_over_http(FakeGate(accepted=15), stream, [""] * 8, 2, Console(quiet=True))
    with pytest.raises(RuntimeError, match="version 7 was not published in time"):
        play_over_http(FakeGate(reached=False), stream, [""] * 8, 2, Console(quiet=True))


def test_a_difference_is_over_http_less_offline():
    runs = [{"over_http": {"first": 0.6}, "offline": {"first": 0.5}}]
    assert differences(runs, "first") == [pytest.approx(0.1)]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((0.005, 0.02), "within 0.005"),
        ((-0.005, None), "within 0.005"),
        ((0.02, 0.01), "beyond 0.005, which so few seeds cannot tell from chance"),
        ((0.02, None), "beyond 0.005, which so few seeds cannot tell from chance"),
        ((-0.03, 0.01), "beyond 0.005, which is no chance"),
    ],
)
def test_a_difference_is_judged_with_its_noise(found, words):
    assert said({"first": found, "all": (0.0, 0.0)}) == words


def test_runs_of_other_settings_are_not_kept(tmp_path):
    path, settings = tmp_path / "learning-http.json", {"rule": "adagrad", "dtype": "fp32", "steps": None}
    assert kept(path, settings) == {}
    path.write_text(json.dumps({**settings, "cases": {"llmrouter:1": [{"seed": 10}]}}), encoding="utf-8")
    assert kept(path, settings) == {"llmrouter:1": [{"seed": 10}]}
    assert kept(path, {**settings, "dtype": "auto"}) == {}
