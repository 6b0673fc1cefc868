"""Decisions on their way to the learner: buffered, sent in batches, kept until the learner has logged them."""

from __future__ import annotations

import asyncio
import secrets
import time

from learner.events import Decision
from learner.protocol import DecisionBatch

from .errors import LearnerAway, Problem
from .learner_client import LearnerClient

_LINGER_S = 0.02
_BATCH = 256
_RETRY_S = 0.2


class DecisionBuffer:
    """Hands decisions to the learner at most 20 ms or 256 decisions old, in order, one batch at a time.

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
        self._arrived_s: list[float] = []
        self._taken = 0
        self._failures = 0
        self._failure = ""
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
        self._arrived_s.append(time.monotonic())
        self._arrived.set()
        if len(self._waiting) >= _BATCH:
            self._full_batch.set()

    async def flush(self) -> None:
        """Have the learner log everything that waits now; what comes later waits for its own turn.

        Raises:
            LearnerAway: it was not taken; it is kept and sent again.
        """
        upto, failures = self._taken + len(self._waiting), self._failures
        async with self._sending:
            while self._taken < upto:
                if self._failures != failures:
                    # Found out by another meanwhile: each trying for itself would keep the last one waiting for long.
                    raise LearnerAway(self._failure)
                await self._send()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._arrived.wait()
            if not self._waiting:
                # Another flush was quicker.
                continue
            left_s = self._arrived_s[0] + _LINGER_S - time.monotonic()
            try:
                async with asyncio.timeout(max(left_s, 0.0)):
                    await self._full_batch.wait()
            except TimeoutError:
                pass
            try:
                await self.flush()
            except LearnerAway:
                await asyncio.sleep(_RETRY_S)

    async def _send(self) -> None:
        batch = self._waiting[:_BATCH]
        try:
            await self._client.add_decisions(DecisionBatch.of(self._fingerprint, batch))
        except LearnerAway as error:
            self._failures += 1
            self._failure = str(error)
            raise
        self._taken += len(batch)
        del self._waiting[: len(batch)]
        del self._arrived_s[: len(batch)]
        if not self._waiting:
            self._arrived.clear()
        if len(self._waiting) < _BATCH:
            self._full_batch.clear()
