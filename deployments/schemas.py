"""The HTTP contract's bodies. Requests are strict: no coercion, no unknown keys, no NaN."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _not_blank(message: str) -> str:
    if not message.strip():
        raise ValueError("a message must not be empty")
    return message


Message = Annotated[str, AfterValidator(_not_blank)]
Uid = Annotated[int, Field(ge=0)]


class Request(BaseModel):
    """Base of all request bodies. Lists are given up at their first error: telling of a million takes gigabytes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ScoreRequest(Request):
    """Score messages without any side effect."""

    messages: list[Message] = Field(min_length=1, max_length=256, fail_fast=True, description="the prompts")
    top_k: int | None = Field(None, ge=1, description="answer only the best so many, best first")
    uids: list[Uid] | None = Field(None, min_length=1, fail_fast=True, description="score only these, in this order")
    min_version: int | None = Field(None, ge=0, description="wait for weights of at least this version")


class SelectRequest(Request):
    """Choose uids for messages."""

    messages: list[Message] = Field(min_length=1, max_length=256, fail_fast=True, description="the prompts")
    k: int = Field(4, ge=1, description="how many uids to choose for each message")
    uids: list[Uid] | None = Field(None, min_length=1, fail_fast=True, description="choose only among these")
    explore: bool = Field(True, description="false: greedy on mean scores")
    durable: bool = Field(False, description="answer only once the decisions are in the event log")
    min_version: int | None = Field(None, ge=0, description="wait for weights of at least this version")


class RewardIn(Request):
    """Rewards of one decision, or of one message under an id of the caller's own."""

    decision_id: str | None = Field(None, min_length=1, max_length=200)
    reward_id: str | None = Field(None, min_length=1, max_length=200)
    message: Message | None = None
    uids: list[Uid] = Field(min_length=1, fail_fast=True)
    rewards: list[float] = Field(min_length=1, fail_fast=True)

    @model_validator(mode="after")
    def _is_whole(self) -> RewardIn:
        by_message = (self.reward_id is not None, self.message is not None)
        if (self.decision_id is not None) == any(by_message) or any(by_message) != all(by_message):
            raise ValueError("give either decision_id, or reward_id and message")
        if len(self.rewards) != len(self.uids):
            raise ValueError(
                f"rewards has {len(self.rewards)} values for {len(self.uids)} uids; send one reward per uid"
            )
        if len(set(self.uids)) != len(self.uids):
            raise ValueError("uids names a uid twice; report each uid once")
        return self


class RewardsRequest(Request):
    """Report what answers earned."""

    rewards: list[RewardIn] = Field(min_length=1, max_length=4096, fail_fast=True)
    wait: Literal["logged", "applied", "published"] = "logged"

    @model_validator(mode="after")
    def _few_messages(self) -> RewardsRequest:
        messages = sum(reward.message is not None for reward in self.rewards)
        if messages > 256:
            raise ValueError(f"{messages} messages were sent; send at most 256 in one request")
        return self


class ResyncRequest(Request):
    """Read the network again. There is nothing to say."""


class CheckpointRequest(Request):
    """Save what has been learned so far. There is nothing to say."""


class HandoverRequest(Request):
    """Replace the learner by one of the replicas' settings and code. There is nothing to say."""


class FreezeRequest(Request):
    """Stop learning, or go on with it."""

    frozen: bool = Field(True, description="false: learn again, beginning with what was held meanwhile")


class RollbackRequest(Request):
    """Go back to a version or to a checkpoint: exactly one of them."""

    version: int | None = Field(None, ge=0, description="the version whose weights come back")
    checkpoint: str | None = Field(None, min_length=1, max_length=200, description="or the name of a checkpoint")

    @model_validator(mode="after")
    def _is_one(self) -> RollbackRequest:
        if (self.version is None) == (self.checkpoint is None):
            raise ValueError("give either version or checkpoint")
        return self


class PromoteRequest(Request):
    """Let a shadow rule serve; the rule that served becomes a shadow."""

    rule: str = Field(min_length=1, max_length=64, description="the shadow's label; by default a rule's name")


