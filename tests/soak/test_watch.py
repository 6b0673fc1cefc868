from __future__ import annotations

import pytest

from .watch import WARM_UP_S, Life

FULL_S = 200.0


def life(full_s: float, *, until_s: float = 500.0) -> Life:
    """Grows by 6 MiB a minute until it is full, by 0.6 after that, and opens a file each minute."""
    times_s = [float(at_s) for at_s in range(0, int(until_s), 2)]
    samples = [(at_s, min(at_s, FULL_S) / 10 + max(at_s - FULL_S, 0.0) / 100, int(at_s / 60)) for at_s in times_s]
    return Life("replica", samples, full_s)


def test_growth_is_that_of_the_time_in_which_nothing_fills_up_any_more() -> None:
    told = life(FULL_S).describe()
    assert told["rss_mib_per_minute"] == pytest.approx(0.6)
    assert told["files_per_minute"] == pytest.approx(1.0, abs=0.1)
    assert (told["lived_s"], told["watched_s"]) == (498, 298)


def test_without_that_it_is_all_but_the_first_minute() -> None:
    assert life(0.0).watched_s == pytest.approx(498 - WARM_UP_S)
    assert 0.6 < float(life(0.0).describe()["rss_mib_per_minute"]) < 6


def test_who_has_ended_before_was_not_watched() -> None:
    assert life(FULL_S, until_s=100.0).watched_s == 0
    assert life(FULL_S, until_s=100.0).describe()["rss_mib"] == 10
