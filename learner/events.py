"""What passes through the learner: decisions, rewards and resyncs, as plain values that pickle."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gating.metagraph import MetagraphView

ANONYMOUS = "anonymous"
"""The author of what was reported without authentication."""


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class DecisionBatch:
    """Decisions on their way from a replica to the learner.

    Attributes:
        fingerprint: of the encoder that made the embeddings.
    """

    fingerprint: str
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
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
    LATE = "late"


@dataclass(frozen=True, slots=True)
class RewardEvent:
    """Rewards of one decision or message as logged. `seq` is 0 until the log gives it its place."""

    uids: tuple[int, ...]
    rewards: tuple[float, ...]
    outcome: Outcome
    embedding: NDArray[np.float16]
    decision_id: str | None = None
    reward_id: str | None = None
    author: str = ANONYMOUS
    seq: int = 0


@dataclass(frozen=True, slots=True)
class ResyncEvent:
    """The network changed to `view`; fresh rows are drawn with `seed`, and a swapped hotkey's is kept or reset."""

    view: MetagraphView
    seed: int
    on_hotkey_swap: Literal["keep", "reset"] = "keep"
    seq: int = 0


Event = RewardEvent | ResyncEvent


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a reward, or a whole item where `uid` is None, was not learned. `index` is the item's place."""

    index: int
    code: str
    detail: str
    uid: int | None = None


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


Wait = Literal["logged", "applied", "published"]
"""What a report waits for: its place in the log, its effect on the state, or that the effect is published."""


@dataclass(frozen=True, slots=True)
class PollReply:
    """The newest published version; `refs` holds its snapshot, or nothing if the caller has it already.

    The reference travels in a list so that Ray does not resolve it on the way.
    """

    epoch: int
    version: int
    refs: list[Any]


@dataclass(frozen=True, slots=True)
class RewardReply:
    """A report's account, and whether what the caller waited for came about in time."""

    report: RewardReport
    epoch: int
    published_version: int
    reached: bool
