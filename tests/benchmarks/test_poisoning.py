import numpy as np
import pytest

from benchmarks.poisoning import Attack, measure, reports, summary

from .worlds import small_stream


def test_liars_report_the_contrary_and_the_others_the_truth():
    stream = small_stream()
    author = np.arange(stream.steps) % 4
    told = reports(stream, author, Attack(4, 1))
    assert np.array_equal(told[author > 0], stream.rewards[author > 0])
    assert np.array_equal(told[author == 0], 1.0 - stream.rewards[author == 0])
    smeared = reports(stream, author, Attack(4, 2, "smear"))
    assert np.array_equal(smeared[author < 2, 0], 1.0 - stream.rewards[author < 2, 0])
    assert np.array_equal(smeared[:, 1:], stream.rewards[:, 1:])
    assert np.array_equal(reports(stream, author, None), stream.rewards)


@pytest.mark.parametrize("rule", ["adagrad", "pooled_ridge"])
def test_a_liar_of_three_is_found_nobody_else_is_and_less_is_lost(rule):
    figures = measure(small_stream(steps=600), rule, Attack(3, 1), 2, 0)
    assert set(figures["poisoned_found_after"]) == {"author-0"}
    assert figures["poisoned_honest_quarantined"] == figures["clean_honest_quarantined"] == []
    lost, left = (figures["clean"] - figures[name] for name in ("poisoned", "poisoned_guarded"))
    assert lost > 0.0
    assert left < 0.7 * lost


def test_what_was_played_without_liars_is_not_played_again_for_the_next_attack():
    stream, clean = small_stream(steps=80), {}
    figures = measure(stream, "adagrad", Attack(3, 1), 2, 0, clean)
    assert measure(stream, "adagrad", Attack(3, 1), 2, 0) == figures
    clean[0, 3] = {**clean[0, 3], "clean": 5.0}
    assert measure(stream, "adagrad", Attack(3, 1), 2, 0, clean) == {**figures, "clean": 5.0}
    assert measure(stream, "adagrad", Attack(4, 1), 2, 0, clean)["clean"] != 5.0


def test_the_summary_says_what_part_of_the_loss_is_left():
    one = {"set": "s", "rule": "r", "attack": "a", "clean": 0.8, "clean_guarded": 0.8}
    results = [{**one, "poisoned": 0.6, "poisoned_guarded": 0.75}, {**one, "poisoned": 0.4, "poisoned_guarded": 0.75}]
    [row] = summary(results)
    assert row["loss"] == pytest.approx(0.3)
    assert row["ratio"] == pytest.approx(0.05 / 0.3)
    [row] = summary([{**one, "poisoned": 0.9, "poisoned_guarded": 0.75}])
    assert row["ratio"] is None
