"""The micro-batcher: texts wait in one queue, and engine threads drain it whenever they are free.

Each engine thread computes batches of its own on one core: the cores of a machine do more with a forward pass each than
with one that they share. While all of them work, texts gather and a further thread tokenizes them; the next batch is
what has gathered, up to a budget of tokens (`waiting` says in which order). So batches grow with the load. Where an
engine thread is idle it tokenizes what comes itself, which saves a lone text the way through the other one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from learner.tracing import NO_TRACER, Span, Tracer

from .admission import Admission, QueueFullError, Speed
from .batches import Batches
from .latencies import Latencies
from .waiting import Deliver, Job, WaitingTexts

__all__ = ["Batcher", "Engine", "EngineDeadError", "QueueFullError", "estimate_tokens"]

logger = logging.getLogger(__name__)

_MIN_BUDGET = 64
_LEAST_SHARE = 128
_WARM_UP_TEXT = "the tide turns twice a day, and the gate with it; " * 4
_WARM_UP_TEXTS = 16
_NEWEST_GAP = 0.1


class Engine(Protocol):
    """What the batcher needs of an encoder. Several threads call both at the same time."""

    def tokenize(self, texts: Sequence[str]) -> Sequence[Any]:
        """The texts as `embed` takes them, each with its `num_tokens`."""
        ...

    def embed(self, tokenized: Sequence[Any]) -> Float[Tensor, "batch hidden"]:
        """Embeddings in the order given."""
        ...


class EngineDeadError(Exception):
    """A thread of the engine has ended; only a restart cures that."""

    def __init__(self) -> None:
        super().__init__("the engine thread has ended")


class Batcher:
    """Embeds many texts at a time.

    Args:
        engine: tokenizes and embeds.
        admission: says who may wait.
        batch_tokens: most tokens in a batch, one text apart that has more.
        max_batch_s: how long a batch may take at the speed that was measured, so that a slow engine takes small ones.
        max_overtaken_s: how long later, shorter texts may be taken before one.
        linger_s: how long an idle engine waits for company, if texts come so often that some is to be expected.
        threads: how many batches are computed at a time, each on one CPU thread.
        warm_up: embed a few made-up texts first: it makes the first request fast, and the speed known.
        clock: seconds that only go forward.
        tracer: told of each batch that has a text of a request that is traced.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        admission: Admission,
        batch_tokens: int,
        max_batch_s: float,
        max_overtaken_s: float,
        linger_s: float,
        threads: int,
        warm_up: bool = False,
        clock: Callable[[], float] = time.monotonic,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._batch_tokens = batch_tokens
        self._max_batch_s = max_batch_s
        self._linger_s = linger_s
        self.threads = threads
        self._clock = clock
        self._tracer = tracer
        self._lock = threading.Lock()
        self._engine_wakes = threading.Condition(self._lock)
        self._tokenizer_wakes = threading.Condition(self._lock)
        self._arrived: deque[Job] = deque()
        self._waiting = WaitingTexts(max_overtaken_s)
        self._last_arrival_s = clock()
        self._arrival_gap_s = float("inf")
        self._tokenizing = self._stopping = self._ended = False
        self._working: dict[int, tuple[int, float]] = {}
        """The engine threads that are not idle: tokens of the batch that each computes, and since when."""
        self.queued_tokens = 0
        self.queued_texts = 0
        self.texts_done = 0
        self.offered_tokens = 0
        """All that were to be embedded, those of requests that were not let in included."""
        self.refused_tokens = 0
        self.speed = Speed()
        self.latencies = Latencies()
        self.batches = Batches()
        self._threads_running = [
            threading.Thread(target=self._run_tokenizer, name="tokenizer", daemon=True),
            *(
                threading.Thread(target=self._run_engine, args=(warm_up and not number,), name="engine", daemon=True)
                for number in range(threads)
            ),
        ]
        for thread in self._threads_running:
            thread.start()

    @property
    def budget(self) -> int:
        """Tokens that the next batch may have."""
        if self.speed.tokens_per_s is None:
            return self._batch_tokens
        return int(min(self._batch_tokens, max(self.speed.tokens_per_s * self._max_batch_s, _MIN_BUDGET)))

    @property
    def tokens_per_s(self) -> float | None:
        """What all engine threads do together; None before the first batch."""
        return None if self.speed.tokens_per_s is None else self.speed.tokens_per_s * self.threads

    @property
    def admission(self) -> Admission:
        """Says who may wait, and whom it has refused."""
        return self._admission

    @property
    def delay_s(self) -> float | None:
        """How long what comes now would wait; None before the first batch."""
        speed = self.tokens_per_s
        return None if speed is None else self.queued_tokens / speed

    @property
    def busy_s(self) -> float:
        """How long the engine has worked; while only some of its threads do, that share of the time."""
        return self.batches.seconds / self.threads

    def submit(self, texts: Sequence[str], deliver: Deliver) -> list[Job]:
        """Let texts wait for the engine. Called on an event loop, on which each is delivered.

        Args:
            texts: one request's.
            deliver: called once for every text that is not dropped before.

        Raises:
            QueueFullError: too much waits already; nothing was queued.
            EngineDeadError: a thread of the engine has ended.
        """
        loop, now_s = asyncio.get_running_loop(), self._clock()
        asker = self._tracer.current()
        asked_by = () if asker is None else (asker,)
        jobs = [Job(text, estimate_tokens(text), now_s, loop, deliver, asked_by) for text in texts]
        wanted = sum(job.tokens for job in jobs)
        with self._lock:
            self.check_alive()
            self.offered_tokens += wanted
            try:
                self._admission.check(self.queued_tokens, self._left_in_work(now_s), self.tokens_per_s)
            except QueueFullError:
                self.refused_tokens += wanted
                raise
            self._arrived.extend(jobs)
            self.queued_tokens += wanted
            self.queued_texts += len(jobs)
            self._note_arrival(now_s)
            (self._engine_wakes if self._idle else self._tokenizer_wakes).notify()
        return jobs

    def share(self, job: Job) -> None:
        """Say that the current request wants this text too, so that its trace leads to the batch."""
        asker = self._tracer.current()
        if asker is not None and asker not in job.asked_by:
            job.asked_by = (*job.asked_by, asker)

    def drop(self, job: Job) -> bool:
        """Forget a text that nobody wants any more; False if the engine has taken it, and will deliver it."""
        with self._lock:
            if not job.waits:
                return False
            self._leave_queue(job)
            if job.tokenized is None:
                job.waits = False
            else:
                self._waiting.remove(job)
            return True

    def check_alive(self) -> None:
        """Raises EngineDeadError if a thread of the engine has ended."""
        if self._ended:
            raise EngineDeadError

    def close(self) -> None:
        """Let the engine finish its batch and end; what still waits fails."""
        self._stop()
        for thread in self._threads_running:
            thread.join()

    @property
    def _idle(self) -> int:
        return self.threads - len(self._working)

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._engine_wakes.notify_all()
            self._tokenizer_wakes.notify()

    def _note_arrival(self, now_s: float) -> None:
        """Keep the mean time between requests; a long pause is soon forgotten."""
        gap_s, self._last_arrival_s = now_s - self._last_arrival_s, now_s
        known_s = min(self._arrival_gap_s, 1.0)
        self._arrival_gap_s = known_s + _NEWEST_GAP * (gap_s - known_s)

    def _left_in_work(self, now_s: float) -> float:
        """Tokens that the engine threads have not got to, at the speed that was measured."""
        speed = self.speed.tokens_per_s or math.inf
        return sum(max(tokens - (now_s - since_s) * speed, 0.0) for tokens, since_s in self._working.values())

    def _leave_queue(self, job: Job) -> None:
        self.queued_tokens -= job.tokens
        self.queued_texts -= 1

    def _run_engine(self, warm_up: bool) -> None:
        torch.set_num_threads(1)
        try:
            if warm_up:
                self._warm_up()
            while batch := self._next_batch():
                self._embed(batch)
        finally:
            self._abandon()

    def _run_tokenizer(self) -> None:
        try:
            while claimed := self._next_claim():
                self._tokenize(claimed)
        finally:
            self._abandon()

    def _next_batch(self) -> list[Job]:
        """Wait for texts and take them; nothing once the engine is to end."""
        while True:
            with self._lock:
                self._working.pop(threading.get_ident(), None)
                if not self._engine_has_work():
                    self._engine_wakes.wait_for(self._engine_has_work)
                    self._linger()
                if self._stopping:
                    return []
                self._working[threading.get_ident()] = (0, self._clock())
                if self._waiting:
                    return self._take_batch()
                claimed = self._claim()
            if claimed:
                self._tokenize(claimed)

    def _next_claim(self) -> list[Job]:
        """Wait for texts to tokenize while all engine threads work; nothing once they are to end."""
        while True:
            with self._lock:
                self._tokenizer_wakes.wait_for(self._tokenizer_has_work)
                if self._stopping:
                    return []
                if claimed := self._claim():
                    return claimed

    def _engine_has_work(self) -> bool:
        return self._stopping or len(self._waiting) > 0 or (bool(self._arrived) and not self._tokenizing)

    def _tokenizer_has_work(self) -> bool:
        return self._stopping or (bool(self._arrived) and not self._idle and not self._tokenizing)

    def _linger(self) -> None:
        """Wait for company, unless the next text is not to be expected while that lasts."""
        if self._arrival_gap_s < self._linger_s:
            self._engine_wakes.wait_for(lambda: self._stopping or self.queued_tokens >= self.budget, self._linger_s)

    def _claim(self) -> list[Job]:
        """What to tokenize next: no more than one batch, so that the first texts are ready soon."""
        claimed: list[Job] = []
        tokens, budget = 0, self.budget
        while self._arrived and tokens < budget:
            job = self._arrived.popleft()
            if job.waits:
                claimed.append(job)
                tokens += job.tokens
        self._tokenizing = bool(claimed)
        return claimed

    def _take_batch(self) -> list[Job]:
        budget = self.budget
        if self._idle:
            budget = min(budget, max(self.queued_tokens // (1 + self._idle), _LEAST_SHARE))
        batch = self._waiting.take(budget, self._clock())
        for job in batch:
            self._leave_queue(job)
        self._working[threading.get_ident()] = (sum(job.tokens for job in batch), self._clock())
        if self._waiting:
            self._engine_wakes.notify()
        if self._arrived:
            # The tokenizer leaves texts to an engine thread as long as one is idle.
            (self._engine_wakes if self._idle else self._tokenizer_wakes).notify()
        return batch

    def _tokenize(self, jobs: list[Job]) -> None:
        tokenized: Sequence[Any] = ()
        with self._failing("tokenize", jobs):
            tokenized = self._engine.tokenize([job.text for job in jobs])
        with self._lock:
            self._tokenizing = False
            for job, tokens in zip(jobs, tokenized, strict=False):
                if job.waits:
                    self.queued_tokens += tokens.num_tokens - job.tokens
                    self.offered_tokens += tokens.num_tokens - job.tokens
                    job.tokens, job.tokenized = tokens.num_tokens, tokens
                    self._waiting.add(job)
            self._engine_wakes.notify()
            if self._arrived:
                self._tokenizer_wakes.notify()

    def _embed(self, batch: list[Job]) -> None:
        with self._failing("embed", batch), self._traced(batch):
            started_s = self._clock()
            with self._tracer.span("tidegate.engine"):
                embedding = _finished(self._engine.embed([job.tokenized for job in batch]))
            done_s = self._clock()
            with self._lock:
                self.texts_done += len(batch)
                self.speed.note(sum(job.tokens for job in batch), done_s - started_s, budget=self.budget)
                for job in batch:
                    self.latencies.note(job.tokens, started_s - job.arrived_s, done_s - job.arrived_s)
                self.batches.note(sum(job.tokens for job in batch), done_s - started_s)
                # Whoever asks again at once is tokenized here, not by the other thread.
                del self._working[threading.get_ident()]
            _deliver(zip(batch, torch.split(embedding, 1), strict=True))

    def _traced(self, batch: list[Job]) -> AbstractContextManager[Span]:
        """The batch's span: within that of the first of the traced requests that it is for, linked to all of them."""
        asked_by = dict.fromkeys(asker for job in batch for asker in job.asked_by)
        if not asked_by:
            return NO_TRACER.span("tidegate.batch")
        return self._tracer.span(
            "tidegate.batch",
            parent=next(iter(asked_by)),
            links=list(asked_by),
            texts=len(batch),
            tokens=sum(job.tokens for job in batch),
            longest_wait_ms=round((self._clock() - min(job.arrived_s for job in batch)) * 1000, 3),
        )

    @contextmanager
    def _failing(self, what: str, jobs: list[Job]) -> Iterator[None]:
        """Deliver an error to the texts that met it. The thread lives on: whatever they did to it, others are fine."""
        try:
            yield
        except Exception as error:
            logger.exception("engine_failed step=%s texts=%d", what, len(jobs))
            self._fail(jobs, error)
        except BaseException:
            self._fail(jobs, EngineDeadError())
            raise

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        with self._lock:
            for job in jobs:
                if job.waits:
                    job.waits = False
                    self._leave_queue(job)
        _deliver((job, error) for job in jobs)

    def _abandon(self) -> None:
        """Called as either thread ends; what the other one has in work comes here when that one ends."""
        self._stop()
        with self._lock:
            self._ended = True
            abandoned = [*self._waiting, *(job for job in self._arrived if job.waits)]
            self._waiting = WaitingTexts(0)
            self._arrived.clear()
        self._fail(abandoned, EngineDeadError())

    def _warm_up(self) -> None:
        try:
            _finished(self._engine.embed(self._engine.tokenize([_WARM_UP_TEXT])))
            tokenized = self._engine.tokenize([_WARM_UP_TEXT] * _WARM_UP_TEXTS)
            started_s = self._clock()
            _finished(self._engine.embed(tokenized))
            tokens = sum(tokens.num_tokens for tokens in tokenized)
            self.speed.note(tokens, self._clock() - started_s, budget=tokens)
        except Exception:
            # Whatever these texts did to it, a request's may be fine; if they are not, it is told so.
            logger.exception("warm_up_failed")


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: a token is some four characters, and two are special.

    Good enough to bound a queue until the text is tokenized.
    """
    return len(text) // 4 + 2


def _finished(embedding: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
    """The embedding in the host's memory, once it is computed: an accelerator's calls return before that.

    Were it left there, whoever looks at it later would wait for the batches that have begun meanwhile.
    """
    return embedding.cpu()


def _deliver(outcomes: Iterable[tuple[Job, Tensor | Exception]]) -> None:
    """Hand each outcome over on its event loop, waking every loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Tensor | Exception]]] = {}
    for job, outcome in outcomes:
        by_loop.setdefault(job.loop, []).append((job, outcome))
    for loop, here in by_loop.items():
        loop.call_soon_threadsafe(_deliver_here, here)


def _deliver_here(outcomes: list[tuple[Job, Tensor | Exception]]) -> None:
    for job, outcome in outcomes:
        job.deliver(job, outcome)
