"""One replica without Ray: the real routes over a real batcher, subscriber and learner, with a tiny encoder."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deployments.api import Gate, build_api
from deployments.auth import Doorkeeper, build_authenticator
from deployments.batcher import estimate_tokens
from deployments.config import AuthArgs, NoAuthArgs, SelectionArgs, ServingArgs
from deployments.decisions import DecisionBuffer
from deployments.embedding_cache import EmbeddingCache
from deployments.engine import build_batcher, engine_status
from deployments.nodes import ClusterNodes
from deployments.reporting import Reporter
from deployments.scorer import Scorer
from deployments.state_view import StateView
from deployments.weights import Subscriber
from gating.metagraph import MetagraphView
from learner.config import AdagradConfig, LoggingConfig, SoftmaxMseConfig
from learner.protocol import Node, ReplicaStatus
from learner.tracing import NO_TRACER, Tracer

from .local_learner import LocalLearner

DIM = 8
FINGERPRINT = "hash-8"
N = 10
UNAVAILABLE = 3
NODES: list[dict[str, Any]] = [
    {"id": "n0de", "ip": "10.0.0.7", "hostname": "worker-7", "is_head": False, "resources": {"CPU": 4.0}}
]
VIEW = MetagraphView(
    hotkeys=tuple(f"hotkey-{uid}" for uid in range(N)),
    available=tuple(uid != UNAVAILABLE for uid in range(N)),
    registered_at=(None,) * N,
    netuid=7,
    block=100,
)


def embed_text(text: str) -> NDArray[np.float32]:
    """A vector that depends on nothing but the text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


def embed_texts(texts: Sequence[str]) -> Tensor:
    return torch.from_numpy(np.stack([embed_text(text) for text in texts]))


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text that has as many tokens as estimated, but with "CJK" in it four times as many."""

    text: str

    @property
    def num_tokens(self) -> int:
        return estimate_tokens(self.text) * (4 if "CJK" in self.text else 1)


class Engine:
    """Embeds by hash, keeps the batches that it was given, and can be held in the middle of one."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.tokenized: list[str] = []
        self.tokenizing_threads: list[str] = []
        self.failing: dict[str, BaseException] = {}
        self.overflowing: set[str] = set()
        self.may_tokenize = threading.Event()
        self.may_tokenize.set()
        self._changed = threading.Condition()
        self._allowed = float("inf")
        self._begun = 0

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.batches for text in batch]

    def hold(self) -> None:
        """From now on a batch waits inside the engine until it is let through."""
        with self._changed:
            self._allowed = self._begun

    def let_through(self, batches: float = float("inf")) -> None:
        with self._changed:
            self._allowed += batches
            self._changed.notify_all()

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        self.tokenizing_threads.append(threading.current_thread().name)
        for text in texts:
            if text.startswith("cannot be tokenized"):
                raise ValueError(text)
            if text.startswith("deadly to tokenize"):
                raise SystemExit
        if not self.may_tokenize.wait(timeout=20):
            raise TimeoutError("the tokenizer was held and never let go")
        self.tokenized += texts
        return [Tokens(text) for text in texts]

    def embed(self, tokenized: Sequence[Tokens]) -> Tensor:
        texts = [tokens.text for tokens in tokenized]
        with self._changed:
            self.batches.append(texts)
            self._begun += 1
            mine = self._begun
            if not self._changed.wait_for(lambda: mine <= self._allowed, timeout=20):
                raise TimeoutError("the engine was held and never let go")
        for text in texts:
            if text in self.failing:
                raise self.failing[text]
        embedding = embed_texts(texts)
        embedding[[text in self.overflowing for text in texts], 0] = float("inf")
        return embedding


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Let everything else run until the condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (a condition of any kind, without a hook to wait on)
            await asyncio.sleep(0)


