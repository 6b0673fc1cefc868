"""What replicas and the learner tell each other, as plain values that pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gating.message import message

from .events import ANONYMOUS, Decision


@message
class DecisionBatch:
    """Decisions on their way from a replica to the learner, a column per attribute: few large objects travel fast.

    What there is one of per chosen uid lies end to end, `sizes` of them for each decision.

    Attributes:
        fingerprint: of the encoder that made the embeddings.
        embedding: float16 [n, D].
        sizes: how many uids each decision chose.
    """

    fingerprint: str
    ids: tuple[str, ...]
    time_s: NDArray[np.float64]
    epoch: NDArray[np.int64]
    version: NDArray[np.int64]
    embedding: NDArray[np.float16]
    sizes: NDArray[np.int64]
    uids: NDArray[np.int64]
    scores: NDArray[np.float64]
    propensities: NDArray[np.float64]
    hotkeys: tuple[str, ...]
    candidates: NDArray[np.int64]
    candidates_digest: tuple[str, ...]

    @classmethod
    def of(cls, fingerprint: str, decisions: Sequence[Decision]) -> DecisionBatch:
        """Pack decisions, all of which have their embedding, of one width.

        Raises:
            ValueError: there are none, or an embedding is missing or of another width.
        """
        embeddings = [decision.embedding for decision in decisions if decision.embedding is not None]
        if not embeddings or len(embeddings) != len(decisions):
            raise ValueError(f"{len(embeddings)} of {len(decisions)} decisions have an embedding; all must, and one")
        return cls(
            fingerprint=fingerprint,
            ids=tuple(decision.id for decision in decisions),
            time_s=np.array([decision.time_s for decision in decisions], np.float64),
            epoch=np.array([decision.epoch for decision in decisions], np.int64),
            version=np.array([decision.version for decision in decisions], np.int64),
            embedding=np.stack(embeddings),
            sizes=np.array([len(decision.uids) for decision in decisions], np.int64),
            uids=np.array([uid for decision in decisions for uid in decision.uids], np.int64),
            scores=np.array([score for decision in decisions for score in decision.scores], np.float64),
            propensities=np.array([p for decision in decisions for p in decision.propensities], np.float64),
            hotkeys=tuple(hotkey for decision in decisions for hotkey in decision.hotkeys),
            candidates=np.array([decision.candidates for decision in decisions], np.int64),
            candidates_digest=tuple(decision.candidates_digest for decision in decisions),
        )

    @property
    def decisions(self) -> list[Decision]:
        """The decisions, unpacked."""
        ends = np.cumsum(self.sizes).tolist()
        starts = [0, *ends[:-1]]
        uids, scores, propensities = self.uids.tolist(), self.scores.tolist(), self.propensities.tolist()
        return [
            Decision(
                id=decision_id,
                time_s=time_s,
                epoch=epoch,
                version=version,
                embedding=embedding,
                uids=tuple(uids[start:end]),
                scores=tuple(scores[start:end]),
                propensities=tuple(propensities[start:end]),
                hotkeys=self.hotkeys[start:end],
                candidates=candidates,
                candidates_digest=digest,
            )
            for decision_id, time_s, epoch, version, embedding, start, end, candidates, digest in zip(
                self.ids,
                self.time_s.tolist(),
                self.epoch.tolist(),
                self.version.tolist(),
                self.embedding,
                starts,
                ends,
                self.candidates.tolist(),
                self.candidates_digest,
                strict=True,
            )
        ]


@message
class RewardItem:
    """One reported reward: either for a decision, or for a message under an id of the reporter's own.

    Attributes:
        uids: who earned them.
        rewards: one per uid.
        decision_id: the decision that chose the uids.
        reward_id: with a message: makes the report idempotent.
        embedding: with a message: its embedding, float16 [D].
        author: who reported it: a key's id or a hotkey.
    """

    uids: tuple[int, ...]
    rewards: tuple[float, ...]
    decision_id: str | None = None
    reward_id: str | None = None
    embedding: NDArray[np.float16] | None = None
    author: str = ANONYMOUS

    def __post_init__(self) -> None:
        if len(self.uids) != len(self.rewards):
            raise ValueError(
                f"rewards has {len(self.rewards)} values for {len(self.uids)} uids; send one reward per uid"
            )
        own = (self.reward_id is not None, self.embedding is not None)
        if own not in ((True, True), (False, False)) or own[0] == (self.decision_id is not None):
            raise ValueError("a reward needs either decision_id, or reward_id together with embedding")


@message
class Rejection:
    """Why a reward, or a whole item where `uid` is None, was not learned. `index` is the item's place."""

    index: int
    code: str
    detail: str
    uid: int | None = None


@message
class RewardReport:
    """What became of a report of rewards. Counts are of single (decision, uid) rewards.

    Attributes:
        accepted: new ones, logged and to be learned.
        duplicates: known ones; the first report stands.
        rejected: the others.
        seq: the last log sequence number when all of this was in the log.
    """

    accepted: int
    duplicates: int
    rejected: tuple[Rejection, ...] = field(default=())
    seq: int = 0


@message
class Node:
    """Where a process runs.

    Attributes:
        id: of the Ray node.
        ip: its address among Ray's nodes.
        hostname: of its machine or container.
    """

    id: str
    ip: str
    hostname: str


@message
class ReplicaStatus:
    """What a replica tells about itself when it polls.

    Attributes:
        id: the replica's name.
        pid: its process.
        incarnation: drawn anew at every start; its decision ids begin with it.
        issued: how many decisions it has made.
        epoch: epoch of the weights that it serves, 0 before any.
        version: version of the weights that it serves.
        age_s: how long ago that version was confirmed as the newest, None before any.
        queued_texts: texts waiting for the engine.
        texts: texts encoded since its start.
        buffered_decisions: decisions not yet taken by the learner.
        queued_tokens: tokens waiting for the engine.
        tokens_per_s: the engine's speed, None before it is measured.
        embedding_cache: its hits, misses, shared computations, entries and bytes.
        latency_ms: by length class of texts, how many the engine took and how long they waited and took, p50 and p99.
        node: where it runs, None where that is not known.
        reads: the layouts of snapshots that it reads, see `state.SNAPSHOT_FORMATS`.
        learner: `LearnerArgs.digest` of the learner that it would create.
        asked: `PollReply.asked` of the last answer that it has had: what it tells is of after that.
    """

    id: str
    pid: int
    incarnation: str
    issued: int
    epoch: int
    version: int
    age_s: float | None
    queued_texts: int
    texts: int
    buffered_decisions: int
    queued_tokens: int = 0
    tokens_per_s: float | None = None
    embedding_cache: dict[str, int] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, Any]] = field(default_factory=dict)
    node: Node | None = None
    reads: tuple[int, ...] = (1,)
    learner: str = ""
    asked: int = 0


Wait = Literal["logged", "applied", "published"]
"""What a report waits for: its place in the log, its effect on the state, or that the effect is published."""


@message
class PollReply:
    """The newest published version; `refs` holds its snapshot, or nothing if the caller has it or cannot read it.

    The reference travels in a list so that Ray does not resolve it on the way. `asked` counts how often the learner
    has asked its replicas how far they are.
    """

    epoch: int
    version: int
    refs: list[Any]
    asked: int = 0


@message
class RewardReply:
    """A report's account, and whether what the caller waited for came about in time."""

    report: RewardReport
    epoch: int
    published_version: int
    reached: bool
