"""What comes after a decision: rewards, an explanation, erasure. Decisions are handed over first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learner.core import ExplainedDecision
from learner.protocol import RewardItem
from learner.tracing import NO_TRACER, Tracer

from .decisions import DecisionBuffer
from .learner_client import LearnerClient
from .request_scope import note_decisions
from .schemas import RewardIn, RewardsRequest
from .scorer import Scorer
from .weights import Subscriber


class Reporter:
    """Answers reward requests, and requests about decisions.

    Args:
        client: the learner.
        scorer: encodes messages.
        decisions: this replica's decisions on their way to the learner.
        subscriber: this replica's weights.
        wait_timeout_s: how long `wait` waits.
        tracer: told of each report.
    """

    def __init__(
        self,
        *,
        client: LearnerClient,
        scorer: Scorer,
        decisions: DecisionBuffer,
        subscriber: Subscriber,
        wait_timeout_s: float,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._client = client
        self._scorer = scorer
        self._decisions = decisions
        self._subscriber = subscriber
        self._wait_timeout_s = wait_timeout_s
        self._tracer = tracer

    async def report(self, request: RewardsRequest, *, author: str) -> dict[str, Any]:
        """Have rewards logged as `author`'s, and wait for their effect if asked to.

        Raises:
            LearnerAway, LearnerError: nothing was acknowledged.
            Problem: a message cannot be encoded now.
        """
        note_decisions(reward.decision_id for reward in request.rewards if reward.decision_id is not None)
        items = await self._items(request.rewards, author)
        deadline_s = asyncio.get_running_loop().time() + self._wait_timeout_s
        await self._decisions.flush()
        with self._tracer.span("tidegate.report", items=len(items), wait=request.wait) as span:
            reply = await self._client.add_rewards(items, request.wait, self._wait_timeout_s)
            span.tell(accepted=reply.report.accepted, seq=reply.report.seq)
        reached = reply.reached
        if request.wait == "published" and reached:
            # Published is not yet here: an answer that follows from this replica must show it.
            left_s = max(deadline_s - asyncio.get_running_loop().time(), 0.0)
            reached = await self._subscriber.wait_for_version(reply.report.seq, left_s)
        return {
            "accepted": reply.report.accepted,
            "duplicates": reply.report.duplicates,
            "rejected": [_without_none(asdict(rejection)) for rejection in reply.report.rejected],
            "weights": {"epoch": reply.epoch, "version": reply.published_version},
            "version": reply.report.seq,
            "reached": reached,
        }

    async def explain(self, decision_id: str) -> ExplainedDecision | None:
        """A decision, also one that this replica has only just made, and its rewards so far.

        Raises:
            LearnerAway: the learner did not answer.
        """
        await self._decisions.flush()
        return await self._client.explain(decision_id)

    async def erase_embedding(self, decision_id: str, *, author: str) -> bool:
        """Forget a decision's embedding, see `explain`; whether the decision was known."""
        await self._decisions.flush()
        return await self._client.erase_embedding(decision_id, author)

    async def _items(self, rewards: Sequence[RewardIn], author: str) -> list[RewardItem]:
        embeddings = await self._embed([reward.message for reward in rewards if reward.message is not None])
        items = []
        for reward in rewards:
            embedding = embeddings.pop(0) if reward.message is not None else None
            items.append(
                RewardItem(
                    uids=tuple(reward.uids),
                    rewards=tuple(reward.rewards),
                    decision_id=reward.decision_id,
                    reward_id=reward.reward_id,
                    embedding=embedding,
                    author=author,
                )
            )
        return items

    async def _embed(self, messages: list[str]) -> list[NDArray[np.float16]]:
        if not messages:
            return []
        embedding = await self._scorer.embed(messages)
        return list(embedding.to("cpu", torch.float16).numpy())


def _without_none(rejection: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rejection.items() if value is not None}
