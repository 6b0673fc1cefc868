"""Decisions on their way to the learner: buffered, sent in batches, kept while the learner is away."""

from __future__ import annotations

import asyncio
import logging
import secrets

from learner.events import Decision, DecisionBatch

from .errors import LearnerAway, Problem
from .learner_client import LearnerClient

logger = logging.getLogger(__name__)

_LINGER_S = 0.02
_BATCH = 256
_RETRY_S = 0.2


class DecisionBuffer:
    """Hands decisions to the learner at most 20 ms or 256 decisions old.

    Args:
        client: the learner.
        fingerprint: the encoder that made the embeddings.
        capacity: how many decisions may wait while the learner is away.
    """

    def __init__(self, client: LearnerClient, *, fingerprint: str, capacity: int) -> None:
        self._client = client
        self._fingerprint = fingerprint
        self._capacity = capacity
        self._waiting: list[Decision] = []
        self._sending = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._full_batch = asyncio.Event()
        self.incarnation = secrets.token_hex(6)
        self.issued = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def next_id(self) -> str:
        """A new decision id: this replica's incarnation and a counter."""
        self.issued += 1
        return f"{self.incarnation}-{self.issued}"

    def check_room(self, count: int) -> None:
        """Raises a Problem if `count` more decisions cannot be kept now."""
        if len(self._waiting) + count > self._capacity:
            raise Problem(
                503,
                "decisions_full",
                f"{len(self._waiting)} decisions wait for the learner and there is no room for {count} more; "
                "send the request again later, or use score",
                retry_after_s=1,
            )

    def add(self, decision: Decision) -> None:
        """Keep a decision for the learner."""
        self._waiting.append(decision)
        self._arrived.set()
        if len(self._waiting) >= _BATCH:
            self._full_batch.set()

    async def flush(self) -> None:
        """Hand over everything that waits now.

        Raises:
            LearnerAway: it was not taken; it is kept and sent again.
        """
        async with self._sending:
            while self._waiting:
                batch = tuple(self._waiting[:_BATCH])
                await self._client.add_decisions(DecisionBatch(self._fingerprint, batch))
                del self._waiting[: len(batch)]
            self._arrived.clear()
            self._full_batch.clear()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._arrived.wait()
            try:
                async with asyncio.timeout(_LINGER_S):
                    await self._full_batch.wait()
            except TimeoutError:
                pass
            try:
                await self.flush()
            except LearnerAway:
                await asyncio.sleep(_RETRY_S)
