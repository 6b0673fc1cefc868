"""What GateClient raises and what its calls give and take: errors, and frozen dataclasses.

GateError
├── GateUnavailableError    no answer from the service, after retries
├── ProblemError            the service refused; has its status, code, title and detail
└── UnexpectedAnswerError   something answered, but not as the contract says: another server, another version

The `build_*` functions read the service's JSON; what is missing or of another form raises as plain Python does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Wait = Literal["logged", "applied", "published"]
Settlement = Literal["readmit", "drop"]
OperatorStanding = Literal["trusted", "distrusted", "auto"]


class GateError(Exception):
    """Base of everything that the client raises on purpose, wrong arguments apart."""


class GateUnavailableError(GateError):
    """Nothing answered, or only the proxy in front of the service did; the call may be made again."""


class ProblemError(GateError):
    """The service answered with a problem document (RFC 9457).

    Attributes:
        status: the HTTP status.
        code: the kind of problem, for programs: `unknown_uid`, `overloaded`, `learner_away` ...
        title: the same for people.
        detail: what was wrong with this request, and the remedy.
    """

    def __init__(self, status: int, code: str, title: str, detail: str) -> None:
        super().__init__(status, code, title, detail)
        self.status, self.code, self.title, self.detail = status, code, title, detail

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.detail or self.title}"


class UnexpectedAnswerError(GateError):
    """What answered does not speak this contract."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Which weights answered. `age_s`: since the learner last confirmed them as its newest; None if not told."""

    epoch: int
    version: int
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Metagraph:
    """The network that the answer was made for; `netuid` and `block` are None for a roster."""

    netuid: int | None
    block: int | None
    n: int


@dataclass(frozen=True, slots=True)
class Scores:
    """One message's scores, one per uid."""

    uids: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """One `Scores` per message. `degraded`: the weights are older than the service's `max_age_s`."""

    scores: tuple[Scores, ...]
    weights: Weights
    metagraph: Metagraph
    degraded: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """Whom to ask for one message, best first; report rewards under `decision_id`.

    `propensities` are inclusion probabilities: how likely each uid was to be among the chosen.
    """

    decision_id: str
    uids: tuple[int, ...]
    scores: tuple[float, ...]
    propensities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SelectResult:
    """One `Selection` per message. `degraded`: the weights are older than the service's `max_age_s`."""

    selections: tuple[Selection, ...]
    weights: Weights
    metagraph: Metagraph
    degraded: bool


