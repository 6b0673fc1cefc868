from __future__ import annotations

import numpy as np
import pytest

from deployments.latencies import Latencies, length_class


@pytest.mark.parametrize(
    ("tokens", "name"), [(2, "short"), (64, "short"), (65, "medium"), (256, "medium"), (257, "long"), (10**6, "long")]
)
def test_texts_are_told_apart_by_length(tokens: int, name: str) -> None:
    assert length_class(tokens) == name


def test_each_class_has_quantiles_of_its_last_texts() -> None:
    now_s = 0.0
    latencies = Latencies(lambda: now_s)
    assert latencies.describe()["long"] == {"texts": 0, "wait_p50": None, "wait_p99": None, "p50": None, "p99": None}
    for number in range(2000):
        latencies.note(10, number / 1000, 5 + number / 1000)
    latencies.note(1000, 1.0, 2.0)
    # What was told is told for a second.
    assert latencies.describe()["short"]["texts"] == 0
    now_s = 1.0
    described = latencies.describe()
    last = np.arange(2000 - 1024, 2000)
    assert described["short"] == {
        "texts": 2000,
        "wait_p50": pytest.approx(np.quantile(last, 0.5)),
        "wait_p99": pytest.approx(np.quantile(last, 0.99), abs=0.001),
        "p50": pytest.approx(5000 + np.quantile(last, 0.5)),
        "p99": pytest.approx(5000 + np.quantile(last, 0.99), abs=0.001),
    }
    assert described["long"] == {"texts": 1, "wait_p50": 1000.0, "wait_p99": 1000.0, "p50": 2000.0, "p99": 2000.0}
    assert described["medium"]["texts"] == 0


def test_what_was_reported_is_not_reported_again_and_does_not_pile_up() -> None:
    latencies = Latencies()
    latencies.note(10, 0.1, 0.2)
    latencies.note(100, 0.3, 0.4)
    assert latencies.take_unreported() == [("short", 0.1, 0.2), ("medium", 0.3, 0.4)]
    assert latencies.take_unreported() == []
    for number in range(5000):
        latencies.note(10, 0.0, number)
    assert latencies.take_unreported() == [("short", 0.0, number) for number in range(5000 - 4096, 5000)]
