"""The Ray actor around `core.Learner`: the one writer of an application. The only ray import in this package.

Polls, reports and operator calls have concurrency groups of their own, so that a thousand waiting polls hold up
no report. Each group runs its coroutines on an event loop in a thread of its own; the learner locks itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch
from ray.util.metrics import Gauge

from gating.metagraph import MetagraphView

from .chain import build_source
from .config import ChainConfig, LearnerConfig
from .core import ExplainedDecision, Learner, ResyncSummary
from .errors import ConfigMismatchError, DecisionPendingError, EncoderMismatchError
from .event_log import MemoryEventLog
from .events import DecisionBatch, PollReply, ReplicaStatus, RewardItem, RewardReply, RewardReport, Wait
from .follower import ChainFollower, build_schedule
from .loop import LearningLoop
from .nonces import NonceStore, NonceVerdict
from .rules import build_rule
from .signals import Signal
from .state import HeadSnapshot

logger = logging.getLogger(__name__)

NAMESPACE = "tidegate"
CONCURRENCY_GROUPS = {"polls": 4096, "reports": 1024, "operator": 16}
_REPLIES_PER_S = 2000
_LIVE_HEARTBEATS = 3
_FIRST_VIEW_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class LearnerArgs:
    """Everything that a learner is created from. Two with different digests cannot stand for each other."""

    app: str
    chain: ChainConfig
    config: LearnerConfig
    dim: int
    fingerprint: str


@dataclass(slots=True)
class _Published:
    snapshot: HeadSnapshot
    ref: Any


class _ChainGauges:
    """How old the view of the network is and why, for whoever watches Ray's metrics (there `ray_tidegate_...`)."""

    def __init__(self, app: str) -> None:
        self._tags = {"application": app}
        self._age_s = Gauge(
            "tidegate_chain_view_age_seconds", "Since the network was last read well.", ("application",)
        )
        self._failing = Gauge(
            "tidegate_chain_read_failing", "1 while the network cannot be read, by cause.", ("application", "cause")
        )
        self._cause: str | None = None

    def set(self, chain: dict[str, Any]) -> None:
        """Take over what the follower tells of itself."""
        self._age_s.set(chain["block_age_s"], self._tags)
        cause = chain["last_cause"]
        if self._cause is not None and self._cause != cause:
            self._failing.set(0, {**self._tags, "cause": self._cause})
        if cause is not None:
            self._failing.set(1, {**self._tags, "cause": cause})
        self._cause = cause


