"""What the learner tells in Ray's metrics, see docs/metrics.md. No ray here: the instruments are passed in."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from .config import ChainConfig, RosterChain
from .core import Learner
from .errors import LogError
from .follower import ChainFollower, longest_age_s
from .group_commit import GroupCommitter
from .housekeeping import Housekeeper
from .loop import Publisher
from .meters import REPORT_EVERY_S, SECONDS, Meters, Metric
from .protocol import ReplicaStatus

logger = logging.getLogger(__name__)

_REWARDS = "rewards_"
_SIZE_EVERY_S = 10.0

LEARNER_TABLE = (
    Metric("tidegate_learner_epoch", "gauge", "The learner's epoch."),
    Metric("tidegate_learner_version", "gauge", "The last version that was learned."),
    Metric("tidegate_learner_lag_events", "gauge", "Events that are logged and not learned yet."),
    Metric("tidegate_learner_frozen", "gauge", "1 while an operator has stopped learning."),
    Metric("tidegate_moving_reward", "gauge", "Mean reward of the last 500 learned events."),
    Metric("tidegate_earned_reward", "gauge", "Mean reward of the events that the baselines are estimated from."),
    Metric("tidegate_baseline_reward", "gauge", "What others would have earned on them.", ("baseline",)),
    Metric("tidegate_moving_loss", "gauge", "Mean loss of the last 500 learned events, each before its step."),
    Metric("tidegate_rule_moving_loss", "gauge", "The same of each rule, the shadows too.", ("rule",)),
    Metric("tidegate_rule_would_earn", "gauge", "What each rule would have earned, with shadows.", ("rule",)),
    Metric("tidegate_drift_active", "gauge", "1 while losses have risen beyond chance and not come down."),
    Metric("tidegate_drift_alarms", "counter", "Times that losses have risen beyond chance."),
    Metric("tidegate_decisions", "counter", "Decisions that reached the log."),
    Metric("tidegate_decisions_joined", "counter", "Of them those for which a reward came in time."),
    Metric("tidegate_rewards", "counter", "Rewards of single uids, by what became of them.", ("outcome",)),
    Metric("tidegate_quarantined_events", "gauge", "Rewards that are held, by reason.", ("reason",)),
    Metric("tidegate_quarantined_authors", "gauge", "Authors whose rewards are held."),
    Metric("tidegate_published_version", "gauge", "The newest version that replicas can have."),
    Metric("tidegate_publish_duration_seconds", "histogram", "Time to build a version and publish it.", (), SECONDS),
    Metric("tidegate_replicas", "gauge", "Replicas that poll the learner."),
    Metric("tidegate_version_skew_events", "gauge", "Between the newest and the oldest version of these replicas."),
    Metric("tidegate_resyncs", "counter", "Times that the network was read and followed."),
    Metric("tidegate_rows_reset", "counter", "Rows that started afresh for a new owner."),
    Metric("tidegate_network_uids", "gauge", "Uids of the network."),
    Metric("tidegate_network_available_uids", "gauge", "Of them those that may be selected."),
    Metric("tidegate_chain_block", "gauge", "The block of the view in use."),
    Metric("tidegate_chain_view_age_seconds", "gauge", "Since the network was last read well."),
    Metric("tidegate_chain_view_age_limit_seconds", "gauge", "The age that is usual at most."),
    Metric("tidegate_chain_read_failures", "counter", "Times that the network could not be read."),
    Metric("tidegate_chain_read_failing", "gauge", "1 while the network cannot be read, by cause.", ("cause",)),
    Metric("tidegate_checkpoint_age_seconds", "gauge", "Since the last checkpoint, or the start without one."),
    Metric("tidegate_checkpoint_interval_seconds", "gauge", "The longest that is meant to lie between two."),
    Metric("tidegate_checkpoint_unsaved_events", "gauge", "Events learned since the last checkpoint."),
    Metric("tidegate_checkpoint_failing", "gauge", "1 while a checkpoint cannot be written."),
    Metric("tidegate_log_failing", "gauge", "1 while the log cannot be written."),
    Metric("tidegate_log_rows", "gauge", "Rows in the log, by table.", ("table",)),
    Metric("tidegate_log_bytes", "gauge", "What the log takes."),
    Metric("tidegate_log_pruned_rows", "counter", "Rows that went from the log since they were too old."),
)


class LearnerMetrics:
    """Takes over a learner's figures.

    Args:
        learner: the learner.
        publisher: publishes.
        committer: writes the log.
        housekeeper: writes checkpoints.
        follower: follows the network.
        chain: where the network is from.
        replicas: what those that poll have told of themselves.
        published_version: the newest version that they can have, None before any.
        app: the application's name, a tag of every metric.
        instruments: has `Gauge`, `Counter` and `Histogram`.
    """

    def __init__(
        self,
        *,
        learner: Learner,
        publisher: Publisher,
        committer: GroupCommitter,
        housekeeper: Housekeeper,
        follower: ChainFollower,
        chain: ChainConfig,
        replicas: Callable[[], Sequence[ReplicaStatus]],
        published_version: Callable[[], int | None],
        app: str,
        instruments: Any,
    ) -> None:
        self._learner = learner
        self._publisher = publisher
        self._committer = committer
        self._housekeeper = housekeeper
        self._follower = follower
        self._chain = chain
        self._replicas = replicas
        self._published_version = published_version
        self._meters = Meters(instruments, LEARNER_TABLE, {"application": app})
        # A replay raises the alarms again that an earlier life has told of.
        self._meters.begin_at("tidegate_drift_alarms", learner.progress.drift.alarms)
        self._size_due_s = 0.0

    def report(self) -> None:
        """Take over the figures as they are now."""
        told = self._learner.describe()
        self._report_learning(told)
        self._report_rewards(told)
        self._report_publishing()
        self._report_network()
        self._report_storage()

    def _report_learning(self, told: dict[str, Any]) -> None:
        meters = self._meters
        meters.set("tidegate_learner_epoch", told["epoch"])
        meters.set("tidegate_learner_version", told["version"])
        meters.set("tidegate_learner_lag_events", max(told["events_logged"] - told["events_applied"], 0))
        meters.set("tidegate_learner_frozen", told["frozen"])
        meters.set("tidegate_moving_reward", told["moving_reward"])
        meters.set("tidegate_earned_reward", told["baselines"]["earned"]["value"])
        for baseline in ("random", "best_fixed"):
            meters.set("tidegate_baseline_reward", told["baselines"][baseline]["value"], baseline=baseline)
        meters.set("tidegate_moving_loss", told["moving_loss"])
        meters.set("tidegate_drift_active", told["drift"]["active"])
        meters.count("tidegate_drift_alarms", told["drift"]["alarms"])
        for label, rule in told["rules"].items():
            meters.set("tidegate_rule_moving_loss", rule["moving_loss"], rule=label)
            meters.set("tidegate_rule_would_earn", (rule["would_earn"] or {}).get("value"), rule=label)

    def _report_rewards(self, told: dict[str, Any]) -> None:
        meters, counters = self._meters, told["counters"]
        meters.count("tidegate_decisions", counters.get("decisions", 0))
        meters.count("tidegate_decisions_joined", counters.get("decisions_joined", 0))
        for name, count in counters.items():
            if name.startswith(_REWARDS):
                meters.count("tidegate_rewards", count, outcome=name.removeprefix(_REWARDS))
        meters.set_each("tidegate_quarantined_events", "reason", told["quarantine"])
        meters.set("tidegate_quarantined_authors", len(told["trust"]["quarantined"]))

    def _report_publishing(self) -> None:
        meters, versions = self._meters, [status.version for status in self._replicas()]
        meters.set("tidegate_published_version", self._published_version())
        meters.observe("tidegate_publish_duration_seconds", self._publisher.take_durations_s())
        meters.set("tidegate_replicas", len(versions))
        meters.set("tidegate_version_skew_events", max(versions, default=0) - min(versions, default=0))

    def _report_network(self) -> None:
        meters, view, counters = self._meters, self._learner.view, self._learner.counters
        meters.count("tidegate_resyncs", counters["resyncs"])
        meters.count("tidegate_rows_reset", counters["rows_reset"])
        meters.set("tidegate_network_uids", view.n)
        meters.set("tidegate_network_available_uids", sum(view.available))
        if isinstance(self._chain, RosterChain):
            # It is read on request only, and is not stale for being left alone.
            return
        told = self._follower.describe()
        meters.set("tidegate_chain_block", told["block"])
        meters.set("tidegate_chain_view_age_seconds", told["block_age_s"])
        meters.set("tidegate_chain_view_age_limit_seconds", longest_age_s(self._chain))
        meters.count("tidegate_chain_read_failures", told["failures"])
        cause = told["last_cause"]
        meters.set_each("tidegate_chain_read_failing", "cause", {} if cause is None else {cause: 1.0})

    def _report_storage(self) -> None:
        meters, saved = self._meters, self._housekeeper.describe()
        meters.set("tidegate_log_failing", self._committer.last_error is not None)
        meters.count("tidegate_log_pruned_rows", saved["pruned_rows"])
        if self._housekeeper.saves:
            meters.set("tidegate_checkpoint_age_seconds", self._housekeeper.unsaved_for_s)
            meters.set("tidegate_checkpoint_interval_seconds", self._learner.config.checkpoints.interval_s)
            meters.set("tidegate_checkpoint_unsaved_events", self._housekeeper.unsaved_events)
            meters.set("tidegate_checkpoint_failing", saved["last_error"] is not None)
        if (now_s := time.monotonic()) >= self._size_due_s:
            self._size_due_s = now_s + _SIZE_EVERY_S
            self._report_size()

    def _report_size(self) -> None:
        try:
            size = self._learner.log.size()
        except LogError as error:
            # Whether it can be written is told by another metric.
            logger.debug("log_size_unknown error=%s", error)
            return
        for table, rows in size.rows.items():
            self._meters.set("tidegate_log_rows", rows, table=table)
        self._meters.set("tidegate_log_bytes", size.bytes)


class MetricsLoop(threading.Thread):
    """Reports again and again. What goes wrong here is logged, and keeps nobody from learning.

    Args:
        report: see `LearnerMetrics.report`.
    """

    def __init__(self, report: Callable[[], None]) -> None:
        super().__init__(name="metrics", daemon=True)
        self._report = report
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End; returns when that is done."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """The thread's body."""
        while not self._stopping.wait(REPORT_EVERY_S):
            try:
                self._report()
            except Exception:
                logger.exception("metrics_failed")
