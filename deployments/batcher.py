"""The micro-batcher: requests wait in one queue, one engine thread drains it whenever it is free.

No timer holds a request back: while the engine works, requests gather, and the next batch is whatever has
gathered, up to a budget of tokens. So batches grow with the load and a lone request runs at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], Float[Tensor, "batch hidden"]]


class QueueFullError(Exception):
    """The queue has no room for the request now."""


class EngineDeadError(Exception):
    """The engine thread has ended; only a restart cures that."""


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

        Raises:
            QueueFullError: too much waits already; nothing was queued.
            EngineDeadError: the engine thread has ended.
        """
        self.check_alive()
        loop = asyncio.get_running_loop()
        job = _Job(texts, [estimate_tokens(text) for text in texts], loop, loop.create_future())
        with self._changed:
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
        if not self._thread.is_alive():
            raise EngineDeadError("the engine thread has ended")

    def close(self) -> None:
        """Let the engine finish its batch and end; what still waits is not answered."""
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
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if self._stopping:
                    return
                batch = self._take()
            self._embed_batch(batch)

    def _take(self) -> list[tuple[_Job, int, int]]:
        """The next texts in order of arrival, as (job, from, to), within the budget but at least one text."""
        batch: list[tuple[_Job, int, int]] = []
        budget = self._batch_tokens
        while self._jobs:
            job = self._jobs[0]
            start = job.taken
            while job.taken < len(job.texts) and (
                job.tokens[job.taken] <= budget or (not batch and job.taken == start)
            ):
                budget -= job.tokens[job.taken]
                self._queued_tokens -= job.tokens[job.taken]
                job.taken += 1
            if job.taken > start:
                batch.append((job, start, job.taken))
            if job.taken < len(job.texts):
                break
            self._jobs.popleft()
        return batch

    def _embed_batch(self, batch: list[tuple[_Job, int, int]]) -> None:
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


def _complete(future: asyncio.Future[Tensor], embedding: Tensor) -> None:
    if not future.done():
        future.set_result(embedding)


def _fail(future: asyncio.Future[Tensor], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
