"""Scoring and selecting: texts -> embeddings -> scores -> uids, every answer from one version of the weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from gating.metagraph import MetagraphView, unknown_uids
from gating.policies import Greedy
from gating.selection import Selection, ordinary_bonus, select
from learner.events import Decision, candidates_digest
from learner.tracing import NO_TRACER, Tracer

from .admission import QueueFullError
from .batcher import EngineDeadError
from .config import SelectionArgs, ServingArgs
from .decisions import DecisionBuffer
from .embedding_cache import EmbeddingCache, NotFiniteError
from .errors import LearnerAway, LearnerAwayProblem, Problem
from .request_scope import note_decisions, note_texts
from .schemas import ScoreRequest, SelectRequest
from .weights import Subscriber, Weights

_GREEDY = Greedy()


@dataclass(frozen=True, slots=True)
class Scored:
    """Embeddings, the weights that scored them, and mean scores of the wanted uids, one column each."""

    embedding: Float[Tensor, "batch hidden"]
    weights: Weights
    uids: NDArray[np.int64]
    scores: Float[np.ndarray, "batch uid"]


class Scorer:
    """Answers score and select requests.

    Args:
        embeddings: embeds texts.
        subscriber: the weights.
        decisions: where selections go on their way to the learner.
        selection: how uids are chosen.
        serving: limits and patience.
        durable_log: whether the event log outlives the learner, so that durable selections can be had.
        generator: the randomness of selections.
        now_s: seconds since 1970.
        tracer: told of the parts of a request.
    """

    def __init__(
        self,
        *,
        embeddings: EmbeddingCache,
        subscriber: Subscriber,
        decisions: DecisionBuffer,
        selection: SelectionArgs,
        serving: ServingArgs,
        durable_log: bool,
        generator: np.random.Generator,
        now_s: Callable[[], float] = time.time,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._embeddings = embeddings
        self._subscriber = subscriber
        self._decisions = decisions
        self._policy = selection.build()
        self._serving = serving
        self._durable_log = durable_log
        self._generator = generator
        self._now_s = now_s
        self._tracer = tracer

    async def score(self, request: ScoreRequest) -> dict[str, Any]:
        """Mean scores, in uid order or in the request's, best first if `top_k` is given.

        Raises:
            Problem: see the HTTP contract.
        """
        scored = await self._score(request.messages, request.uids, request.min_version)
        if request.top_k is None:
            answers = [{"uids": scored.uids, "scores": row} for row in scored.scores]
        else:
            best = np.argsort(-scored.scores, axis=1, kind="stable")[:, : request.top_k]
            answers = [{"uids": scored.uids[b], "scores": row[b]} for b, row in zip(best, scored.scores, strict=True)]
        return {"scores": answers, **self.provenance(scored.weights)}

    async def score_dense(self, request: ScoreRequest) -> tuple[Float[np.ndarray, "batch uid"], dict[str, Any]]:
        """Mean scores in uid order or in the request's, and their provenance. `top_k` is not for this.

        Raises:
            Problem: see the HTTP contract.
        """
        scored = await self._score(request.messages, request.uids, request.min_version)
        return scored.scores, self.provenance(scored.weights)

    async def select(self, request: SelectRequest) -> dict[str, Any]:
        """Choose k available uids for each message, and hand the decisions to the learner.

        A durable selection is answered once they are in the event log.

        Raises:
            Problem: see the HTTP contract.
        """
        if request.durable and not self._durable_log:
            detail = "durable selections need an event log that outlives the learner; set learner.log.url"
            raise Problem(501, "not_available", detail)
        self._decisions.check_room(len(request.messages))
        scored = await self._score(request.messages, request.uids, request.min_version)
        # Again, since others may have filled it while the engine worked.
        self._decisions.check_room(len(request.messages))
        epoch, version = scored.weights.snapshot.order
        with self._tracer.span(
            "tidegate.selection", k=min(request.k, len(scored.uids)), epoch=epoch, version=version
        ) as span:
            ids, selections = self._choose(scored, request)
            span.tell(decision_ids=ids)
        note_decisions(ids)
        if request.durable:
            await self._wait_until_logged()
        answers = [
            {"decision_id": i, "uids": s.uids, "scores": s.scores, "propensities": s.propensities}
            for i, s in zip(ids, selections, strict=True)
        ]
        return {"selections": answers, **self.provenance(scored.weights)}

    def _choose(self, scored: Scored, request: SelectRequest) -> tuple[list[str], list[Selection]]:
        """Choose for each message, and keep the decisions for the learner."""
        snapshot = scored.weights.snapshot
        columns = np.flatnonzero(snapshot.available[scored.uids])
        candidates = scored.uids[columns]
        selections = select(
            scored.scores[:, columns],
            candidates,
            request.k,
            policy=self._policy if request.explore else _GREEDY,
            generator=self._generator,
            bonus=snapshot.bonus[candidates] if request.explore else None,
            ordinary=ordinary_bonus(snapshot.bonus[snapshot.available]),
        )
        digest = candidates_digest(candidates)
        ids = [
            self._record(scored, row, selection, len(candidates), digest) for row, selection in enumerate(selections)
        ]
        return ids, selections

    async def embed(self, messages: Sequence[str]) -> Float[Tensor, "batch hidden"]:
        """Embeddings of messages, which must not be longer than the limit.

        Raises:
            Problem: a message is too long, the queue is full, the engine has ended, or gave no numbers.
        """
        limit = self._serving.max_message_chars
        for index, message in enumerate(messages):
            if len(message) > limit:
                raise Problem(
                    422, "message_too_long", f"messages[{index}] has {len(message)} characters; at most {limit} fit"
                )
        note_texts(messages)
        try:
            with self._tracer.span("tidegate.embed", texts=len(messages)):
                return await self._embeddings.embed(messages)
        except QueueFullError as error:
            detail = f"{error}; send the request again later"
            raise Problem(429, "overloaded", detail, retry_after_s=error.retry_after_s) from error
        except EngineDeadError as error:
            raise Problem(503, "engine_dead", f"{error}; send the request again", retry_after_s=1) from error
        except NotFiniteError as error:
            raise Problem(500, "embedding_not_finite", str(error)) from error

    def provenance(self, weights: Weights) -> dict[str, Any]:
        """Which weights and which network an answer comes from."""
        snapshot, age_s = weights.snapshot, self._subscriber.age_s
        return {
            "weights": {
                "epoch": snapshot.epoch,
                "version": snapshot.version,
                "age_s": None if age_s is None else round(age_s, 3),
            },
            "metagraph": {"netuid": snapshot.view.netuid, "block": snapshot.view.block, "n": snapshot.view.n},
            "degraded": self._subscriber.is_degraded(age_s),
        }

    def current_weights(self) -> Weights:
        """The weights to answer with.

        Raises:
            Problem: none are loaded yet.
        """
        if self._subscriber.current is None:
            because = f" ({self._subscriber.away_because})" if self._subscriber.away_because else ""
            detail = f"no weights have been published yet{because}; send the request again"
            raise Problem(503, "no_weights", detail, retry_after_s=1)
        return self._subscriber.current

    async def _score(self, messages: Sequence[str], uids: list[int] | None, min_version: int | None) -> Scored:
        current = self.current_weights().snapshot
        # A version that is yet to come may bring uids.
        check_uids(uids, current.view if min_version is None or current.version >= min_version else None)
        embedding = await self.embed(messages)
        if min_version is not None:
            await self._wait_for_version(min_version)
        weights = self.current_weights()
        # Again, since the network may have changed while the engine worked.
        check_uids(uids, weights.snapshot.view)
        wanted = np.arange(weights.snapshot.view.n) if uids is None else np.asarray(uids, dtype=np.int64)
        with self._tracer.span("tidegate.score", uids=len(wanted), version=weights.snapshot.version):
            scores = weights.score(embedding, None if uids is None else wanted)
        return Scored(embedding=embedding, weights=weights, uids=wanted, scores=scores)

    async def _wait_for_version(self, version: int) -> None:
        if not await self._subscriber.wait_for_version(version, self._serving.wait_timeout_s):
            current = self._subscriber.current
            raise Problem(
                503,
                "version_pending",
                f"version {version} has not arrived; this replica has {current.snapshot.version if current else None}",
                retry_after_s=1,
            )

    async def _wait_until_logged(self) -> None:
        try:
            await self._decisions.flush()
        except LearnerAway as error:
            consequence = (
                "the selections were made and will be logged once it is back, but nobody is told of them; "
                "send the request again, or without durable"
            )
            raise LearnerAwayProblem(error, consequence) from error

    def _record(self, scored: Scored, row: int, selection: Selection, candidates: int, digest: str) -> str:
        snapshot = scored.weights.snapshot
        uids = tuple(selection.uids.tolist())
        decision = Decision(
            id=self._decisions.next_id(),
            time_s=self._now_s(),
            epoch=snapshot.epoch,
            version=snapshot.version,
            embedding=scored.embedding[row].to("cpu", torch.float16).numpy(),
            uids=uids,
            scores=tuple(selection.scores.tolist()),
            propensities=tuple(selection.propensities.tolist()),
            hotkeys=tuple(snapshot.view.hotkeys[uid] for uid in uids),
            candidates=candidates,
            candidates_digest=digest,
        )
        self._decisions.add(decision)
        return decision.id


def check_uids(uids: Sequence[int] | None, view: MetagraphView | None) -> None:
    """Raises a Problem if a uid is repeated, or the network, where it is known, does not have it."""
    if uids is None:
        return
    if len(set(uids)) != len(uids):
        raise Problem(422, "repeated_uid", "uids names a uid twice; name each once")
    if view is None:
        return
    unknown = unknown_uids(view, uids)
    if unknown:
        raise Problem(422, "unknown_uid", f"uids {unknown[:10]} are unknown; the network has uids 0 to {view.n - 1}")
