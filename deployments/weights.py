"""The subscriber: keeps a replica's weights the newest, and knows how sure that is.

Weights are pulled. The replica polls with the version that it has, and the learner answers when there is a
newer one, or after a heartbeat. A replica that starts late, or missed any number of versions, needs nothing
else.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from gating.head import score
from learner.errors import LearnerError
from learner.protocol import PollReply, ReplicaStatus
from learner.signals import Signal
from learner.state import SNAPSHOT_FORMATS, HeadSnapshot

from .errors import LearnerAway
from .learner_client import LearnerClient

logger = logging.getLogger(__name__)

_RETRY_S = 0.2
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Weights:
    """A snapshot ready for scoring: its numbers as tensors on the replica's device.

    Attributes:
        stream: on CUDA the one on which they were copied and are scored with: on the engine's own, scoring, and the
            event loop with it, would wait for the batches that have begun.
    """

    snapshot: HeadSnapshot
    weight: Float[Tensor, "uid hidden"]
    bias: Float[Tensor, " uid"]
    bonus: Float[Tensor, " uid"]
    stream: torch.cuda.Stream | None = None

    def score(
        self, embedding: Float[Tensor, "batch hidden"], uids: NDArray[np.int64] | None
    ) -> Float[np.ndarray, "batch uid"]:
        """Mean scores.

        Args:
            embedding: of each text, in the host's memory.
            uids: whose, in this order; None for all.
        """
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            weight, bias = self.weight, self.bias
            if uids is not None:
                columns = torch.from_numpy(uids).to(weight.device)
                weight, bias = weight[columns], bias[columns]
            scores: np.ndarray = score(embedding.to(weight.device), weight, bias).cpu().numpy()
        return scores


class Subscriber:
    """Follows the learner. `current` is replaced as a whole, and only by something newer.

    Args:
        client: the learner.
        status: what the replica tells of itself at each poll.
        fingerprint: the replica's encoder; weights for another are refused.
        device: where scores are computed.
        heartbeat_s: longest time between two answers of the learner.
        max_age_s: unconfirmed for longer than this is degraded.
    """

    def __init__(
        self,
        client: LearnerClient,
        *,
        status: Callable[[], ReplicaStatus],
        fingerprint: str,
        device: torch.device,
        heartbeat_s: float,
        max_age_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._status = status
        self._fingerprint = fingerprint
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._heartbeat_s = heartbeat_s
        self._max_age_s = max_age_s
        self._clock = clock
        self._confirmed_s: float | None = None
        self._changed = Signal()
        self.current: Weights | None = None
        self.away_because: str | None = None
        """Why the last poll had no answer; None if it had one."""
        self.asked = 0
        """`PollReply.asked` of the last answer."""

    @property
    def age_s(self) -> float | None:
        """Seconds since the learner last confirmed that the current version is its newest; None before that."""
        return None if self._confirmed_s is None else self._clock() - self._confirmed_s

    def is_degraded(self, age_s: float | None) -> bool:
        """Whether weights of that age may be too old."""
        return age_s is None or age_s > self._max_age_s

    async def start(self, load_saved: Callable[[], HeadSnapshot | None], *, patience_s: float = _PATIENCE_S) -> None:
        """Get the first weights: the learner's, or saved ones while it is away.

        Args:
            load_saved: gives the saved ones, None if there are none; it may block.
            patience_s: how long the learner may be silent, as one that starts or hangs is.

        Raises:
            LearnerError: the learner that runs is not this replica's.
        """
        try:
            async with asyncio.timeout(patience_s):
                await self.poll_once()
        except (LearnerAway, TimeoutError) as error:
            logger.warning("started_without_learner because=%s", self.away_because or type(error).__name__)
            saved = await asyncio.to_thread(load_saved)
            if saved is not None and self.start_from(saved):
                logger.warning("serving_saved_weights epoch=%d version=%d", *saved.order)

    def start_from(self, snapshot: HeadSnapshot) -> bool:
        """Serve saved weights until the learner confirms or replaces them; how old they are is not known till then.

        Returns:
            False if they are of no use: no newer than the current ones, or in another format.

        Raises:
            LearnerError: they are for another encoder.
        """
        return self._take(snapshot)

    async def wait_for_version(self, version: int, timeout_s: float) -> bool:
        """Wait until the current version is at least this one; whether it is."""
        return await self._changed.wait_until(
            lambda: self.current is not None and self.current.snapshot.version >= version, timeout_s
        )

    async def run(self) -> None:
        """Follow the learner until cancelled. The one place where polls are repeated.

        Raises:
            LearnerError: the learner that runs is not this replica's (another encoder, other settings).
        """
        away = False
        while True:
            try:
                if not await self.poll_once():
                    # The learner would offer the same again at once.
                    await asyncio.sleep(self._heartbeat_s)
                away = False
            except LearnerAway as error:
                if not away:
                    logger.warning("learner_away because=%s", error.because)
                away = True
                await asyncio.sleep(_RETRY_S * random.uniform(0.5, 1.5))

    async def poll_once(self) -> bool:
        """One poll: take newer weights, or have the current ones confirmed.

        Returns:
            False if the weights that there are are of no use: older than the current ones, or in another format.

        Raises:
            LearnerAway: the learner did not answer; the current weights stay.
        """
        wait_s = self._heartbeat_s * random.uniform(0.5, 1.0)
        try:
            reply, snapshot = await self._client.poll(self._status(), wait_s)
        except LearnerAway as error:
            self.away_because = error.because
            raise
        self.away_because = None
        self.asked = reply.asked
        of_use = not self._misses(reply) if snapshot is None else self._take(snapshot)
        if self.current is not None and self.current.snapshot.order == (reply.epoch, reply.version):
            self._confirmed_s = self._clock()
        return of_use

    def _misses(self, reply: PollReply) -> bool:
        """Whether there is a newer version in no layout that this replica reads."""
        have = self.current.snapshot.order if self.current else (0, 0)
        if (reply.epoch, reply.version) <= have:
            return False
        logger.error("no_snapshot_to_read version=%d, this replica reads formats %s", reply.version, SNAPSHOT_FORMATS)
        return True

    def _take(self, snapshot: HeadSnapshot) -> bool:
        if snapshot.format not in SNAPSHOT_FORMATS:
            logger.error("refused_snapshot format=%d reads=%s", snapshot.format, SNAPSHOT_FORMATS)
            return False
        if snapshot.fingerprint != self._fingerprint:
            raise LearnerError(
                f"weights for encoder {snapshot.fingerprint[:12]} were published to a replica with encoder "
                f"{self._fingerprint[:12]}"
            )
        if self.current is not None and snapshot.order <= self.current.snapshot.order:
            return False
        self.current = load_weights(snapshot, self._device, self._stream)
        self._changed.notify()
        return True


def load_weights(snapshot: HeadSnapshot, device: torch.device, stream: torch.cuda.Stream | None = None) -> Weights:
    """The snapshot's numbers as tensors: on the CPU the very memory of the object store, elsewhere one copy.

    Args:
        snapshot: the numbers.
        device: where to have them.
        stream: on CUDA, see `Weights`.
    """
    weight, bias, bonus = (
        _to_device(array, device, stream) for array in (snapshot.weight, snapshot.bias, snapshot.bonus)
    )
    return Weights(snapshot, weight, bias, bonus, stream)


def _to_device(array: NDArray[Any], device: torch.device, stream: torch.cuda.Stream | None) -> Tensor:
    with warnings.catch_warnings():
        # The object store's memory is read-only and torch cannot say so of a tensor; nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    if stream is None:
        return tensor.to(device)
    with torch.cuda.stream(stream):
        # The host does not wait for the copy; on this stream scoring comes after it.
        return tensor.pin_memory().to(device, non_blocking=True)
