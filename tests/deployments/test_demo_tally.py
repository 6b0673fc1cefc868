from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.client import Rejected, Reward, RewardReport, Weights
from deployments.demo_tally import CTRL_C, MOVING_WINDOW, Tally, close_books, mean
from deployments.exit_codes import FAILED, INTERRUPTED, OK

from .fake_gate import build_table


def report(accepted: int = 0, *rejected: Rejected, weights: Weights | None = None) -> RewardReport:
    return RewardReport(accepted, 0, rejected, weights, version=None, reached=True)


def test_the_books_of_nothing_are_empty() -> None:
    result = close_books(Tally(), build_table().take([]), k=2, seed=0, stopped=None)
    assert (result.prompts, result.first_choice_mean, result.best_fixed_model, result.version) == (0, None, None, None)
    assert (result.select_p50_ms, result.prompts_per_s) == (None, 0.0)


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=600))
def test_first_choices_and_all_choices_are_booked_apart(rows: list[list[float]]) -> None:
    tally = Tally()
    for row in rows:
        tally.record([Reward(range(len(row)), row, decision_id="r")], report(), Weights(1, 0), 0.1)
    assert tally.prompts == len(rows)
    assert tally.first_choices == [row[0] for row in rows]
    assert tally.moving == [row[0] for row in rows][-MOVING_WINDOW:]
    assert tally.choices == sum(map(len, rows))
    assert tally.choices_sum == pytest.approx(sum(map(sum, rows)))


def test_a_rejected_item_takes_all_of_its_rewards_with_it_and_a_rejected_uid_only_its_own() -> None:
    tally = Tally()
    rewards = [Reward([1, 2, 3], [0.5] * 3, decision_id="a"), Reward([4, 5], [0.5] * 2, decision_id="b")]
    refusals = [Rejected(0, "unknown_decision", "?"), Rejected(1, "stale_hotkey", "?", uid=5)]
    tally.record(rewards, report(1, *refusals), Weights(1, 0), 0.1)
    assert tally.accepted == 1
    assert tally.rejected_codes == {"unknown_decision": 3, "stale_hotkey": 1}


def test_the_version_is_that_of_the_newest_epoch_seen() -> None:
    tally = Tally()
    for weights, published in ((Weights(1, 50), Weights(1, 60)), (Weights(2, 3), None), (Weights(1, 70), None)):
        tally.record([], report(weights=published), weights, 0.1)
    assert tally.version == 3


@given(st.lists(st.floats(0.001, 10), min_size=1))
def test_latencies_are_nearest_ranks_in_whatever_order_they_came(latencies_s: list[float]) -> None:
    tally = Tally()
    for latency_s in latencies_s:
        tally.record([], report(), Weights(1, 0), latency_s)
    assert tally.latency_ms(0.0) == pytest.approx(min(latencies_s) * 1000)
    assert tally.latency_ms(0.5) == pytest.approx(sorted(latencies_s)[len(latencies_s) // 2] * 1000)
    assert tally.latency_ms(1.0) == pytest.approx(max(latencies_s) * 1000)


@pytest.mark.parametrize(("stopped", "code"), [(None, OK), (CTRL_C, INTERRUPTED), ("no answer", FAILED)])
def test_the_exit_code_says_how_a_run_ended(stopped: str | None, code: int) -> None:
    assert close_books(Tally(), build_table().take([]), k=1, seed=0, stopped=stopped).exit_code == code


def test_the_mean_of_nothing_is_none() -> None:
    assert mean([]) is None
    assert mean([0.25, 0.75]) == 0.5
