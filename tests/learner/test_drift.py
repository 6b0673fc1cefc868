import subprocess
import sys

import numpy as np
import pytest

from learner.drift import DriftAlarm


def losses(mean, count, seed=0):
    return np.random.default_rng(seed).beta(1.0, 1.0 / mean - 1.0, count).tolist()


def feed(alarm, values, version=1):
    for place, value in enumerate(values):
        alarm.update([value], version + place)


def test_losses_that_stay_as_they_are_raise_no_alarm():
    alarm = DriftAlarm()
    feed(alarm, losses(0.1, 50_000))
    assert (alarm.alarms, alarm.active) == (0, False)
    assert alarm.describe() == {
        "active": False,
        "alarms": 0,
        "last_version": None,
        "loss_before": None,
        "loss_after": None,
    }


def test_learning_is_no_alarm():
    alarm = DriftAlarm()
    for mean in (0.4, 0.2, 0.1, 0.05):
        feed(alarm, losses(mean, 2_000))
    assert alarm.alarms == 0


def test_a_rise_is_one_and_says_when_and_how_far():
    alarm = DriftAlarm()
    feed(alarm, losses(0.1, 5_000))
    feed(alarm, losses(0.2, 1_000, seed=1), version=5_001)
    told = alarm.describe()
    assert told["active"]
    assert told["alarms"] >= 1
    assert 5_000 < told["last_version"] <= 6_000
    assert told["loss_before"] < told["loss_after"]
    assert told["loss_before"] == pytest.approx(0.1, abs=0.03)


def test_it_ends_when_the_rule_has_caught_up():
    alarm = DriftAlarm()
    feed(alarm, losses(0.1, 5_000))
    feed(alarm, losses(0.3, 1_000, seed=1))
    assert alarm.active
    feed(alarm, losses(0.1, 2_000, seed=2))
    assert not alarm.active
    assert alarm.alarms >= 1


def test_it_ends_when_that_has_become_usual():
    alarm = DriftAlarm()
    feed(alarm, losses(0.1, 5_000))
    feed(alarm, losses(0.3, 1_000, seed=1))
    assert alarm.active
    feed(alarm, losses(0.3, 6_000, seed=2))
    assert not alarm.active


def test_another_rules_losses_begin_anew_but_the_count_stays():
    alarm = DriftAlarm()
    feed(alarm, losses(0.1, 5_000))
    feed(alarm, losses(0.3, 1_000, seed=1))
    raised = alarm.alarms
    alarm.reset()
    assert (alarm.active, alarm.alarms) == (False, raised)
    feed(alarm, losses(0.6, 2_000, seed=2))
    assert alarm.alarms == raised


def test_what_only_serves_does_not_load_the_detector():
    program = (
        "import sys, deployments.replica; assert 'learner.drift' in sys.modules; assert 'river' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
