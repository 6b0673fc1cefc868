"""A `LearnerClient` around a real learner in this process, without Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal

from deployments.errors import LearnerAway
from gating.metagraph import MetagraphView
from learner.checkpoint import CheckpointStore, Expected
from learner.config import AdagradConfig, LearnerConfig, RuleConfig, SoftmaxMseConfig, settings_of
from learner.core import ExplainedDecision, HeldEvent, Learner, ResyncSummary
from learner.errors import LearnerError, NeedsDurableLogError
from learner.event_log import Genesis
from learner.events import Action, Standing
from learner.fleet import Fleet
from learner.housekeeping import Housekeeper
from learner.memory_log import MemoryEventLog
from learner.nonces import NonceStore, NonceVerdict
from learner.protocol import DecisionBatch, PollReply, ReplicaStatus, RewardItem, RewardReply, Wait
from learner.restore import Restorer
from learner.rules import build_rule
from learner.signals import Signal
from learner.state import HeadSnapshot
from learner.trust import AuthorView

_HEARTBEAT_S = 60.0


class LocalLearner:
    """Learns and publishes at once after each report, unless `learns_at_once` is off; then `learn` does it.

    Attributes:
        refuses: what every operator's action is answered with, instead of being done.
        askers: who asked for operators' actions.
        away: every call raises LearnerAway, with the `reason`, before anything is done.
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
        checkpoints: CheckpointStore | None = None,
        shadow: tuple[RuleConfig, ...] = (),
    ) -> None:
        self.now_s = 0.0
        log, built = MemoryEventLog(started_at_ms=epoch), build_rule(rule)
        log.begin(Genesis(view, 0))
        restorer = Restorer(log, built, Expected("app", log.id, settings_of(rule), fingerprint, dim))
        self.core = Learner(
            config=LearnerConfig(rule=rule, shadow=shadow),
            restored=restorer.newest(),
            restorer=restorer,
            dim=dim,
            fingerprint=fingerprint,
            log=log,
            clock=lambda: self.now_s,
        )
        if shadow:
            self.core.take_configured_shadows()
            self.core.learn()
        self._store = checkpoints
        self._housekeeper = Housekeeper(
            self.core, checkpoints, application="app", clock=lambda: self.now_s, on_crash=lambda: None
        )
        self.refuses: LearnerError | None = None
        self.askers: list[str] = []
        self.nonces = NonceStore(clock_ns=time.time_ns, started_ns=0)
        self.network = view
        self.away = False
        self.reason = "switched away"
        self.loses_answers = False
        self.learns_at_once = True
        self.published: HeadSnapshot | None = self.core.snapshot()
        self.batches: list[DecisionBatch] = []
        self.polls = 0
        self._fleet = Fleet(_HEARTBEAT_S)
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
        self._fleet.note(status)
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
        ids = [item.decision_id for item in items if item.decision_id is not None]
        expected = self._fleet.expected(ids, 1, takes_over=False)
        report = self.core.add_rewards(items, expected)
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

    async def resync(self, author: str = "anonymous") -> ResyncSummary:
        self._operate(author)
        summary = self.core.commit_one(self.core.stage_resync(self.network, author))
        self.learn()
        return summary

    async def checkpoint(self, author: str) -> dict[str, Any]:
        self._operate(author)
        if self._store is None:
            raise NeedsDurableLogError("a log in memory has no checkpoints; set learner.log.url")
        self._act(Action.CHECKPOINT, author)
        self._housekeeper.save()
        return (await self.checkpoints())[0]

    async def checkpoints(self) -> list[dict[str, Any]]:
        self._check_here()
        names = ("name", "version", "epoch", "created_at", "digest", "frozen")
        kept = [] if self._store is None else self._store.list()
        return [{name: getattr(manifest, name) for name in names} for manifest in kept]

    async def freeze(self, frozen: bool, author: str) -> int:
        self._operate(author)
        return self._act(Action.FREEZE if frozen else Action.THAW, author)

    async def promote(self, label: str, author: str) -> dict[str, Any]:
        self._operate(author)
        seq = self.core.commit_one(self.core.stage_promotion(label, author))
        self.learn()
        return {"rule": label, "version": seq, "rules": self.core.describe()["rules"]}

    async def hand_over(self, author: str) -> dict[str, Any]:
        await self.checkpoint(author)
        epoch = self.core.log.epoch
        return {"left_epoch": epoch - 1, "epoch": epoch, "version": self.core.version, "identity": "i", "away_s": 0.0}

    async def rollback(self, version: int | None, checkpoint: str | None, author: str) -> dict[str, Any]:
        self._operate(author)
        if version is None:
            assert self._store is not None
            version = self._store.find(str(checkpoint)).version
        summary = self.core.commit_one(self.core.stage_rollback(version, author))
        self.learn()
        held, _ = self.core.held_events(after=0, limit=0)
        return {"restored": summary.restored, "version": summary.seq, "quarantined": held}

    async def quarantine(self, after: int, limit: int) -> tuple[int, list[HeldEvent]]:
        self._check_here()
        return self.core.held_events(after, limit)

    async def settle(
        self, action: Literal[Action.READMIT, Action.DROP], seqs: Sequence[int] | None, author: str
    ) -> dict[str, int]:
        self._operate(author)
        seq = self.core.commit_one(self.core.stage_settlement(action, seqs, author))
        self.learn()
        held, _ = self.core.held_events(after=0, limit=0)
        return {"version": seq, "quarantined": held}

    async def authors(self) -> list[AuthorView]:
        self._check_here()
        return self.core.authors()

    async def set_standing(self, subject: str, standing: Standing, author: str) -> int:
        self._operate(author)
        seq = self.core.commit_one(self.core.stage_standing(subject, standing, author))
        self.learn()
        return seq

    async def describe(self) -> dict[str, Any]:
        self._check_here()
        view = self.core.view
        return {
            "learner": {
                **self.core.describe(),
                "status": "running",
                "checkpoint": self._housekeeper.describe(),
                "log_error": None,
            },
            "metagraph": {"netuid": view.netuid, "block": view.block, "n": view.n},
            "replicas": [{"id": status.id, "version": status.version} for _, status in self._fleet.live()],
        }

    async def uid_table(self) -> list[dict[str, object]]:
        self._check_here()
        return self.core.uid_table()

    async def explain(self, decision_id: str) -> ExplainedDecision | None:
        self._check_here()
        return self.core.explain(decision_id)

    async def erase_embedding(self, decision_id: str, author: str) -> bool:
        self._operate(author)
        if self.core.explain(decision_id) is None:
            return False
        self._act(Action.ERASE, author, {"decision_id": decision_id})
        return self.core.log.erase_embedding(decision_id)

    def _operate(self, author: str) -> None:
        self._check_here()
        if self.refuses is not None:
            raise self.refuses
        self.askers.append(author)

    def _act(self, action: Action, author: str, arguments: dict[str, Any] | None = None) -> int:
        seq = self.core.commit_one(self.core.stage_action(action, author, arguments))
        self.learn()
        return seq

    def _check_here(self) -> None:
        if self.away:
            raise LearnerAway(self.reason)

    def _check_answer_arrives(self) -> None:
        if self.loses_answers:
            raise LearnerAway("the answer was lost")