class QuarantineQuery(BaseModel):
    """A page of the events that are held."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: int = Field(0, ge=0, description="only events after this place in the log")
    limit: int = Field(100, ge=1, le=1000, description="at most so many")


class SettleRequest(Request):
    """Learn held events after all, or give them up."""

    action: Literal["readmit", "drop"]
    seqs: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        min_length=1,
        fail_fast=True,
        description="their places in the log; null: all that do not wait for the end of a freeze",
    )


class StandingRequest(Request):
    """Say of an author whether to believe it."""

    author: str = Field(min_length=1, max_length=200, description="a key's id or a hotkey")
    standing: Literal["trusted", "distrusted", "auto"] = Field(
        description="trusted: nothing weakens or holds its rewards; distrusted: all that come are held; "
        "auto: it is left to reward trust, which begins anew with it"
    )


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str


class WeightsInfo(BaseModel):
    """Which weights an answer comes from."""

    epoch: int
    version: int
    age_s: float | None


class MetagraphInfo(BaseModel):
    """Which network an answer is about."""

    netuid: int
    block: int
    n: int


class Provenance(BaseModel):
    """What every scoring answer carries."""

    weights: WeightsInfo
    metagraph: MetagraphInfo
    degraded: bool


class MessageScores(BaseModel):
    """Scores of one message."""

    uids: list[int]
    scores: list[float]


class ScoreResponse(Provenance):
    """One entry per message."""

    scores: list[MessageScores]


class MessageSelection(BaseModel):
    """The uids chosen for one message, best first."""

    decision_id: str
    uids: list[int]
    scores: list[float]
    propensities: list[float]


class SelectResponse(Provenance):
    """One entry per message."""

    selections: list[MessageSelection]


class AliveResponse(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class ReadyResponse(Provenance):
    """Weights are loaded."""

    status: Literal["ready"]


class StateResponse(BaseModel):
    """The service as the replica that answers sees it, with less of it where the learner is away."""

    model_config = ConfigDict(extra="allow")

    learner: dict[str, Any]
    metagraph: dict[str, Any] | None
    replicas: list[dict[str, Any]]
    weights: dict[str, Any]
    degraded: bool


class UidsResponse(BaseModel):
    """A row for each uid."""

    uids: list[dict[str, Any]]


class DecisionResponse(BaseModel):
    """One decision, explained. `rewards` and `authors` are by uid."""

    id: str
    time_s: float
    epoch: int
    version: int
    embedding: str
    uids: list[int]
    scores: list[float]
    propensities: list[float]
    hotkeys: list[str]
    candidates: int
    candidates_digest: str
    rewards: dict[int, float]
    authors: dict[int, str]


class ErasureResponse(BaseModel):
    """The decision whose embedding is gone."""

    id: str
    embedding: Literal["erased"]


class RejectedReward(BaseModel):
    """A reward that was not learned, and why."""

    index: int
    uid: int | None = None
    code: str
    detail: str


class PublishedVersion(BaseModel):
    """What the learner has published."""

    epoch: int
    version: int


class RewardsResponse(BaseModel):
    """The account of a report."""

    accepted: int
    duplicates: int
    rejected: list[RejectedReward]
    weights: PublishedVersion
    version: int
    reached: bool


class ResyncResponse(BaseModel):
    """The network as it is from version `seq` on, and the uids whose rows changed."""

    block: int
    n: int
    reset: list[int]
    added: list[int]
    removed: list[int]
    seq: int


class CheckpointInfo(BaseModel):
    """A saved state."""

    name: str
    version: int
    epoch: int
    created_at: str
    digest: str
    frozen: bool


class CheckpointsResponse(BaseModel):
    """Those that are kept, newest first."""

    checkpoints: list[CheckpointInfo]


class FreezeResponse(BaseModel):
    """Whether learning has stopped, and the version from which on that holds."""

    frozen: bool
    version: int


class RollbackResponse(BaseModel):
    """The version whose weights came back, the one that they are published as, and how many events are held."""

    restored: int
    version: int
    quarantined: int


class RuleFigures(BaseModel):
    """A rule that learns: whether it serves, since which version it learns, and what it would have earned."""

    serves: bool
    learns_since: int
    served_since: int | None = None
    moving_loss: float | None
    refused: int | None = None
    would_earn: dict[str, Any] | None = None


class PromoteResponse(BaseModel):
    """The rule that serves now, the version from which on it does, and all rules by label."""

    rule: str
    version: int
    rules: dict[str, RuleFigures]


class HandoverResponse(BaseModel):
    """Of the learner that has left and of the one that has come."""

    left_epoch: int = Field(description="of the one that has left")
    epoch: int
    version: int = Field(description="from which on the next one learns")
    identity: str = Field(description="tells it from a learner with other settings or other code")
    away_s: float = Field(description="for how long there was none")


class HeldReward(BaseModel):
    """An event that is in the log and not in the weights."""

    seq: int
    reason: Literal["frozen", "rolled_back", "non_finite", "author"]
    decision_id: str | None = None
    reward_id: str | None = None
    uids: list[int]
    rewards: list[float]
    author: str


class QuarantineResponse(BaseModel):
    """How many events are held, and a page of them."""

    quarantined: int
    events: list[HeldReward]


class SettleResponse(BaseModel):
    """The version that shows it, and how many events are still held."""

    version: int
    quarantined: int


class AuthorInfo(BaseModel):
    """How far an author is believed. `reports` is how many events tell; `agreement` is a correlation."""

    author: str
    standing: Literal["trusted", "distrusted", "auto"]
    active: bool
    recent_rewards: float
    recent_weight: float
    reports: float
    agreement: float | None
    score: float
    weight: float
    quarantined_since: int | None


class AuthorsResponse(BaseModel):
    """Every author that is remembered, or of whom something was said."""

    authors: list[AuthorInfo]


class StandingResponse(BaseModel):
    """What holds of the author from that place in the log on."""

    author: str
    standing: Literal["trusted", "distrusted", "auto"]
    seq: int
