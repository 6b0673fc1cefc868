"""The Ray actor around `core.Learner`: the one writer of an application.

Polls, reports and operator calls have concurrency groups of their own, so that a thousand waiting polls hold up
no report. Each group runs its coroutines on an event loop in a thread of its own; the learner locks itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, TypeVar

import ray
import ray.util.metrics
import torch

from gating.metagraph import MetagraphView

from .comparison import ComparisonLoop
from .core import ExplainedDecision, HeldEvent, ResyncSummary
from .draft import Stage
from .drift import load_river
from .errors import DecisionPendingError, LearnerError, RollInProgressError
from .events import Action, Standing
from .fleet import Fleet
from .group_commit import GroupCommitter
from .housekeeping import Housekeeper
from .logs import start_logging
from .loop import LearningLoop, Publisher
from .memory import keep_freed_memory
from .metrics import LearnerMetrics, MetricsLoop
from .nonces import NonceStore, NonceVerdict
from .on_ray import NAMESPACE, learner_name, placement, ray_log_folder, this_node
from .operations import Operations
from .protocol import DecisionBatch, PollReply, ReplicaStatus, RewardItem, RewardReply, RewardReport, Wait
from .published import Published
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
_ARRIVES_WITHIN_S = 0.1
_LAST_WORDS_S = 5.0
_SWITCH_INTERVAL_S = 1e-4
"""The learning thread lets others go first at each of some hundred operations a batch; at Python's usual 5 ms it would
wait for so long each time that another is busy."""

T = TypeVar("T")


class LearnerActor:
    """One application's learner. See `LearnerArgs`."""

    def __init__(self, args: LearnerArgs) -> None:
        # The learning thread is one core's work; more threads would only take from the replicas. Replaying the log
        # gives the same bits only with the same number.
        torch.set_num_threads(1)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
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
        # Replicas have sent decisions, or told of themselves.
        self._heard = Signal()
        self._replicas = Fleet(args.config.heartbeat_s)
        self._decision_batches = 0
        self._takes_over = self._storage.checkpoints is not None and self._storage.log.epoch > 1
        self._nonces = NonceStore(clock_ns=time.time_ns, started_ns=time.time_ns())
        try:
            self._learner, self._follower = start_learner(args, self._storage, self._clock, on_crash=_crash)
        except LearnerError:
            self._storage.log.close()
            raise
        self._published = Published(self._learner, self._changed, store=ray.put)
        self._build_threads(args)
        self._operations = Operations(
            self._learner, self._commit, self._published, self._housekeeper, self._storage.checkpoints
        )
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
            replicas=self._replicas.told_lately,
            published_version=lambda: self._published.version,
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
        self._replicas.note(status)
        self._heard.notify()
        have = status.epoch, status.version
        await self._published.wait_for_newer(have, wait_s, asked=status.asked)
        (epoch, version), refs = self._published.newer_than(have, format_for(status.reads))
        return PollReply(epoch=epoch, version=version, refs=refs, asked=self._published.asked)

    async def add_decisions(self, batch: DecisionBatch) -> None:
        """See `Learner.stage_decisions`; answers once they are in the log."""
        await self._commit(self._learner.stage_decisions(batch))
        self._decision_batches += 1
        self._heard.notify()

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
        reached = await self._published.wait_until_reached(report.seq, wait, timeout_s)
        epoch, version = self._published.order
        return RewardReply(report=report, epoch=epoch, published_version=version, reached=reached)

    async def check_nonce(self, hotkey: str, nonce_ns: int, skew_s: float) -> NonceVerdict:
        """See `NonceStore.take`. Every replica asks here, so a request counts once for all of them."""
        return self._nonces.take(hotkey, nonce_ns, skew_s)

    async def resync(self, author: str) -> ResyncSummary:
        """Read the source again and follow it.

        Raises:
            LearnerError: the source cannot be read or is older than what is in use; nothing was changed.
        """
        summary = await asyncio.to_thread(self._follower.refresh, author)
        await self._published.wait_until_published(summary.seq)
        return summary

    async def checkpoint(self, author: str) -> dict[str, Any]:
        """See `Operations.checkpoint`."""
        return await self._operations.checkpoint(author)

    async def checkpoints(self) -> list[dict[str, Any]]:
        """See `Operations.checkpoints`."""
        return await self._operations.checkpoints()

    async def freeze(self, frozen: bool, author: str) -> int:
        """See `Operations.freeze`."""
        return await self._operations.freeze(frozen, author)

    async def rollback(self, version: int | None, checkpoint: str | None, author: str) -> dict[str, Any]:
        """See `Operations.rollback`."""
        return await self._operations.rollback(version, checkpoint, author)

    async def promote(self, label: str, author: str) -> dict[str, Any]:
        """See `Operations.promote`."""
        return await self._operations.promote(label, author)

    async def settle(
        self, action: Literal[Action.READMIT, Action.DROP], seqs: Sequence[int] | None, author: str
    ) -> dict[str, int]:
        """See `Operations.settle`."""
        return await self._operations.settle(action, seqs, author)

    async def erase_embedding(self, decision_id: str, author: str) -> bool:
        """See `Operations.erase_embedding`."""
        return await self._operations.erase_embedding(decision_id, author)

    async def quarantine(self, after: int, limit: int) -> tuple[int, list[HeldEvent]]:
        """See `Learner.held_events`."""
        return await asyncio.to_thread(self._learner.held_events, after, limit)

    async def authors(self) -> list[AuthorView]:
        """See `Learner.authors`."""
        return await asyncio.to_thread(self._learner.authors)

    async def set_standing(self, subject: str, standing: Standing, author: str) -> int:
        """See `Learner.stage_standing`; the answer is its place in the log. It holds for what is reported next."""
        return await self._commit(self._learner.stage_standing(subject, standing, author))

    async def describe(self) -> dict[str, Any]:
        """The learner's figures, the network's, and what the replicas last told of themselves."""
        # What is being learned may keep it waiting, and must not keep all other calls waiting.
        learned = await asyncio.to_thread(self._learner.describe)
        now_s = time.monotonic()
        view = self._learner.view
        return {
            "learner": {
                **learned,
                "identity": self._identity,
                "handover": any(status.learner not in ("", self._identity) for _, status in self._replicas.live()),
                "published_version": self._published.version,
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
                {**asdict(status), "last_poll_s": round(now_s - at_s, 3)} for at_s, status in self._replicas.live()
            ],
        }

    async def uid_table(self) -> list[dict[str, object]]:
        """See `Learner.uid_table`."""
        return await asyncio.to_thread(self._learner.uid_table)

    async def explain(self, decision_id: str) -> ExplainedDecision | None:
        """See `Learner.explain`."""
        return await asyncio.to_thread(self._learner.explain, decision_id)

    async def hand_over(self, wanted: str) -> None:
        """Learn what was acknowledged, save it, let the log go and end for good: whoever calls finds the actor dead.

        Args:
            wanted: `LearnerArgs.digest` of the one that comes next.

        Raises:
            RollInProgressError: a replica would create another one; nothing was changed.
        """
        others = sorted({status.learner for _, status in self._replicas.live()} - {wanted})
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
        # What a replica tells once it has been asked again covers all that it had made before this report came.
        asked = self._published.asked + 1
        started_s = time.monotonic()
        # Nearly all that was made arrives by itself, and no replica has to be asked.
        ask_at_s, deadline_s = started_s + _ARRIVES_WITHIN_S, started_s + self._args.config.decision_wait_s
        ids = {item.decision_id for item in items if item.decision_id is not None}
        while True:
            arrived, expected = self._decision_batches, self._expected(ids, asked)
            try:
                return await self._commit(follow(self._learner.stage_rewards(items, expected)))
            except DecisionPendingError:
                now_s = time.monotonic()
                if now_s >= deadline_s:
                    raise
                if now_s >= ask_at_s:
                    self._published.ask_to_poll_again()
                    ask_at_s = math.inf
                has_news = partial(self._has_news, ids, asked, arrived, expected)
                await self._heard.wait_until(has_news, min(ask_at_s, deadline_s) - now_s)

    def _has_news(self, ids: set[str], asked: int, arrived: int, expected: set[str]) -> bool:
        return self._decision_batches != arrived or self._expected(ids, asked) != expected

    def _expected(self, decision_ids: Iterable[str], asked: int) -> set[str]:
        """Which of these decisions may still be on their way."""
        return self._replicas.expected(decision_ids, asked, takes_over=self._takes_over)

    def _publish(self, snapshot: HeadSnapshot) -> None:
        self._published.put(snapshot)
        self._committer.submit(self._learner.stage_publish(snapshot.version))
        self._changed.notify()

    def _publish_interval_s(self) -> float:
        return max(self._args.config.publish_interval_ms / 1000, len(self._replicas) / _REPLIES_PER_S)

    def _exit_when_idle(self) -> None:
        idle_s = self._args.config.idle_exit_s
        while (left_s := self._replicas.last_poll_s + idle_s - time.monotonic()) > 0:
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