@dataclass(frozen=True, slots=True)
class Reward:
    """What the uids asked for one message have earned: for a decision, or for a message under an id of your own.

    Raises:
        ValueError: lengths differ, a reward is not finite, or not exactly one of `decision_id` and
            (`reward_id`, `message`) is given.
    """

    uids: Sequence[int]
    rewards: Sequence[float]
    decision_id: str | None = None
    reward_id: str | None = None
    message: str | None = None

    def __post_init__(self) -> None:
        if len(self.uids) != len(self.rewards):
            raise ValueError(
                f"rewards has {len(self.rewards)} values for {len(self.uids)} uids; send one reward per uid"
            )
        if not all(math.isfinite(reward) for reward in self.rewards):
            raise ValueError(f"rewards holds a number that is not finite: {list(self.rewards)}")
        own = (self.reward_id is not None, self.message is not None)
        if own not in ((True, True), (False, False)) or own[0] == (self.decision_id is not None):
            raise ValueError("a reward needs either decision_id, or reward_id together with message")


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a reward was not learned; `index` is the item's place in the report, `uid` None for the whole item."""

    index: int
    code: str
    detail: str
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class RewardReport:
    """The account of a report. `accepted` and `duplicates` count single (decision, uid) rewards.

    After a retry, rewards that the first attempt already delivered count as duplicates. `version` is the one
    that includes the report; `reached` says whether what was waited for happened in time.
    """

    accepted: int
    duplicates: int
    rejected: tuple[Rejected, ...]
    weights: Weights | None
    version: int | None
    reached: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved state. `created_at` is ISO 8601, UTC; `digest` is of the state, whatever file it is in."""

    name: str
    version: int
    epoch: int
    created_at: str
    digest: str
    frozen: bool


@dataclass(frozen=True, slots=True)
class Rollback:
    """The version whose weights came back, the one that they are published as, and how many events are held."""

    restored: int
    version: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Handover:
    """The epoch that has ended, the one that goes on and from which version, and how long there was no learner."""

    left_epoch: int
    epoch: int
    version: int
    away_s: float


@dataclass(frozen=True, slots=True)
class HeldReward:
    """An event that is in the log and not in the weights.

    `reason` is `frozen`, `rolled_back`, `non_finite` or `author`.
    """

    seq: int
    reason: str
    uids: tuple[int, ...]
    rewards: tuple[float, ...]
    author: str
    decision_id: str | None = None
    reward_id: str | None = None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """How many events are held, and a page of them."""

    quarantined: int
    events: tuple[HeldReward, ...]


@dataclass(frozen=True, slots=True)
class Author:
    """How far an author of rewards is believed.

    Attributes:
        author: a key's id or a hotkey.
        standing: what an operator has said: `trusted`, `distrusted` or `auto`.
        active: whether it reported enough lately to count as one of several.
        recent_rewards: how many it reported lately.
        recent_weight: what of them counted.
        reports: how many events tell how it agrees.
        agreement: correlation of its rewards with what was expected, None where nothing is known.
        score: the evidence in standard deviations; below zero it contradicts.
        weight: what a report of its counts, its share of the whole and single outliers left aside; 0: it is held.
        quarantined_since: place in the log at which it was quarantined, None if it is not.
    """

    author: str
    standing: str
    active: bool
    recent_rewards: float
    recent_weight: float
    reports: float
    agreement: float | None
    score: float
    weight: float
    quarantined_since: int | None


def _weights(answer: Mapping[str, Any]) -> Weights:
    return Weights(int(answer["epoch"]), int(answer["version"]), answer.get("age_s"))


def _metagraph(answer: Mapping[str, Any]) -> Metagraph:
    return Metagraph(answer.get("netuid"), answer.get("block"), int(answer["n"]))


def build_score_result(answer: Mapping[str, Any]) -> ScoreResult:
    """The answer of `POST /v1/score`."""
    scores = tuple(Scores(tuple(item["uids"]), tuple(item["scores"])) for item in answer["scores"])
    return ScoreResult(scores, _weights(answer["weights"]), _metagraph(answer["metagraph"]), bool(answer["degraded"]))


def build_select_result(answer: Mapping[str, Any]) -> SelectResult:
    """The answer of `POST /v1/select`."""
    selections = tuple(
        Selection(item["decision_id"], tuple(item["uids"]), tuple(item["scores"]), tuple(item["propensities"]))
        for item in answer["selections"]
    )
    weights, metagraph = _weights(answer["weights"]), _metagraph(answer["metagraph"])
    return SelectResult(selections, weights, metagraph, bool(answer["degraded"]))


def build_reward_report(answer: Mapping[str, Any]) -> RewardReport:
    """The answer of `POST /v1/rewards`."""
    rejected = tuple(
        Rejected(int(item["index"]), item["code"], item["detail"], item.get("uid")) for item in answer["rejected"]
    )
    weights = _weights(answer["weights"]) if answer.get("weights") else None
    return RewardReport(
        answer["accepted"], answer["duplicates"], rejected, weights, answer.get("version"), answer["reached"]
    )


def build_checkpoint(answer: Mapping[str, Any]) -> Checkpoint:
    """The answer of `POST /v1/admin/checkpoint`, and one of those of `GET /v1/admin/checkpoints`."""
    return Checkpoint(
        name=str(answer["name"]),
        version=int(answer["version"]),
        epoch=int(answer["epoch"]),
        created_at=str(answer["created_at"]),
        digest=str(answer["digest"]),
        frozen=bool(answer["frozen"]),
    )


def build_rollback(answer: Mapping[str, Any]) -> Rollback:
    """The answer of `POST /v1/admin/rollback`."""
    return Rollback(int(answer["restored"]), int(answer["version"]), int(answer["quarantined"]))


def build_handover(answer: Mapping[str, Any]) -> Handover:
    """The answer of `POST /v1/admin/handover`."""
    left_epoch, epoch, version = (int(answer[name]) for name in ("left_epoch", "epoch", "version"))
    return Handover(left_epoch, epoch, version, float(answer["away_s"]))


def build_quarantine(answer: Mapping[str, Any]) -> Quarantine:
    """The answer of `GET /v1/admin/quarantine`."""
    events = tuple(
        HeldReward(
            seq=int(item["seq"]),
            reason=str(item["reason"]),
            uids=tuple(item["uids"]),
            rewards=tuple(item["rewards"]),
            author=str(item["author"]),
            decision_id=item.get("decision_id"),
            reward_id=item.get("reward_id"),
        )
        for item in answer["events"]
    )
    return Quarantine(int(answer["quarantined"]), events)


def build_authors(answer: Mapping[str, Any]) -> list[Author]:
    """The answer of `GET /v1/admin/authors`."""
    return [
        Author(
            author=str(item["author"]),
            standing=str(item["standing"]),
            active=bool(item["active"]),
            recent_rewards=float(item["recent_rewards"]),
            recent_weight=float(item["recent_weight"]),
            reports=float(item["reports"]),
            agreement=None if item["agreement"] is None else float(item["agreement"]),
            score=float(item["score"]),
            weight=float(item["weight"]),
            quarantined_since=None if item["quarantined_since"] is None else int(item["quarantined_since"]),
        )
        for item in answer["authors"]
    ]
