"""What passes through the learner: decisions, rewards, resyncs and operator actions, as plain values that pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gating.message import message
from gating.metagraph import MetagraphView

ANONYMOUS = "anonymous"
"""The author of what was reported without authentication."""


@message
class Decision:
    """One prompt's selection, as it was made.

    Attributes:
        id: `<incarnation of the replica>-<counter>`.
        time_s: when it was made, seconds since 1970.
        epoch: epoch of the weights that made it.
        version: version of the weights that made it.
        embedding: float16 [D], None once erased.
        uids: the chosen, best first.
        scores: their scores, exploration bonus included.
        propensities: their inclusion probabilities.
        hotkeys: who held those uids.
        candidates: how many uids could have been chosen.
        candidates_digest: of those uids, see `candidates_digest`.
    """

    id: str
    time_s: float
    epoch: int
    version: int
    embedding: NDArray[np.float16] | None
    uids: tuple[int, ...]
    scores: tuple[float, ...]
    propensities: tuple[float, ...]
    hotkeys: tuple[str, ...]
    candidates: int
    candidates_digest: str = ""


def candidates_digest(uids: NDArray[np.int64]) -> str:
    """What tells one set of candidates from another: BLAKE2b-64 of their numbers, ascending, in hex."""
    return hashlib.blake2b(np.sort(uids).astype("<i8").tobytes(), digest_size=8).hexdigest()


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


class Outcome(StrEnum):
    """What became of a reward that was logged."""

    LEARNED = "learned"
    DEFAULT = "default"
    LATE = "late"
    STALE = "stale"
    QUARANTINED = "quarantined"
    """In time, but its author was not trusted: held, until an operator says otherwise."""

    @property
    def is_learned(self) -> bool:
        """Whether it changes weights as it comes."""
        return self in (Outcome.LEARNED, Outcome.DEFAULT)

    @property
    def may_be_learned(self) -> bool:
        """Whether it changes weights, or may yet do so."""
        return self.is_learned or self is Outcome.QUARANTINED


@dataclass(frozen=True, slots=True)
class _Placed:
    """What every event has.

    Attributes:
        seq: its place in the log; 0 until it is given one.
        batch: the last sequence number of the batch that it is learned in: the version that has it.
    """

    seq: int = field(default=0, kw_only=True)
    batch: int = field(default=0, kw_only=True)


@message
class RewardEvent(_Placed):
    """Rewards of one decision or message as logged.

    Attributes:
        embedding: None where it was erased since.
        weights: what each reward counts, from 0 to 1; empty where all count 1.
        expected: what each reward was expected to be when it was logged; empty where nobody asked.
    """

    uids: tuple[int, ...]
    rewards: tuple[float, ...]
    outcome: Outcome
    embedding: NDArray[np.float16] | None
    decision_id: str | None = None
    reward_id: str | None = None
    author: str = ANONYMOUS
    weights: tuple[float, ...] = ()
    expected: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ResyncEvent(_Placed):
    """The network changed to `view`; fresh rows are drawn with `seed`, and a swapped hotkey's is kept or reset."""

    view: MetagraphView
    seed: int
    on_hotkey_swap: Literal["keep", "reset"] = "keep"


class Action(StrEnum):
    """What an operator did. `arguments` of the event say the rest; those without a comment have none."""

    RESYNC = "resync"
    CHECKPOINT = "checkpoint"
    FREEZE = "freeze"
    THAW = "thaw"
    ROLLBACK = "rollback"  # {"version": the version whose weights come back}
    READMIT = "readmit"  # {"ranges": [[first, last], ...]}, sequence numbers of held events
    DROP = "drop"  # the same
    ERASE = "erase"  # {"decision_id": ...}
    SHADOW = "shadow"  # {"label": of the rule that serves, "shadows": {label: settings}, "dim", "seed"}: all there are
    REBUILD = (
        "rebuild"  # {"rule": settings, "from": checkpoint or null}: it serves, as if it had learned all of the log
    )
    PROMOTE = "promote"  # {"label": the shadow that serves from here on}; the rule that served becomes a shadow
    STANDING = "standing"  # {"author": whose, "standing": one of `Standing`}, an operator's or reward trust's own


class Standing(StrEnum):
    """What is said of an author: the first three by an operator, the others by reward trust."""

    TRUSTED = "trusted"
    DISTRUSTED = "distrusted"
    AUTO = "auto"
    QUARANTINED = "quarantined"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class OperatorEvent(_Placed):
    """An operator's action. `author` is who asked for it; the arguments are plain JSON."""

    action: Action
    author: str = ANONYMOUS
    arguments: dict[str, Any] = field(default_factory=dict)


Event = RewardEvent | ResyncEvent | OperatorEvent


@dataclass(frozen=True, slots=True)
class Publish:
    """A version that was published, at `time_s` on the log's clock."""

    version: int
    time_s: float


@dataclass(slots=True)
class Reported:
    """What is known of one decision, or of one reward id, without its embedding, and of its rewards so far.

    Attributes:
        at_s: when the decision reached the log (the reward id: when it was first reported), on the log's clock.
        epoch: of the weights that decided; 0 for a reward id, as are the next three.
        version: of the weights that decided.
        uids: chosen by the decision.
        hotkeys: who held them.
        rewards: uid -> reward.
        authors: uid -> who reported it.
    """

    at_s: float
    epoch: int = 0
    version: int = 0
    uids: tuple[int, ...] = ()
    hotkeys: tuple[str, ...] = ()
    rewards: dict[int, float] = field(default_factory=dict)
    authors: dict[int, str] = field(default_factory=dict)


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


Wait = Literal["logged", "applied", "published"]
"""What a report waits for: its place in the log, its effect on the state, or that the effect is published."""


@message
class PollReply:
    """The newest published version; `refs` holds its snapshot, or nothing if the caller has it or cannot read it.

    The reference travels in a list so that Ray does not resolve it on the way.
    """

    epoch: int
    version: int
    refs: list[Any]


@message
class RewardReply:
    """A report's account, and whether what the caller waited for came about in time."""

    report: RewardReport
    epoch: int
    published_version: int
    reached: bool