class LearnerActor:
    """One application's learner. See `LearnerArgs`."""

    def __init__(self, args: LearnerArgs) -> None:
        # The learning thread is one core's work; more threads would only take from the replicas.
        torch.set_num_threads(1)
        self._args = args
        config = args.config
        # Either thread ends the process if it cannot go on: Ray starts the actor again.
        self._follower = ChainFollower(
            build_source(args.chain), build_schedule(args.chain), on_crash=lambda: os._exit(1)
        )
        self._learner = Learner(
            config=config,
            rule=build_rule(config.rule),
            view=self._follower.first_view(_FIRST_VIEW_PATIENCE_S),
            dim=args.dim,
            fingerprint=args.fingerprint,
            log=MemoryEventLog(started_at_ms=time.time_ns() // 1_000_000),
            clock=time.monotonic,
            on_hotkey_swap=args.chain.on_hotkey_swap,
        )
        self._nonces = NonceStore(clock_ns=time.time_ns, started_ns=time.time_ns())
        self._chain_gauges = _ChainGauges(args.app)
        self._replicas: dict[str, tuple[float, ReplicaStatus]] = {}
        self._last_poll_s = time.monotonic()
        self._published: _Published | None = None
        self._changed = Signal()
        self._loop = LearningLoop(
            self._learner,
            publish=self._publish,
            interval_s=self._publish_interval_s,
            on_learned=self._changed.notify,
            # A learner that cannot learn must not go on acknowledging; Ray starts the actor again.
            on_crash=lambda: os._exit(1),
        )
        self._loop.start()
        self._follower.start(self._resync)
        threading.Thread(target=self._exit_when_idle, name="idle-exit", daemon=True).start()

    async def check_args(self, config: LearnerConfig, chain: ChainConfig, fingerprint: str) -> None:
        """Whether this learner is the one that a replica wants.

        Raises:
            ConfigMismatchError, EncoderMismatchError: it is not; the message says what to do.
        """
        if fingerprint != self._args.fingerprint:
            raise EncoderMismatchError(
                f"the learner of application {self._args.app!r} learns for encoder {self._args.fingerprint[:12]}, the "
                f"replica has {fingerprint[:12]}; deploy another encoder as another application"
            )
        if (config, chain) != (self._args.config, self._args.chain):
            raise ConfigMismatchError(
                f"the learner of application {self._args.app!r} runs with other settings than this replica's "
                f"`learner` and `chain`; stop it with `tidegate down` or keep its settings"
            )

    async def poll(self, status: ReplicaStatus, wait_s: float) -> PollReply:
        """Wait for a newer version than the caller has, at most `wait_s`."""
        self._last_poll_s = time.monotonic()
        self._replicas[status.id] = (self._last_poll_s, status)
        if self._args.chain.source != "roster":
            # A roster is read on request only, and is not stale for being left alone.
            self._chain_gauges.set(self._follower.describe())
        have = (status.epoch, status.version)
        await self._changed.wait_until(
            lambda: self._published is not None and self._published.snapshot.order != have, wait_s
        )
        published = self._published
        if published is None:
            return PollReply(epoch=0, version=0, refs=[])
        order = published.snapshot.order
        return PollReply(epoch=order[0], version=order[1], refs=[] if order == have else [published.ref])

    async def add_decisions(self, batch: DecisionBatch) -> None:
        """See `Learner.add_decisions`."""
        self._learner.add_decisions(batch)
        self._changed.notify()

    async def add_rewards(self, items: Sequence[RewardItem], wait: Wait, timeout_s: float) -> RewardReply:
        """Log a report, waiting briefly for decisions on their way, and for its effect if asked to.

        Raises:
            UnknownUidError, RepeatedUidError, DecisionPendingError: see `Learner.add_rewards`.
        """
        report = await self._log_rewards(items)
        self._loop.wake()
        reached = await self._changed.wait_until(lambda: self._has_reached(report.seq, wait), timeout_s)
        order = self._published.snapshot.order if self._published else (self._learner.log.epoch, 0)
        return RewardReply(report=report, epoch=order[0], published_version=order[1], reached=reached)

    async def check_nonce(self, hotkey: str, nonce_ns: int, skew_s: float) -> NonceVerdict:
        """See `NonceStore.take`. Every replica asks here, so a request counts once for all of them."""
        return self._nonces.take(hotkey, nonce_ns, skew_s)

    async def resync(self) -> ResyncSummary:
        """Read the source again and follow it.

        Raises:
            LearnerError: the source cannot be read or is older than what is in use; nothing was changed.
        """
        summary = await asyncio.to_thread(self._follower.refresh)
        await self._changed.wait_until(
            lambda: self._has_reached(summary.seq, "published"), self._args.config.decision_wait_s + 1.0
        )
        return summary

    async def describe(self) -> dict[str, Any]:
        """The learner's figures, the network's, and what the replicas last told of themselves."""
        now_s = time.monotonic()
        view = self._learner.view
        published = self._published.snapshot.version if self._published else None
        return {
            "learner": {**self._learner.describe(), "published_version": published, "status": "running"},
            "metagraph": {
                "netuid": view.netuid,
                "n": view.n,
                "available": sum(view.available),
                **self._follower.describe(),
            },
            "replicas": [
                {**asdict(status), "last_poll_s": round(now_s - at_s, 3)} for at_s, status in self._live_replicas()
            ],
        }

    async def uid_table(self) -> list[dict[str, object]]:
        """See `Learner.uid_table`."""
        return self._learner.uid_table()

    async def explain(self, decision_id: str) -> ExplainedDecision | None:
        """See `Learner.explain`."""
        return self._learner.explain(decision_id)

    async def erase_embedding(self, decision_id: str) -> bool:
        """See `Learner.erase_embedding`."""
        return self._learner.erase_embedding(decision_id)

    async def stop(self) -> None:
        """Learn what was acknowledged and stop learning; the caller then kills the actor."""
        self._loop.stop()

    def _resync(self, view: MetagraphView) -> ResyncSummary:
        summary = self._learner.resync(view)
        self._loop.wake()
        return summary

    async def _log_rewards(self, items: Sequence[RewardItem]) -> RewardReport:
        reports: list[RewardReport] = []

        def logged() -> bool:
            live = [status.incarnation for _, status in self._live_replicas()]
            try:
                reports.append(self._learner.add_rewards(items, live))
            except DecisionPendingError:
                return False
            return True

        if await self._changed.wait_until(logged, self._args.config.decision_wait_s):
            return reports[0]
        raise DecisionPendingError("a decision has not arrived from its replica yet; send the request again")

    def _has_reached(self, seq: int, wait: Wait) -> bool:
        if wait == "logged":
            return True
        if wait == "applied":
            return self._learner.version >= seq
        return self._published is not None and self._published.snapshot.version >= seq

    def _publish(self, snapshot: HeadSnapshot) -> None:
        self._published = _Published(snapshot, ray.put(snapshot))
        self._changed.notify()

    def _publish_interval_s(self) -> float:
        return max(self._args.config.publish_interval_ms / 1000, len(self._replicas) / _REPLIES_PER_S)

    def _live_replicas(self) -> list[tuple[float, ReplicaStatus]]:
        oldest_s = time.monotonic() - _LIVE_HEARTBEATS * self._args.config.heartbeat_s
        self._replicas = {key: entry for key, entry in self._replicas.items() if entry[0] >= oldest_s}
        return list(self._replicas.values())

    def _exit_when_idle(self) -> None:
        idle_s = self._args.config.idle_exit_s
        while (left_s := self._last_poll_s + idle_s - time.monotonic()) > 0:
            time.sleep(left_s)
        logger.info("exit reason=idle idle_s=%d version=%d", idle_s, self._learner.version)
        self._loop.stop()
        # Killed rather than exited: `max_restarts=-1` would bring it back.
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def learner_name(app: str) -> str:
    """The name of an application's learner among Ray's actors of `NAMESPACE`."""
    return f"tidegate:{app}:learner"


def get_or_create_learner(args: LearnerArgs, *, num_cpus: float) -> Any:
    """The handle of the application's learner, which is created if there is none. Blocks."""
    # Ray's annotations do not know this argument.
    decorate: Any = ray.remote
    actor_class = decorate(concurrency_groups=CONCURRENCY_GROUPS)(LearnerActor)
    return actor_class.options(
        name=learner_name(args.app),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=num_cpus,
        max_restarts=-1,
        max_task_retries=0,
    ).remote(args)
