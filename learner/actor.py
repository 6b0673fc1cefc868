"""The Ray actor around `core.Learner`: the one writer of an application.

Polls, reports and operator calls have concurrency groups of their own, so that a thousand waiting polls hold up
no report. Each group runs its coroutines on an event loop in a thread of its own; the learner locks itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, TypeVar

import ray
import ray.util.metrics
import torch

from gating.metagraph import MetagraphView

from .checkpoint import Manifest
from .comparison import ComparisonLoop
from .core import ExplainedDecision, HeldEvent, ResyncSummary
from .draft import Stage
from .drift import load_river
from .errors import (
    DecisionPendingError,
    LearnerError,
    NeedsDurableLogError,
    OverloadedError,
    RollInProgressError,
    UnknownVersionError,
)
from .events import (
    Action,
    DecisionBatch,
    PollReply,
    ReplicaStatus,
    RewardItem,
    RewardReply,
    RewardReport,
    Standing,
    Wait,
)
from .group_commit import GroupCommitter
from .housekeeping import Housekeeper
from .logs import start_logging
from .loop import LearningLoop, Publisher
from .memory import keep_freed_memory
from .metrics import LearnerMetrics, MetricsLoop
from .nonces import NonceStore, NonceVerdict
from .on_ray import NAMESPACE, learner_name, placement, ray_log_folder, this_node
from .report_traces import Follow, ReportTraces
from .signals import Signal
from .startup import LearnerArgs, Terms, check_terms, start_learner
from .state import HeadSnapshot, format_for
from .storage import check_storage, log_clock, open_storage
from .tracing import NO_TRACER, Carried
from .trust import AuthorView

logger = logging.getLogger(__name__)

CONCURRENCY_GROUPS = {"polls": 4096, "reports": 1024, "operator": 16}
_REPLIES_PER_S = 2000
_LIVE_HEARTBEATS = 3
_LAST_WORDS_S = 5.0
OPERATOR_PATIENCE_S = 60.0
"""How long an operator's action may take to be learned and published."""

T = TypeVar("T")


class _Published:
    """A version in Ray's object store, once for each layout that a replica has asked for."""

    def __init__(self, snapshot: HeadSnapshot) -> None:
        self.snapshot = snapshot
        self._refs = {snapshot.format: ray.put(snapshot)}

    def ref(self, wanted: int) -> Any:
        """The reference to it in that layout. Called from the event loop of polls only."""
        if wanted not in self._refs:
            self._refs[wanted] = ray.put(self.snapshot.in_format(wanted))
        return self._refs[wanted]


