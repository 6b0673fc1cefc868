"""The micro-batcher: requests wait in one queue, one engine thread drains it whenever it is free.

No timer holds a request back: while the engine works, requests gather, and the next batch is whatever has
gathered, up to a budget of tokens. So batches grow with the load and a lone request runs at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], Float[Tensor, "batch hidden"]]


class QueueFullError(Exception):
    """The queue has no room for the request now."""


class EngineDeadError(Exception):
    """The engine thread has ended; only a restart cures that."""

    def __init__(self) -> None:
        super().__init__("the engine thread has ended")


@dataclass(slots=True, eq=False)
class _Job:
    texts: Sequence[str]
    tokens: list[int]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Tensor]
    taken: int = 0
    parts: list[Tensor] = field(default_factory=list)

    @property
    def waiting_tokens(self) -> int:
        return sum(self.tokens[self.taken :])


Part = tuple[_Job, int, int]
"""A job's texts from one position to another."""


class Batcher:
    """Embeds texts for many requests at a time.

    Args:
        embed: the engine: texts to embeddings, called from the engine thread only.
        batch_tokens: a batch takes texts in order of arrival until their estimated tokens exceed this.
        max_queue_tokens: a request that would make more than this wait is refused, unless nothing waits.
        threads: CPU threads that the engine may use.
    """

    def __init__(self, embed: Embed, *, batch_tokens: int, max_queue_tokens: int, threads: int) -> None:
        self._embed = embed
        self._batch_tokens = batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._threads = threads
        self._jobs: deque[_Job] = deque()
        self._queued_tokens = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._ended = False
        self.texts_done = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def queued_texts(self) -> int:
        """Texts that wait for the engine."""
        with self._changed:
            return sum(len(job.texts) - job.taken for job in self._jobs)

    async def embed(self, texts: Sequence[str]) -> Float[Tensor, "batch hidden"]:
        """Embeddings of the texts, in their order. Cancelling the call drops what the engine has not taken.

        Args:
            texts: at least one.

        Raises:
            QueueFullError: too much waits already; nothing was queued.
            EngineDeadError: the engine thread has ended, before or while the texts waited.
        """
        if not texts:
            raise ValueError("texts is empty; send at least one")
        loop = asyncio.get_running_loop()
        job = _Job(texts, [estimate_tokens(text) for text in texts], loop, loop.create_future())
        with self._changed:
            if self._ended:
                raise EngineDeadError
            wanted = sum(job.tokens)
            if self._queued_tokens and self._queued_tokens + wanted > self._max_queue_tokens:
                raise QueueFullError(
                    f"{self._queued_tokens} tokens wait for the engine and {wanted} more do not fit into "
                    f"{self._max_queue_tokens}"
                )
            self._jobs.append(job)
            self._queued_tokens += wanted
            self._changed.notify()
        try:
            return await job.future
        except asyncio.CancelledError:
            self._drop(job)
            raise

    def check_alive(self) -> None:
        """Raises EngineDeadError if the engine thread has ended."""
        if self._ended:
            raise EngineDeadError

    def close(self) -> None:
        """Let the engine finish its batch and end; what still waits fails."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _drop(self, job: _Job) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._queued_tokens -= job.waiting_tokens

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        batch: list[Part] = []
        try:
            while batch := self._next_batch():
                self._embed_batch(batch)
        finally:
            self._abandon([job for job, _, _ in batch])

    def _next_batch(self) -> list[Part]:
        """Wait for texts and take them; nothing once the engine is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            return [] if self._stopping else self._take()

    def _take(self) -> list[Part]:
        """The next texts in order of arrival, within the budget but at least one."""
        batch: list[Part] = []
        budget = self._batch_tokens
        while self._jobs:
            job = self._jobs[0]
            waiting = job.tokens[job.taken :]
            count = _count_fitting(waiting, budget) if batch else max(_count_fitting(waiting, budget), 1)
            if count == 0:
                break
            used = sum(waiting[:count])
            budget -= used
            self._queued_tokens -= used
            batch.append((job, job.taken, job.taken + count))
            job.taken += count
            if job.taken < len(job.texts):
                break
            self._jobs.popleft()
        return batch

    def _abandon(self, in_work: list[_Job]) -> None:
        with self._changed:
            self._ended = True
            abandoned = [*in_work, *self._jobs]
            self._jobs.clear()
            self._queued_tokens = 0
        for job in abandoned:
            job.loop.call_soon_threadsafe(_fail, job.future, EngineDeadError())

    def _embed_batch(self, batch: list[Part]) -> None:
        texts = [text for job, start, end in batch for text in job.texts[start:end]]
        try:
            embedding = self._embed(texts)
        except Exception as error:
            # The engine lives on: whatever these texts did to it, others may be fine.
            logger.exception("embed failed texts=%d", len(texts))
            for job, _, _ in batch:
                self._drop(job)
                job.loop.call_soon_threadsafe(_fail, job.future, error)
            return
        self.texts_done += len(texts)
        offset = 0
        for job, start, end in batch:
            job.parts.append(embedding[offset : offset + end - start])
            offset += end - start
            if end == len(job.texts):
                job.loop.call_soon_threadsafe(_complete, job.future, torch.cat(job.parts))


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: a token is some four characters, and two are special.

    Good enough to bound a queue; the engine counts real tokens when it plans its forward passes.
    """
    return len(text) // 4 + 2


def _count_fitting(tokens: Sequence[int], budget: int) -> int:
    """How many of these, from the first on, fit the budget together."""
    return bisect_right(list(accumulate(tokens)), budget)


def _complete(future: asyncio.Future[Tensor], embedding: Tensor) -> None:
    if not future.done():
        future.set_result(embedding)


def _fail(future: asyncio.Future[Tensor], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
