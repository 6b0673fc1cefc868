"""What a replica does: it encodes, scores and answers. See `app` for the deployment that it is of."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any

import numpy as np
from fastapi import FastAPI
from ray import serve

from gating import build_encoder
from gating.metagraph import MetagraphView
from learner.config import MEMORY_URL
from learner.logs import start_logging
from learner.memory import keep_freed_memory
from learner.on_ray import ray_log_folder, this_node
from learner.protocol import ReplicaStatus
from learner.startup import LearnerArgs
from learner.state import SNAPSHOT_FORMATS
from learner.tracing import NO_TRACER

from .api import build_api
from .auth import Doorkeeper, build_authenticator, check_exposure
from .config import ServeArgs
from .decisions import DecisionBuffer
from .embedding_cache import EmbeddingCache
from .engine import autoscaling_stats, build_batcher, engine_status, engine_threads
from .errors import LearnerAway
from .gate import Gate
from .http_tally import HttpTally, Tallied
from .metrics import build_replica_metrics, report_until_cancelled
from .nodes import ClusterNodes, fetch_cluster
from .ray_learner import RayLearner
from .replica_metrics import ReplicaParts
from .reporting import Reporter
from .request_scope import log_context
from .saved_weights import load_saved_weights
from .scorer import Scorer
from .serve_client import serve_client
from .serve_tracing import learner_tracing, replica_tracer
from .state_view import StateView
from .weights import Subscriber

logger = logging.getLogger(__name__)


class GateReplica:
    """One replica: engine, weights, decisions and routes, and the tasks that keep them going."""

    def __init__(self, args: ServeArgs) -> None:
        context = serve.get_replica_context()
        # `tidegate serve` has checked this before; a plain `serve run` reaches the check only here.
        check_exposure(args.auth, serve_client().http_config.host)
        keep_freed_memory()
        self._args = args
        self._id = context.replica_tag
        start_logging(
            args.logging,
            component=f"replica-{context.app_name}-{context.replica_tag}",
            about={"application": context.app_name, "component": "replica", "replica": context.replica_tag},
            folder=ray_log_folder(),
            context=log_context,
            tells_errors=args.logging.log_prompts,
        )
        self._tracer = replica_tracer()
        self._node = this_node()
        encoder = build_encoder(
            args.encoder.kind,
            args.encoder.model_name,
            device=args.encoder.device,
            dtype=args.encoder.dtype,
            batch_tokens=args.encoder.batch_tokens,
        )
        self._batcher = build_batcher(
            encoder,
            args.serving,
            batch_tokens=args.encoder.batch_tokens,
            threads=engine_threads(args, encoder.device),
            warm_up=True,
            tracer=self._tracer,
        )
        self._embeddings = EmbeddingCache(self._batcher, max_bytes=int(args.serving.embedding_cache_mb * 2**20))
        self._learner_args = LearnerArgs(
            context.app_name,
            args.chain,
            args.learner,
            encoder.dim,
            encoder.fingerprint,
            args.selection.build(),
            logging=args.logging,
            tracing=learner_tracing(),
        )
        self._learner = RayLearner(
            self._learner_args,
            num_cpus=args.replica.learner_num_cpus,
            node_labels=args.replica.learner_node_labels,
            tracer=self._tracer,
        )
        self._decisions = DecisionBuffer(
            self._learner, fingerprint=encoder.fingerprint, capacity=args.serving.max_buffered_decisions
        )
        self._subscriber = Subscriber(
            self._learner,
            status=self.status,
            fingerprint=encoder.fingerprint,
            device=encoder.device,
            heartbeat_s=args.learner.heartbeat_s,
            max_age_s=args.serving.max_age_s,
        )
        self._doorkeeper = Doorkeeper(
            build_authenticator(args.auth, learner=self._learner, current_view=self._current_view)
        )
        self._http = HttpTally()
        parts = ReplicaParts(
            self._batcher, self._embeddings, self._subscriber, self._decisions, self._doorkeeper, self._http
        )
        self._metrics = build_replica_metrics(parts, app=context.app_name, replica=context.replica_tag)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Get the first weights, from the learner or else from its newest checkpoint, then follow the learner.

        Raises:
            LearnerError: the learner that runs is none that this replica can use.
        """
        await self._subscriber.start(lambda: load_saved_weights(self._learner_args))
        work = (self._subscriber.run(), self._decisions.run(), report_until_cancelled(self._metrics.report))
        self._tasks = [self._background(task) for task in work]
        logger.info("replica_started threads=%d traced=%s", self._batcher.threads, self._tracer is not NO_TRACER)

    def build_routes(self) -> FastAPI:
        """The HTTP application."""
        scorer = Scorer(
            embeddings=self._embeddings,
            subscriber=self._subscriber,
            decisions=self._decisions,
            selection=self._args.selection,
            serving=self._args.serving,
            durable_log=self._args.learner.log.url != MEMORY_URL,
            generator=np.random.default_rng(),
            tracer=self._tracer,
        )
        reporter = Reporter(
            client=self._learner,
            scorer=scorer,
            decisions=self._decisions,
            subscriber=self._subscriber,
            wait_timeout_s=self._args.serving.wait_timeout_s,
            tracer=self._tracer,
        )
        state = StateView(
            self._learner, self._subscriber, self.status, self._doorkeeper.failures, ClusterNodes(fetch_cluster)
        )
        limit = self._args.serving.max_body_bytes
        api = build_api(
            Gate(scorer, reporter, self._learner, state, self._doorkeeper, limit, self._args.logging, self._tracer)
        )
        api.add_middleware(Tallied, tally=self._http)
        return api

    def status(self) -> ReplicaStatus:
        """What this replica tells about itself."""
        current = self._subscriber.current
        return ReplicaStatus(
            id=self._id,
            pid=os.getpid(),
            incarnation=self._decisions.incarnation,
            issued=self._decisions.issued,
            epoch=current.snapshot.epoch if current else 0,
            version=current.snapshot.version if current else 0,
            age_s=self._subscriber.age_s,
            queued_texts=self._batcher.queued_texts,
            texts=self._batcher.texts_done,
            buffered_decisions=len(self._decisions),
            node=self._node,
            **engine_status(self._batcher, self._embeddings),
            reads=SNAPSHOT_FORMATS,
            learner=self._learner.wanted,
            asked=self._subscriber.asked,
        )

    def _current_view(self) -> MetagraphView | None:
        current = self._subscriber.current
        return current.snapshot.view if current else None

    def check_health(self) -> None:
        """Serve's health check. Raises only for what a restart cures: a dead engine, a task that ended."""
        self._batcher.check_alive()
        for task in self._tasks:
            if task.done():
                task.result()

    def autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy decides by."""
        return autoscaling_stats(self._batcher)

    async def stop(self) -> None:
        """Hand over the last decisions."""
        for task in self._tasks:
            task.cancel()
        try:
            await self._decisions.flush()
        except LearnerAway:
            logger.warning("decisions_not_handed_over count=%d", len(self._decisions))
        self._batcher.close()
        self._tracer.flush()
        logger.info("replica_stopped texts=%d", self._batcher.texts_done)

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)
