"""The learner over Ray: creates its actor, calls it, and says so when it is away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from ray.exceptions import ActorDiedError, RayError, RayTaskError

from learner.actor import check_successor, get_or_create_learner
from learner.core import ExplainedDecision, HeldEvent, ResyncSummary
from learner.errors import LearnerError, LogError
from learner.events import Action, Standing
from learner.nonces import NonceVerdict
from learner.protocol import DecisionBatch, PollReply, ReplicaStatus, RewardItem, RewardReply, Wait
from learner.published import OPERATOR_PATIENCE_S
from learner.signals import Signal
from learner.startup import LearnerArgs
from learner.state import HeadSnapshot
from learner.tracing import NO_TRACER, Tracer
from learner.trust import AuthorView

from .errors import LearnerAway
from .local import CANNOT_START

_CALL_TIMEOUT_S = 5.0
_OPERATOR_TIMEOUT_S = OPERATOR_PATIENCE_S + _CALL_TIMEOUT_S


class RayLearner:
    """A `LearnerClient` over the learner's actor, which it creates if there is none.

    The handle is kept: looking an actor up by name blocks. A handle whose actor is gone for good (stopped, handed
    over, idle too long, or fenced by another learner) is dropped, and the next poll creates a new one.
    """

    def __init__(
        self,
        args: LearnerArgs,
        *,
        num_cpus: float,
        node_labels: Mapping[str, str] | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._args = args
        self._tracer = tracer
        self._create = partial(get_or_create_learner, args, num_cpus=num_cpus, node_labels=node_labels or {})
        self._handle: Any = None
        self._connected = Signal()
        self.wanted = args.digest()
        """The `LearnerArgs.digest` of the learner that this would create."""

    async def poll(self, status: ReplicaStatus, wait_s: float) -> tuple[PollReply, HeadSnapshot | None]:
        """See `LearnerClient`.

        Raises:
            ConfigMismatchError, EncoderMismatchError: the learner that runs is none that this replica can use.
        """
        if self._handle is None:
            handle = await self._find_or_create()
            check = handle.check_terms.options(concurrency_group="operator")
            await _answer(check.remote(self._args.terms), timeout_s=60.0)
            self._handle = handle
            self._connected.notify()
        handle = self._handle
        try:
            poll = handle.poll.options(concurrency_group="polls").remote(status, wait_s)
            reply: PollReply = await _answer(poll, timeout_s=wait_s + _CALL_TIMEOUT_S)
        except _LearnerGone:
            self._handle = None
            raise
        return reply, await _answer(reply.refs[0], timeout_s=_CALL_TIMEOUT_S) if reply.refs else None

    async def _find_or_create(self) -> Any:
        try:
            return await asyncio.to_thread(self._create)
        except (RayError, ValueError) as error:
            # Ray's own control is away, or the actor has gone between two calls.
            raise LearnerAway(f"{type(error).__name__}: {error}") from error

    async def add_decisions(self, batch: DecisionBatch) -> None:
        """See `LearnerClient`."""
        await self._call("reports", "add_decisions", batch)

    async def add_rewards(self, items: Sequence[RewardItem], wait: Wait, timeout_s: float) -> RewardReply:
        """See `LearnerClient`."""
        patience_s = timeout_s + self._args.config.decision_wait_s + _CALL_TIMEOUT_S
        carried = self._tracer.carried()
        # A learner from before there were traces need not know the argument as long as nothing is traced.
        traced = () if carried is None else (carried,)
        reply: RewardReply = await self._call(
            "reports", "add_rewards", items, wait, timeout_s, *traced, patience_s=patience_s
        )
        return reply

    async def check_nonce(self, hotkey: str, nonce_ns: int, skew_s: float) -> NonceVerdict:
        """See `LearnerClient`."""
        verdict: NonceVerdict = await self._call("reports", "check_nonce", hotkey, nonce_ns, skew_s)
        return verdict

    async def resync(self, author: str) -> ResyncSummary:
        """See `LearnerClient`."""
        patience_s = self._args.chain.longest_read_s + _OPERATOR_TIMEOUT_S
        summary: ResyncSummary = await self._call("operator", "resync", author, patience_s=patience_s)
        return summary

    async def checkpoint(self, author: str) -> dict[str, Any]:
        """See `LearnerClient`."""
        saved: dict[str, Any] = await self._operate("checkpoint", author)
        return saved

    async def checkpoints(self) -> list[dict[str, Any]]:
        """See `LearnerClient`."""
        kept: list[dict[str, Any]] = await self._operate("checkpoints")
        return kept

    async def freeze(self, frozen: bool, author: str) -> int:
        """See `LearnerClient`."""
        return int(await self._operate("freeze", frozen, author))

    async def rollback(self, version: int | None, checkpoint: str | None, author: str) -> dict[str, Any]:
        """See `LearnerClient`."""
        result: dict[str, Any] = await self._operate("rollback", version, checkpoint, author)
        return result

    async def promote(self, label: str, author: str) -> dict[str, Any]:
        """See `LearnerClient`."""
        promoted: dict[str, Any] = await self._operate("promote", label, author)
        return promoted

    async def hand_over(self, author: str) -> dict[str, Any]:
        """See `LearnerClient`.

        The next learner is created by whichever replica misses this one first: all would create the same.
        """
        # Of the state that the next one has to go on from, and so that little is left to be replayed.
        await self.checkpoint(author)
        before, leaving = await self.describe(), self._handle
        await _judgement(await asyncio.to_thread(check_successor, self._args))
        started_s = time.monotonic()
        with contextlib.suppress(_LearnerGone):
            await self._operate("hand_over", self.wanted)
        is_there = await self._connected.wait_until(lambda: self._handle not in (None, leaving), _OPERATOR_TIMEOUT_S)
        if not is_there:
            raise LearnerAway("the one before has saved everything and left, and the next one has not started yet")
        away_s = time.monotonic() - started_s
        after = (await self.describe())["learner"]
        told = {name: after[name] for name in ("epoch", "version", "identity")}
        return {"left_epoch": before["learner"]["epoch"], **told, "away_s": round(away_s, 3)}

    async def quarantine(self, after: int, limit: int) -> tuple[int, list[HeldEvent]]:
        """See `LearnerClient`."""
        held: tuple[int, list[HeldEvent]] = await self._operate("quarantine", after, limit)
        return held

    async def settle(
        self, action: Literal[Action.READMIT, Action.DROP], seqs: Sequence[int] | None, author: str
    ) -> dict[str, int]:
        """See `LearnerClient`."""
        result: dict[str, int] = await self._operate("settle", action, seqs, author)
        return result

    async def authors(self) -> list[AuthorView]:
        """See `LearnerClient`."""
        known: list[AuthorView] = await self._operate("authors")
        return known

    async def set_standing(self, subject: str, standing: Standing, author: str) -> int:
        """See `LearnerClient`."""
        return int(await self._operate("set_standing", subject, standing, author))

    async def describe(self) -> dict[str, Any]:
        """See `LearnerClient`."""
        description: dict[str, Any] = await self._call("operator", "describe")
        return description

    async def uid_table(self) -> list[dict[str, object]]:
        """See `LearnerClient`."""
        table: list[dict[str, object]] = await self._call("operator", "uid_table")
        return table

    async def explain(self, decision_id: str) -> ExplainedDecision | None:
        """See `LearnerClient`."""
        explained: ExplainedDecision | None = await self._call("operator", "explain", decision_id)
        return explained

    async def erase_embedding(self, decision_id: str, author: str) -> bool:
        """See `LearnerClient`."""
        return bool(await self._operate("erase_embedding", decision_id, author))

    async def _operate(self, method: str, *args: Any) -> Any:
        return await self._call("operator", method, *args, patience_s=_OPERATOR_TIMEOUT_S)

    async def _call(self, group: str, method: str, *args: Any, patience_s: float = _CALL_TIMEOUT_S) -> Any:
        if self._handle is None:
            raise LearnerAway("the learner has not been reached yet")
        bound = getattr(self._handle, method).options(concurrency_group=group)
        return await _answer(bound.remote(*args), timeout_s=patience_s)


class _LearnerGone(LearnerAway):
    """The actor is dead and Ray will not bring it back."""


async def _judgement(verdict: Awaitable[Any]) -> None:
    """Wait for `check_successor`. What it raises is meant for the operator: no learner is away for that."""
    try:
        await verdict
    except RayTaskError as error:
        if isinstance(error.cause, LearnerError):
            raise error.cause from None
        raise
    except RayError as error:
        raise LearnerAway(f"{type(error).__name__}: {error}") from error


async def _answer(ref: Awaitable[Any], *, timeout_s: float) -> Any:
    """The value behind a reference.

    What Ray raises about a missing learner becomes LearnerAway, and so does what a learner raises that cannot log,
    or may not any more: it has acknowledged nothing, and is about to be itself again or replaced.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await ref
    except RayTaskError as error:
        if isinstance(error.cause, LogError):
            raise LearnerAway(str(error.cause)) from error
        if isinstance(error.cause, LearnerError):
            raise error.cause from None
        raise
    except ActorDiedError as error:
        raise _LearnerGone(_why_it_died(error)) from error
    except (RayError, TimeoutError) as error:
        raise LearnerAway(f"{type(error).__name__}: {error}") from error


def _why_it_died(error: ActorDiedError) -> str:
    """Of a learner that could not start the last line of Ray's text, which is what its constructor raised."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{CANNOT_START}: {lines[-1]}" if "creation task" in text else text
