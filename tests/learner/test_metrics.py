"""What a real learner tells, with the parts that its actor has around it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from gating import MetagraphView
from learner.checkpoint import CheckpointStore
from learner.config import AdagradConfig, BittensorChain, ChainConfig, RosterChain
from learner.core import Learner
from learner.errors import ChainUnavailableError
from learner.events import Action
from learner.follower import ChainFollower
from learner.group_commit import GroupCommitter
from learner.housekeeping import Housekeeper
from learner.loop import Publisher
from learner.metrics import LEARNER_TABLE, LearnerMetrics, MetricsLoop
from learner.protocol import ReplicaStatus
from learner.schedule import FollowSchedule
from tests.instruments import Instruments

from .builders import START, Clock, act, build_learner, decide, decision, learn_all, reward
from .flaky_log import FlakyLog
from .test_comparison import build_gate, earns
from .test_follower import Source

CHAIN = BittensorChain(source="bittensor", netuid=1, resync_interval_s=10.0, call_timeout_s=1.0)


class Watched:
    """A learner and all that is told of it. Nothing runs by itself."""

    def __init__(self, learner: Learner, *, chain: ChainConfig, store: CheckpointStore | None = None) -> None:
        def crash() -> None:
            raise AssertionError("nothing may crash here")

        self.learner = learner
        self.published: list[int] = []
        self.replicas: list[ReplicaStatus] = []
        self.source = Source(START)
        self.clock = Clock()
        self.follower = ChainFollower(
            self.source, FollowSchedule(interval_s=10.0, chance=lambda: 1.0), on_crash=crash, clock=self.clock
        )
        self.committer = GroupCommitter(
            learner, tick_s=1.0, on_commit=lambda: None, on_fenced=lambda: None, on_crash=crash
        )
        self.housekeeper = Housekeeper(learner, store, application="app", clock=Clock(), on_crash=crash)
        self.publisher = Publisher(
            learner,
            publish=lambda snapshot: self.published.append(snapshot.version),
            interval_s=lambda: 0.0,
            on_crash=crash,
        )
        self.instruments = Instruments(application="gate")
        self.metrics = LearnerMetrics(
            learner=learner,
            publisher=self.publisher,
            committer=self.committer,
            housekeeper=self.housekeeper,
            follower=self.follower,
            chain=chain,
            replicas=lambda: self.replicas,
            published_version=lambda: self.published[-1] if self.published else None,
            app="gate",
            instruments=self.instruments.namespace(),
        )

    def told(self) -> dict[str, float]:
        """Everything that is told, without the name that all have in common."""
        self.metrics.report()
        return {name.removeprefix("tidegate_"): value for name, value in self.instruments.values.items()}


def watch(*, chain: ChainConfig = CHAIN, store: CheckpointStore | None = None, **settings: Any) -> Watched:
    return Watched(build_learner(store=store, **settings), chain=chain, store=store)


def replica(name: str, version: int) -> ReplicaStatus:
    return ReplicaStatus(name, 1, name, 0, 1, version, 0.0, 0, 0, 0)


def test_every_metric_is_described_once_and_by_the_conventions() -> None:
    names = [metric.name for metric in LEARNER_TABLE]
    assert len(set(names)) == len(names)
    for metric in LEARNER_TABLE:
        assert metric.name.startswith("tidegate_")
        assert not metric.name.endswith(("_total", "_ms", "_s", "_mb"))
        assert metric.help.endswith(".")


def test_what_comes_of_decisions_and_rewards_is_counted() -> None:
    watched = watch()
    learner = watched.learner
    decide(learner, decision("r-1", (0, 1)), decision("r-2", (2, 3)))
    learner.add_rewards([reward("r-1", {0: 1.0, 1: 0.0}), reward("r-9", {0: 1.0}), reward("r-1", {0: 0.5})])
    told = watched.told()
    assert (told["learner_lag_events"], told["learner_version"]) == (1, 0)
    learn_all(learner)
    told = watched.told()
    assert (told["decisions"], told["decisions_joined"]) == (2, 1)
    rewards = {name: value for name, value in told.items() if name.startswith("rewards")}
    assert rewards == {
        "rewards{outcome=accepted}": 2,
        "rewards{outcome=duplicate}": 1,
        "rewards{outcome=unknown_decision}": 1,
    }
    assert (told["learner_lag_events"], told["learner_version"]) == (0, 1)
    assert told["moving_reward"] == 0.5
    assert told["moving_loss"] > 0
    assert told["rule_moving_loss{rule=softmax_mse}"] == told["moving_loss"]
    assert (told["drift_active"], told.get("drift_alarms")) == (0, None)


def test_drift_is_told_and_no_alarm_of_an_earlier_life_is_counted_again() -> None:
    learner = build_learner(rule_config=AdagradConfig())
    drift = learner.progress.drift
    drift.update([0.1] * 600 + [0.9] * 100, 1)
    assert drift.alarms >= 1
    watched = Watched(learner, chain=CHAIN)
    told = watched.told()
    assert (told["drift_active"], told.get("drift_alarms")) == (1, None)
    drift.alarms += 1
    assert watched.told()["drift_alarms"] == 1


def test_what_each_rule_would_have_earned_is_told_once_it_is_known() -> None:
    gate = build_gate()
    watched = Watched(gate.learner, chain=CHAIN)
    gate.run(50, every=10)
    gate.learner.compare()
    told = watched.told()
    assert told["rule_moving_loss{rule=adagrad}"] > 0
    assert not [name for name in told if name.startswith("rule_would_earn")]
    gate.run(200, every=10)
    gate.learner.compare()
    told = watched.told()
    for rule in ("pooled_ridge", "adagrad", "softmax_mse"):
        assert told[f"rule_would_earn{{rule={rule}}}"] == earns(gate, rule)["value"]


def test_what_others_would_have_earned_is_told_once_it_can_be_estimated() -> None:
    gate = build_gate()
    watched = Watched(gate.learner, chain=CHAIN)
    assert not [name for name in watched.told() if name.startswith(("earned_reward", "baseline_reward"))]
    gate.run(250, every=10)
    gate.learner.compare()
    told, baselines = watched.told(), gate.learner.describe()["baselines"]
    assert told["earned_reward"] == baselines["earned"]["value"]
    for name in ("random", "best_fixed"):
        assert told[f"baseline_reward{{baseline={name}}}"] == baselines[name]["value"]
        assert baselines[name]["value"] is not None


def test_what_is_held_is_told_by_reason_until_it_is_settled() -> None:
    watched = watch()
    act(watched.learner, Action.FREEZE)
    decide(watched.learner, decision("r-1"))
    watched.learner.add_rewards([reward("r-1", {0: 1.0})])
    learn_all(watched.learner)
    told = watched.told()
    assert told["learner_frozen"] == 1
    assert told["quarantined_events{reason=frozen}"] == 1
    assert told["quarantined_events{reason=non_finite}"] == 0
    act(watched.learner, Action.THAW)
    told = watched.told()
    assert (told["learner_frozen"], told["quarantined_events{reason=frozen}"]) == (0, 0)


def test_versions_of_replicas_and_publishes_are_told() -> None:
    watched = watch()
    assert "published_version" not in watched.told()
    watched.publisher.start()
    watched.publisher.stop()
    watched.replicas = [replica("a", 12), replica("b", 5)]
    told = watched.told()
    assert (told["published_version"], told["replicas"], told["version_skew_events"]) == (0, 2, 7)
    assert len(watched.instruments.observed["tidegate_publish_duration_seconds"]) == 1
    watched.replicas = []
    assert (watched.told()["replicas"], watched.told()["version_skew_events"]) == (0, 0)


def test_a_resync_and_the_rows_that_it_reset_are_counted() -> None:
    watched = watch()
    view = MetagraphView.from_hotkeys(["a", "X", "Y", "d", "e", "f", "g"], block=2)
    watched.learner.resync(view)
    told = watched.told()
    assert (told["resyncs"], told["rows_reset"], told["network_uids"]) == (1, 2, 7)
    assert told["network_available_uids"] == 7


def test_the_age_of_the_chain_s_view_is_told_with_what_is_usual_and_why_it_grows() -> None:
    watched = watch()
    watched.follower.first_view(0.0)
    watched.clock.now_s = 7.0
    told = watched.told()
    assert told["chain_block"] == START.block
    # Every 10 s, and three calls of a second each.
    assert (told["chain_view_age_seconds"], told["chain_view_age_limit_seconds"]) == (7.0, 13.0)
    assert not [name for name in told if name.startswith("chain_read")]
    watched.source.answer = ChainUnavailableError("no node")
    with pytest.raises(ChainUnavailableError):
        watched.follower.first_view(0.0)
    told = watched.told()
    assert (told["chain_read_failing{cause=ChainUnavailableError}"], told["chain_read_failures"]) == (1, 1)
    watched.source.answer = START
    watched.follower.first_view(0.0)
    assert watched.told()["chain_read_failing{cause=ChainUnavailableError}"] == 0


def test_blocks_are_reckoned_in_seconds() -> None:
    watched = watch(chain=BittensorChain(source="bittensor", netuid=1))
    assert watched.told()["chain_view_age_limit_seconds"] == 25 * 12 + 3 * 30


def test_a_roster_has_no_age() -> None:
    watched = watch(chain=RosterChain())
    watched.follower.first_view(0.0)
    assert not [name for name in watched.told() if name.startswith("chain_")]


def test_checkpoints_and_what_they_lack_are_told(tmp_path: Path) -> None:
    watched = watch(store=CheckpointStore(str(tmp_path), keep=2), checkpoints={"interval_s": 30})
    act(watched.learner, Action.CHECKPOINT)
    told = watched.told()
    assert (told["checkpoint_unsaved_events"], told["checkpoint_interval_seconds"]) == (1, 30)
    watched.housekeeper.save()
    told = watched.told()
    assert (told["checkpoint_unsaved_events"], told["checkpoint_failing"]) == (0, 0)
    assert 0 <= told["checkpoint_age_seconds"] < 20


def test_a_log_in_memory_has_no_checkpoints() -> None:
    assert not [name for name in watch().told() if name.startswith("checkpoint")]


def test_the_size_of_the_log_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch()
    decide(watched.learner, decision("r-1"), decision("r-2"))
    watched.learner.add_rewards([reward("r-1", {0: 1.0})])
    told = watched.told()
    assert (told["log_rows{table=events}"], told["log_rows{table=decisions}"]) == (1, 2)
    assert "log_bytes" not in told, "a log in memory does not know"
    watched.learner.add_rewards([reward("r-2", {0: 1.0})])
    assert watched.told()["log_rows{table=events}"] == 1
    monkeypatch.setattr(watched.metrics, "_size_due_s", 0.0)
    assert watched.told()["log_rows{table=events}"] == 2


def test_a_log_that_is_away_is_told_and_everything_else_as_well() -> None:
    log = FlakyLog()
    watched = watch(log=log)
    assert watched.told()["log_failing"] == 0
    log.down = True
    watched.metrics._size_due_s = 0.0
    watched.committer.last_error = "the line is down"
    told = watched.told()
    assert (told["log_failing"], told["learner_version"]) == (1, 0)


def test_the_loop_reports_again_and_again_whatever_goes_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("learner.metrics.REPORT_EVERY_S", 0.001)
    reports, enough = [], threading.Event()

    def report() -> None:
        reports.append(None)
        if len(reports) == 1:
            raise ValueError("once")
        if len(reports) == 3:
            enough.set()

    loop = MetricsLoop(report)
    loop.start()
    assert enough.wait(20)
    loop.stop()
    assert not loop.is_alive()
    assert "metrics_failed" in caplog.text