class LocalService:
    """A replica, its learner, and an HTTP client in front of it."""

    def __init__(
        self,
        *,
        rule: SoftmaxMseConfig | AdagradConfig | None = None,
        serving: ServingArgs | None = None,
        selection: SelectionArgs | None = None,
        view: MetagraphView = VIEW,
        batch_tokens: int = 40,
        heartbeat_s: float = 0.002,
        max_age_s: float = 10.0,
        auth: AuthArgs | None = None,
        learner: LocalLearner | None = None,
        durable_log: bool = False,
        name: str = "replica-a",
        logging: LoggingConfig | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        serving = serving or ServingArgs()
        self.name = name
        self.now_s = 1000.0
        self.engine = Engine()
        self.learner = learner or LocalLearner(view, dim=DIM, fingerprint=FINGERPRINT, rule=rule or SoftmaxMseConfig())
        self.batcher = build_batcher(self.engine, serving, batch_tokens=batch_tokens, threads=1, tracer=tracer)
        self.embeddings = EmbeddingCache(self.batcher, max_bytes=int(serving.embedding_cache_mb * 2**20))
        self.decisions = DecisionBuffer(self.learner, fingerprint=FINGERPRINT, capacity=serving.max_buffered_decisions)
        self.subscriber = Subscriber(
            self.learner,
            status=self.status,
            fingerprint=FINGERPRINT,
            device=torch.device("cpu"),
            heartbeat_s=heartbeat_s,
            max_age_s=max_age_s,
            clock=lambda: self.now_s,
        )
        scorer = Scorer(
            embeddings=self.embeddings,
            subscriber=self.subscriber,
            decisions=self.decisions,
            selection=selection or SelectionArgs(),
            serving=serving,
            durable_log=durable_log,
            generator=np.random.default_rng(0),
            now_s=lambda: 1_700_000_000.0,
            tracer=tracer,
        )
        reporter = Reporter(
            client=self.learner,
            scorer=scorer,
            decisions=self.decisions,
            subscriber=self.subscriber,
            wait_timeout_s=serving.wait_timeout_s,
            tracer=tracer,
        )
        self.doorkeeper = Doorkeeper(
            build_authenticator(auth or NoAuthArgs(), learner=self.learner, current_view=self.current_view)
        )
        state = StateView(
            self.learner,
            self.subscriber,
            self.status,
            self.doorkeeper.failures,
            ClusterNodes(lambda: {"nodes": NODES, "target_replicas": 1}),
        )
        self.gate = Gate(
            scorer,
            reporter,
            self.learner,
            state,
            self.doorkeeper,
            serving.max_body_bytes,
            logging or LoggingConfig(),
            tracer,
        )
        self.api = build_api(self.gate)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.api, raise_app_exceptions=False), base_url="http://gate"
        )

    async def close(self) -> None:
        self.engine.let_through()
        await self.http.aclose()
        await asyncio.to_thread(self.batcher.close)

    def current_view(self) -> MetagraphView | None:
        return self.subscriber.current.snapshot.view if self.subscriber.current else None

    def status(self) -> ReplicaStatus:
        current = self.subscriber.current
        return ReplicaStatus(
            id=self.name,
            pid=1,
            incarnation=self.decisions.incarnation,
            issued=self.decisions.issued,
            epoch=current.snapshot.epoch if current else 0,
            version=current.snapshot.version if current else 0,
            age_s=self.subscriber.age_s,
            queued_texts=self.batcher.queued_texts,
            texts=self.batcher.texts_done,
            buffered_decisions=len(self.decisions),
            node=Node("n0de", "10.0.0.7", "worker-7"),
            **engine_status(self.batcher, self.embeddings),
        )

    def snapshot_scores(self, messages: Sequence[str]) -> NDArray[np.float64]:
        """What the published weights give for the messages, in plain numpy."""
        snapshot = self.learner.published
        assert snapshot is not None
        embedding = np.stack([embed_text(message) for message in messages]).astype(np.float64)
        scores: NDArray[np.float64] = embedding @ snapshot.weight.T.astype(np.float64) + snapshot.bias
        return scores

    def everything(self) -> dict[str, Any]:
        """All that a refused request must leave as it was."""
        return {
            "learner": self.learner.core.describe(),
            "uids": self.learner.core.uid_table(),
            "issued": self.decisions.issued,
            "buffered": len(self.decisions),
            "queued": self.batcher.queued_texts,
            "weights": self.subscriber.current,
        }

    async def post(self, path: str, body: object) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def select(self, messages: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        response = await self.post("/v1/select", {"messages": list(messages), **options})
        assert response.status_code == 200, response.text
        selections: list[dict[str, Any]] = response.json()["selections"]
        return selections

    async def reward(self, *rewards: dict[str, Any], **options: Any) -> dict[str, Any]:
        response = await self.post("/v1/rewards", {"rewards": list(rewards), **options})
        assert response.status_code == 200, response.text
        account: dict[str, Any] = response.json()
        return account