class LearnerActor:
    """One application's learner. See `LearnerArgs`."""

    def __init__(self, args: LearnerArgs) -> None:
        # The learning thread is one core's work; more threads would only take from the replicas. Replaying the log
        # gives the same bits only with the same number.
        torch.set_num_threads(1)
        keep_freed_memory()
        self._args = args
        # Now, for the code on the disk may change while this runs.
        self._identity = args.digest()
        start_logging(
            args.logging,
            component=f"learner-{args.app}-{os.getpid()}",
            about={"application": args.app, "component": "learner", "pid": os.getpid()},
            folder=ray_log_folder(),
            # No caller's text comes here.
            tells_errors=True,
        )
        self._traces = ReportTraces(args.tracing(args.app) if args.tracing is not None else NO_TRACER)
        self._node = this_node()
        self._storage = open_storage(
            args.config,
            application=args.app,
            fingerprint=args.fingerprint,
            dim=args.dim,
            # The same actor, started again after its process died, has the same id.
            holder=f"ray-actor-{ray.get_runtime_context().get_actor_id()}",
        )
        self._clock = log_clock(self._storage.log)
        self._changed = Signal()
        # Operators' calls all run on one event loop.
        self._saving = asyncio.Lock()
        self._replicas: dict[str, tuple[float, ReplicaStatus]] = {}
        self._decision_batches = 0
        self._started_s = self._last_poll_s = time.monotonic()
        self._takes_over = self._storage.checkpoints is not None and self._storage.log.epoch > 1
        self._published: _Published | None = None
        self._nonces = NonceStore(clock_ns=time.time_ns, started_ns=time.time_ns())
        try:
            self._learner, self._follower = start_learner(args, self._storage, self._clock, on_crash=_crash)
        except LearnerError:
            self._storage.log.close()
            raise
        self._build_threads(args)
        threads = (self._committer, self._loop, self._publisher, self._housekeeper, self._comparing, self._metrics)
        for thread in threads:
            thread.start()
        self._follower.start(self._resync)
        # Once everything runs, so that this does not put the start off.
        threading.Thread(target=load_river, name="load-river", daemon=True).start()
        threading.Thread(target=self._exit_when_idle, name="idle-exit", daemon=True).start()

    def _build_threads(self, args: LearnerArgs) -> None:
        self._committer = GroupCommitter(
            self._learner,
            tick_s=min(1.0, args.config.log.lease_s / 4),
            on_commit=self._on_commit,
            on_fenced=_leave_for_good,
            on_crash=_crash,
        )
        self._housekeeper = Housekeeper(
            self._learner, self._storage.checkpoints, application=args.app, clock=self._clock, on_crash=_crash
        )
        self._loop = LearningLoop(
            self._learner,
            on_learned=self._on_learned,
            on_crash=_crash,
            traces=self._traces,
        )
        self._publisher = Publisher(
            self._learner,
            publish=self._publish,
            interval_s=self._publish_interval_s,
            on_crash=_crash,
            traces=self._traces,
        )

        self._comparing = ComparisonLoop(self._learner.compare, interval_s=args.config.compare_interval_s)
        self._metrics = MetricsLoop(self._build_metrics(args).report)

    def _build_metrics(self, args: LearnerArgs) -> LearnerMetrics:
        return LearnerMetrics(
            learner=self._learner,
            publisher=self._publisher,
            committer=self._committer,
            housekeeper=self._housekeeper,
            follower=self._follower,
            chain=args.chain,
            replicas=self._told_lately,
            published_version=lambda: self._published.snapshot.version if self._published else None,
            app=args.app,
            instruments=ray.util.metrics,
        )

    async def check_terms(self, terms: Terms) -> None:
        """Whether a replica can use this learner. Settings in which it may differ wait for a hand-over.

        Raises:
            ConfigMismatchError, EncoderMismatchError: it cannot; the message says what to do.
        """
        check_terms(self._args, terms)

    async def poll(self, status: ReplicaStatus, wait_s: float) -> PollReply:
        """Wait for a newer version than the caller has, at most `wait_s`."""
        self._last_poll_s = time.monotonic()
        self._replicas[status.id] = (self._last_poll_s, status)
        have, reads = (status.epoch, status.version), format_for(status.reads)
        await self._changed.wait_until(
            lambda: self._published is not None and self._published.snapshot.order != have, wait_s
        )
        published = self._published
        if published is None:
            return PollReply(epoch=0, version=0, refs=[])
        order = published.snapshot.order
        refs = [] if order == have or reads is None else [published.ref(reads)]
        return PollReply(epoch=order[0], version=order[1], refs=refs)

    async def add_decisions(self, batch: DecisionBatch) -> None:
        """See `Learner.stage_decisions`; answers once they are in the log."""
        await self._commit(self._learner.stage_decisions(batch))
        self._decision_batches += 1
        self._changed.notify()

    async def add_rewards(
        self, items: Sequence[RewardItem], wait: Wait, timeout_s: float, trace: Carried | None = None
    ) -> RewardReply:
        """Log a report, waiting briefly for decisions on their way, and for its effect if asked to.

        `trace` is the caller's span, where it is traced.

        Raises:
            UnknownUidError, RepeatedUidError, DecisionPendingError: see `Learner.stage_rewards`.
        """
        with self._traces.logging(trace) as follow:
            report = await self._log_rewards(items, follow)
        await self._changed.wait_until(lambda: self._learner.frozen or self._has_reached(report.seq, wait), timeout_s)
        reached = self._has_reached(report.seq, wait)
        order = self._published.snapshot.order if self._published else (self._learner.log.epoch, 0)
        return RewardReply(report=report, epoch=order[0], published_version=order[1], reached=reached)

    async def check_nonce(self, hotkey: str, nonce_ns: int, skew_s: float) -> NonceVerdict:
        """See `NonceStore.take`. Every replica asks here, so a request counts once for all of them."""
        return self._nonces.take(hotkey, nonce_ns, skew_s)

    async def resync(self, author: str) -> ResyncSummary:
        """Read the source again and follow it.

        Raises:
            LearnerError: the source cannot be read or is older than what is in use; nothing was changed.
        """
        summary = await asyncio.to_thread(self._follower.refresh, author)
        await self._wait_until_published(summary.seq)
        return summary

    async def checkpoint(self, author: str) -> dict[str, Any]:
        """Save what has been learned so far.

        Raises:
            NeedsDurableLogError, CheckpointError: it cannot be saved.
        """
        if self._storage.checkpoints is None:
            raise NeedsDurableLogError("a log in memory has no checkpoints; set learner.log.url")
        seq = await self._commit(self._learner.stage_action(Action.CHECKPOINT, author))
        await self._wait_until_applied(seq)
        async with self._saving:
            manifest = await asyncio.to_thread(self._housekeeper.save)
        assert manifest is not None, "there is a place for checkpoints"
        return _summary_of(manifest)

    async def checkpoints(self) -> list[dict[str, Any]]:
        """The checkpoints that are kept, newest first."""
        store = self._storage.checkpoints
        return [] if store is None else [_summary_of(manifest) for manifest in await asyncio.to_thread(store.list)]

    async def freeze(self, frozen: bool, author: str) -> int:
        """Stop learning, or go on with it; the answer is the version from which on that holds."""
        seq = await self._commit(self._learner.stage_action(Action.FREEZE if frozen else Action.THAW, author))
        await self._wait_until_published(seq)
        return seq

    async def rollback(self, version: int | None, checkpoint: str | None, author: str) -> dict[str, Any]:
        """Go back to a version, or to a checkpoint's; see `Learner.stage_rollback`.

        Raises:
            UnknownVersionError: there is no such version, or it cannot be rebuilt any more.
        """
        if version is None:
            version = await asyncio.to_thread(self._version_of, checkpoint)
        async with self._saving:
            with ExitStack() as until_saved:
                # Another checkpoint would make the one superfluous that this may need.
                await asyncio.to_thread(until_saved.enter_context, self._housekeeper.paused())
                stage = await asyncio.to_thread(self._learner.stage_rollback, version, author)
                summary = await self._commit(stage)
                await self._wait_until_published(summary.seq)
                if self._learner.version >= summary.seq and self._storage.checkpoints is not None:
                    # So that a restart need not go back that far.
                    await asyncio.to_thread(self._housekeeper.save)
        held, _ = self._learner.held_events(after=0, limit=0)
        return {"restored": summary.restored, "version": summary.seq, "quarantined": held}

    async def promote(self, label: str, author: str) -> dict[str, Any]:
        """Let a shadow serve; see `Learner.stage_promotion`.

        Raises:
            UnknownRuleError: there is no such shadow.
        """
        async with self._saving:
            seq = await self._commit(self._learner.stage_promotion(label, author))
            if await self._wait_until_published(seq) and self._storage.checkpoints is not None:
                # So that a start whose configuration has the new rule only finds a checkpoint of it.
                await asyncio.to_thread(self._housekeeper.save)
        return {"rule": label, "version": seq, "rules": self._learner.describe()["rules"]}

    async def quarantine(self, after: int, limit: int) -> tuple[int, list[HeldEvent]]:
        """See `Learner.held_events`."""
        return await asyncio.to_thread(self._learner.held_events, after, limit)

    async def settle(
        self, action: Literal[Action.READMIT, Action.DROP], seqs: Sequence[int] | None, author: str
    ) -> dict[str, int]:
        """Learn held events after all, or give them up; see `Learner.stage_settlement`.

        Raises:
            UnknownEventError: an event is not held, or waits for the thaw.
        """
        seq = await self._commit(self._learner.stage_settlement(action, seqs, author))
        await self._wait_until_published(seq)
        held, _ = self._learner.held_events(after=0, limit=0)
        return {"version": seq, "quarantined": held}

    async def authors(self) -> list[AuthorView]:
        """See `Learner.authors`."""
        return await asyncio.to_thread(self._learner.authors)

    async def set_standing(self, subject: str, standing: Standing, author: str) -> int:
        """See `Learner.stage_standing`; the answer is its place in the log. It holds for what is reported next."""
        return await self._commit(self._learner.stage_standing(subject, standing, author))

    async def describe(self) -> dict[str, Any]:
        """The learner's figures, the network's, and what the replicas last told of themselves."""
        now_s = time.monotonic()
        view = self._learner.view
        published = self._published.snapshot.version if self._published else None
        return {
            "learner": {
                **self._learner.describe(),
                "identity": self._identity,
                "handover": any(status.learner not in ("", self._identity) for _, status in self._live_replicas()),
                "published_version": published,
                "status": "running",
                "node": asdict(self._node),
                "checkpoint": self._housekeeper.describe(),
                "log_error": self._committer.last_error,
            },
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
        return await asyncio.to_thread(self._learner.explain, decision_id)

    async def erase_embedding(self, decision_id: str, author: str) -> bool:
        """Forget a decision's embedding for good; rewards that come later are rejected. Whether it was known.

        What was learned from it is saved first, so that no restart needs the embedding.

        Raises:
            CheckpointError, OverloadedError: it could not be saved; the embedding is still there.
        """
        if await self.explain(decision_id) is None:
            return False
        seq = await self._commit(self._learner.stage_erasure(decision_id, author))
        # From here on no reward is accepted for it, so these are all that there will be.
        explained = await self.explain(decision_id)
        if explained is not None and explained.rewards:
            if not await self._wait_until_applied(seq):
                raise OverloadedError("what was learned from the embedding is not saved yet; send the request again")
            async with self._saving:
                await asyncio.to_thread(self._housekeeper.save)
        return await asyncio.to_thread(self._learner.log.erase_embedding, decision_id)

    async def hand_over(self, wanted: str) -> None:
        """Learn what was acknowledged, save it, let the log go and end for good: whoever calls finds the actor dead.

        Args:
            wanted: `LearnerArgs.digest` of the one that comes next.

        Raises:
            RollInProgressError: a replica would create another one; nothing was changed.
        """
        others = sorted({status.learner for _, status in self._live_replicas()} - {wanted})
        if others:
            raise RollInProgressError(
                f"replicas for learner {wanted} and for {', '.join(others)} are there, so either could come next; hand "
                "over once the roll is done and every replica is of the new deployment"
            )
        logger.info("handover from=%s to=%s version=%d", self._identity, wanted, self._learner.version)
        try:
            await asyncio.to_thread(self._finish)
        finally:
            # Who has stopped committing is of no use any more; what was acknowledged is in the log.
            await asyncio.to_thread(_leave_for_good)

    async def stop(self) -> None:
        """Learn what was acknowledged, save it and hand the log over; the caller then kills the actor."""
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        self._metrics.stop()
        self._comparing.stop()
        self._committer.stop()
        self._loop.stop()
        self._publisher.stop()
        self._housekeeper.stop()
        self._storage.log.close()
        self._traces.close()
        logger.info("learner_stopped version=%d", self._learner.version)

    async def _commit(self, stage: Stage[T]) -> T:
        return await asyncio.wrap_future(self._committer.submit(stage))

    def _on_learned(self) -> None:
        self._changed.notify()
        self._publisher.wake()

    def _on_commit(self) -> None:
        self._loop.wake()
        self._changed.notify()

    def _resync(self, view: MetagraphView, author: str | None) -> ResyncSummary:
        return self._committer.submit(self._learner.stage_resync(view, author)).result()

    async def _log_rewards(self, items: Sequence[RewardItem], follow: Follow) -> RewardReport:
        deadline_s = time.monotonic() + self._args.config.decision_wait_s
        while True:
            arrived = self._decision_batches
            try:
                return await self._commit(follow(self._learner.stage_rewards(items, self._live_incarnations())))
            except DecisionPendingError:
                left_s = deadline_s - time.monotonic()
                has_more = partial(self._has_more_batches_than, arrived)
                if not await self._changed.wait_until(has_more, max(left_s, 0.0)):
                    raise

    def _live_incarnations(self) -> list[str] | None:
        """Whose decisions may still be on their way; None: whose, a learner that takes over cannot know yet."""
        known_s = self._started_s + _LIVE_HEARTBEATS * self._args.config.heartbeat_s
        if self._takes_over and time.monotonic() < known_s:
            return None
        return [status.incarnation for _, status in self._live_replicas()]

    def _has_more_batches_than(self, count: int) -> bool:
        return self._decision_batches != count

    def _version_of(self, checkpoint: str | None) -> int:
        store = self._storage.checkpoints
        if store is None or checkpoint is None:
            raise UnknownVersionError(f"there is no checkpoint {checkpoint!r}")
        return store.find(checkpoint).version

    async def _wait_until_applied(self, seq: int) -> bool:
        return await self._changed.wait_until(lambda: self._learner.version >= seq, OPERATOR_PATIENCE_S)

    async def _wait_until_published(self, seq: int) -> bool:
        return await self._changed.wait_until(lambda: self._is_published(seq), OPERATOR_PATIENCE_S)

    def _is_published(self, seq: int) -> bool:
        return self._published is not None and self._published.snapshot.version >= seq

    def _has_reached(self, seq: int, wait: Wait) -> bool:
        if wait == "logged":
            return True
        if self._learner.frozen:
            # The version goes on, but rewards are held.
            return False
        return self._learner.version >= seq if wait == "applied" else self._is_published(seq)

    def _publish(self, snapshot: HeadSnapshot) -> None:
        self._published = _Published(snapshot)
        self._committer.submit(self._learner.stage_publish(snapshot.version))
        self._changed.notify()

    def _publish_interval_s(self) -> float:
        return max(self._args.config.publish_interval_ms / 1000, len(self._replicas) / _REPLIES_PER_S)

    def _told_lately(self) -> list[ReplicaStatus]:
        """What live replicas have told; for a thread of its own, and so changes nothing."""
        oldest_s = time.monotonic() - _LIVE_HEARTBEATS * self._args.config.heartbeat_s
        return [status for at_s, status in list(self._replicas.values()) if at_s >= oldest_s]

    def _live_replicas(self) -> list[tuple[float, ReplicaStatus]]:
        oldest_s = time.monotonic() - _LIVE_HEARTBEATS * self._args.config.heartbeat_s
        self._replicas = {key: entry for key, entry in self._replicas.items() if entry[0] >= oldest_s}
        return list(self._replicas.values())

    def _exit_when_idle(self) -> None:
        idle_s = self._args.config.idle_exit_s
        while (left_s := self._last_poll_s + idle_s - time.monotonic()) > 0:
            time.sleep(left_s)
        logger.info("exit reason=idle idle_s=%d version=%d", idle_s, self._learner.version)
        self._finish()
        _leave_for_good()


def _crash() -> None:
    """A learner that cannot go on must not go on acknowledging; Ray starts the actor again."""
    os._exit(1)


def _leave_for_good() -> None:
    # Killed rather than exited: `max_restarts=-1` would bring it back.
    ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
    # If Ray does not hear that, the next life finds the log in another's hands.
    time.sleep(_LAST_WORDS_S)
    os._exit(1)


def _summary_of(manifest: Manifest) -> dict[str, Any]:
    names = ("name", "version", "epoch", "created_at", "digest", "frozen")
    return {name: getattr(manifest, name) for name in names}


def get_or_create_learner(args: LearnerArgs, *, num_cpus: float, node_labels: Mapping[str, str] | None = None) -> Any:
    """The handle of the application's learner, which is created if there is none. Blocks.

    Args:
        args: what it is created from.
        num_cpus: CPUs that Ray reserves for it.
        node_labels: of the nodes that it starts on while they have room.
    """
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
        **placement(args.config, node_labels or {}),
    ).remote(args)


def check_successor(args: LearnerArgs) -> Any:
    """Find out where the learner is whether one of these could go on from its log and checkpoints. Nothing is written.

    Returns:
        A reference whose value raises what the learner would say.
    """
    decorate: Any = ray.remote
    return decorate(_check_successor).options(num_cpus=0, max_retries=0, **placement(args.config, {})).remote(args)


def _check_successor(args: LearnerArgs) -> None:
    check_storage(args.config, args.app)
