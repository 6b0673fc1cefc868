"""A `LearnerClient` around a real learner in this process, without Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from deployments.errors import LearnerAway
from gating.metagraph import MetagraphView
from learner.actor import PollReply, RewardReply, Wait
from learner.config import AdagradConfig, LearnerConfig, SoftmaxMseConfig
from learner.core import ExplainedDecision, Learner, ResyncSummary
from learner.event_log import MemoryEventLog
from learner.events import DecisionBatch, ReplicaStatus, RewardItem
from learner.nonces import NonceStore, NonceVerdict
from learner.rules import build_rule
from learner.signals import Signal
from learner.state import HeadSnapshot


class LocalLearner:
    """Learns and publishes at once after each report, unless `learns_at_once` is off; then `learn` does it.

    Attributes:
        away: every call raises LearnerAway before anything is done.
        loses_answers: every call does its work and then raises LearnerAway.
        now_s: the learner's clock.
        nonces: those of signed requests; as if it had started long ago.
        network: what the next resync finds.
        published: what polls are answered with.
        batches: decisions as they were handed over, repetitions included.
    """

    def __init__(
        self,
        view: MetagraphView,
        *,
        dim: int,
        fingerprint: str,
        rule: SoftmaxMseConfig | AdagradConfig,
        epoch: int = 1,
    ) -> None:
        self.now_s = 0.0
        self.core = Learner(
            config=LearnerConfig(rule=rule),
            rule=build_rule(rule),
            view=view,
            dim=dim,
            fingerprint=fingerprint,
            log=MemoryEventLog(started_at_ms=epoch),
            clock=lambda: self.now_s,
        )
        self.nonces = NonceStore(clock_ns=time.time_ns, started_ns=0)
        self.network = view
        self.away = False
        self.loses_answers = False
        self.learns_at_once = True
        self.published: HeadSnapshot | None = self.core.snapshot()
        self.batches: list[DecisionBatch] = []
        self.polls = 0
        self._replicas: dict[str, ReplicaStatus] = {}
        self._changed = Signal()

    def learn(self) -> None:
        """Learn everything that waits and publish it."""
        while self.core.learn():
            pass
        self.publish(self.core.snapshot())

    def publish(self, snapshot: HeadSnapshot) -> None:
        self.published = snapshot
        self._changed.notify()

    async def poll(self, status: ReplicaStatus, wait_s: float) -> tuple[PollReply, HeadSnapshot | None]:
        self._check_here()
        self.polls += 1
        self._replicas[status.id] = status
        have = (status.epoch, status.version)
        await self._changed.wait_until(lambda: self.published is not None and self.published.order != have, wait_s)
        self._check_answer_arrives()
        if self.published is None:
            return PollReply(0, 0, []), None
        epoch, version = self.published.order
        return PollReply(epoch, version, []), None if (epoch, version) == have else self.published

    async def add_decisions(self, batch: DecisionBatch) -> None:
        self._check_here()
        self.batches.append(batch)
        # As long as a call takes, others run.
        await asyncio.sleep(0)
        self.core.add_decisions(batch)
        self._check_answer_arrives()

    async def add_rewards(self, items: Sequence[RewardItem], wait: Wait, timeout_s: float) -> RewardReply:
        self._check_here()
        report = self.core.add_rewards(items, [status.incarnation for status in self._replicas.values()])
        if self.learns_at_once:
            self.learn()
        self._check_answer_arrives()
        epoch, version = self.published.order if self.published else (0, 0)
        return RewardReply(report, epoch, version, reached=wait == "logged" or self.learns_at_once)

    async def check_nonce(self, hotkey: str, nonce_ns: int, skew_s: float) -> NonceVerdict:
        self._check_here()
        verdict = self.nonces.take(hotkey, nonce_ns, skew_s)
        self._check_answer_arrives()
        return verdict

    async def resync(self) -> ResyncSummary:
        self._check_here()
        summary = self.core.resync(self.network)
        self.learn()
        return summary

    async def describe(self) -> dict[str, Any]:
        self._check_here()
        view = self.core.view
        return {
            "learner": {**self.core.describe(), "status": "running"},
            "metagraph": {"netuid": view.netuid, "block": view.block, "n": view.n},
            "replicas": [{"id": status.id, "version": status.version} for status in self._replicas.values()],
        }

    async def uid_table(self) -> list[dict[str, object]]:
        self._check_here()
        return self.core.uid_table()

    async def explain(self, decision_id: str) -> ExplainedDecision | None:
        self._check_here()
        return self.core.explain(decision_id)

    async def erase_embedding(self, decision_id: str) -> bool:
        self._check_here()
        return self.core.erase_embedding(decision_id)

    def _check_here(self) -> None:
        if self.away:
            raise LearnerAway("switched away")

    def _check_answer_arrives(self) -> None:
        if self.loses_answers:
            raise LearnerAway("the answer was lost")
