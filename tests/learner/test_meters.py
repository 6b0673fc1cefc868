from __future__ import annotations

import pytest

from learner.meters import Meters, Metric
from tests.instruments import Instruments

TABLE = (
    Metric("a", "gauge", "A gauge."),
    Metric("b", "gauge", "A gauge by cause.", ("cause",)),
    Metric("c", "counter", "A counter."),
    Metric("d", "counter", "A counter by cause.", ("cause",)),
    Metric("e", "histogram", "A histogram.", (), (1.0, 2.0)),
)


@pytest.fixture
def instruments() -> Instruments:
    return Instruments(application="gate")


@pytest.fixture
def meters(instruments: Instruments) -> Meters:
    return Meters(instruments.namespace(), TABLE, {"application": "gate"})


def test_there_is_an_instrument_for_each_metric(meters: Meters, instruments: Instruments) -> None:
    assert instruments.declared == {metric.name: metric.kind for metric in TABLE}
    assert [metric.scraped_name for metric in TABLE] == ["ray_a", "ray_b", "ray_c_total", "ray_d_total", "ray_e"]


def test_a_gauge_of_which_nothing_is_known_stays_as_it_was(meters: Meters, instruments: Instruments) -> None:
    meters.set("a", None)
    assert instruments.values == {}
    meters.set("a", True)
    meters.set("a", None)
    assert instruments.values == {"a": 1.0}


def test_what_is_no_longer_among_a_gauge_s_values_goes_to_0(meters: Meters, instruments: Instruments) -> None:
    meters.set_each("b", "cause", {"away": 1.0})
    meters.set_each("b", "cause", {"old": 2.0})
    assert instruments.values == {"b{cause=away}": 0.0, "b{cause=old}": 2.0}
    meters.set_each("b", "cause", {})
    assert instruments.values == {"b{cause=away}": 0.0, "b{cause=old}": 0.0}


def test_a_counter_is_told_the_total_and_passes_on_what_is_new(meters: Meters, instruments: Instruments) -> None:
    for total in (0, 3, 3, 5):
        meters.count("c", total)
    meters.count("d", 2, cause="x")
    meters.count("d", 7, cause="y")
    meters.count("d", 3, cause="x")
    assert instruments.values == {"c": 5, "d{cause=x}": 3, "d{cause=y}": 7}


def test_a_counter_does_not_count_again_what_an_earlier_life_has_told(meters: Meters, instruments: Instruments) -> None:
    meters.begin_at("c", 4)
    meters.count("c", 4)
    assert instruments.values == {}
    meters.count("c", 6)
    assert instruments.values == {"c": 2}


def test_a_histogram_gets_every_value(meters: Meters, instruments: Instruments) -> None:
    meters.observe("e", [0.5, 1.5])
    assert instruments.observed == {"e": [0.5, 1.5]}
