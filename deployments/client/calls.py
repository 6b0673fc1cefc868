"""What can be asked of the service. Each function is a method of `GateClient` and of `AsyncGateClient`.

A `Call` is a value: it says what to send and how to read the answer, and sends nothing. So a call that is tried again
is the same to the byte, with the same ids in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import httpx

from .types import (
    Author,
    Checkpoint,
    Handover,
    OperatorStanding,
    Quarantine,
    Reward,
    RewardReport,
    Rollback,
    ScoreResult,
    SelectResult,
    Settlement,
    Wait,
    build_authors,
    build_checkpoint,
    build_handover,
    build_quarantine,
    build_reward_report,
    build_rollback,
    build_score_result,
    build_select_result,
)

if TYPE_CHECKING:
    from .dense import DenseScores

OCTETS = "application/octet-stream"

T = TypeVar("T")
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request and the reader of its answer.

    Attributes:
        method: of HTTP.
        path: with its query, below the service's address.
        read: the result that an answer holds; raises as plain Python does where the answer is of another form.
        body: sent as JSON; None for no body.
        accept: the form of answer that is wanted, JSON if None.
        repeatable: whether doing it twice is as doing it once; others are not sent again once they may have arrived.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    body: Body | None = None
    accept: str | None = None
    repeatable: bool = True


def score(
    messages: Sequence[str],
    *,
    top_k: int | None = None,
    uids: Sequence[int] | None = None,
    min_version: int | None = None,
) -> Call[ScoreResult]:
    """Mean scores, without side effect: every uid in order, or those in `uids`, or the `top_k` best first.

    `min_version` waits until the answering replica has at least that version.
    """
    body = _message_body(messages, top_k=top_k, uids=_ints(uids), min_version=min_version)
    return Call("POST", "/v1/score", _json(build_score_result), body)


def score_dense(
    messages: Sequence[str], *, uids: Sequence[int] | None = None, min_version: int | None = None
) -> Call[DenseScores]:
    """`score` for many uids: every score of all messages as one array, sent as bytes instead of JSON."""
    # Only who wants an array needs the library for it.
    from .dense import build_dense_scores

    body = _message_body(messages, uids=_ints(uids), min_version=min_version)
    return Call(
        "POST", "/v1/score", lambda answer: build_dense_scores(answer.headers, answer.content), body, accept=OCTETS
    )


def select(
    messages: Sequence[str],
    *,
    k: int = 4,
    uids: Sequence[int] | None = None,
    explore: bool = True,
    durable: bool = False,
    min_version: int | None = None,
) -> Call[SelectResult]:
    """Choose up to `k` of the available uids (of those in `uids`, if given) for each message.

    `durable` waits until the decisions are in the event log.
    """
    options = {"k": k, "uids": _ints(uids), "explore": explore, "durable": durable or None}
    body = _message_body(messages, **options, min_version=min_version)
    return Call("POST", "/v1/select", _json(build_select_result), body)


def report(rewards: Sequence[Reward], *, wait: Wait = "logged") -> Call[RewardReport]:
    """Report what was earned; answers once that is logged, learned (`applied`) or `published` to replicas."""
    body = {"rewards": [_reward_item(reward) for reward in rewards], "wait": wait}
    return Call("POST", "/v1/rewards", _json(build_reward_report), body)


def state() -> Call[Body]:
    """The learner, the metagraph and the replicas, as `GET /v1/state` answers."""
    return Call("GET", "/v1/state", _json(dict))


def uids() -> Call[list[Body]]:
    """The table of uids: owner, availability, and what each has earned."""
    return Call("GET", "/v1/uids", _json(lambda answer: [dict(row) for row in answer["uids"]]))


def decision(decision_id: str) -> Call[Body]:
    """One decision explained: scores, propensities, version, rewards so far."""
    return Call("GET", _decision_path(decision_id), _json(dict))


def erase_decision(decision_id: str) -> Call[None]:
    """Erase a decision's embedding, the personal data it holds; rewards that come later are rejected."""
    return Call("DELETE", _decision_path(decision_id), _json(lambda _: None))


def resync() -> Call[Body]:
    """Read the metagraph's source now; answers what changed."""
    return Call("POST", "/v1/admin/resync", _json(dict))


def checkpoint() -> Call[Checkpoint]:
    """Save what has been learned so far."""
    return Call("POST", "/v1/admin/checkpoint", _json(build_checkpoint))


def checkpoints() -> Call[list[Checkpoint]]:
    """The checkpoints that are kept, newest first."""
    return Call(
        "GET",
        "/v1/admin/checkpoints",
        _json(lambda answer: [build_checkpoint(item) for item in answer["checkpoints"]]),
    )


def freeze(frozen: bool = True) -> Call[int]:
    """Stop learning, or go on with it; answers the version from which on that holds."""
    return Call("POST", "/v1/admin/freeze", _json(_version), {"frozen": frozen})


def rollback(*, version: int | None = None, checkpoint: str | None = None) -> Call[Rollback]:
    """Publish the weights of a version or of a checkpoint again, as a new version; what came after is held."""
    if (version is None) == (checkpoint is None):
        raise ValueError("give either version or checkpoint")
    body = {"version": version} if checkpoint is None else {"checkpoint": checkpoint}
    return Call("POST", "/v1/admin/rollback", _json(build_rollback), body, repeatable=False)


def promote(rule: str) -> Call[int]:
    """Let the shadow rule of this label serve; answers the version from which on it does."""
    return Call("POST", "/v1/admin/promote", _json(_version), {"rule": rule}, repeatable=False)


def hand_over() -> Call[Handover]:
    """Replace the learner by one of the replicas' settings and code, which goes on from its log."""
    return Call("POST", "/v1/admin/handover", _json(build_handover), repeatable=False)


def quarantine(*, after: int = 0, limit: int = 100) -> Call[Quarantine]:
    """The events that are in the log and not in the weights: those after that place, at most `limit`."""
    query = urlencode({"after": after, "limit": limit})
    return Call("GET", f"/v1/admin/quarantine?{query}", _json(build_quarantine))


def settle(action: Settlement, seqs: Sequence[int] | None = None) -> Call[int]:
    """Learn held events after all (`readmit`), or give them up (`drop`); None: all that do not wait for a thaw.

    Answers the version that shows it.
    """
    return Call(
        "POST", "/v1/admin/quarantine", _json(_version), {"action": action, "seqs": _ints(seqs)}, repeatable=False
    )


def authors() -> Call[list[Author]]:
    """How far each author of rewards is believed, by name."""
    return Call("GET", "/v1/admin/authors", _json(build_authors))


def set_standing(author: str, standing: OperatorStanding) -> Call[int]:
    """Believe an author whatever it reports (`trusted`), hold all of its rewards, or leave it to reward trust.

    Answers the place in the log from which on that holds.
    """
    body = {"author": author, "standing": standing}
    return Call("POST", "/v1/admin/authors", _json(lambda said: int(said["seq"])), body)


def ready() -> Call[bool]:
    """Whether the service has weights to score with."""
    return Call("GET", "/readyz", lambda answer: answer.status_code == httpx.codes.OK)


def _json(build: Callable[[Any], T]) -> Callable[[httpx.Response], T]:
    """Reads an answer's JSON, {} where there is none."""
    return lambda response: build(response.json() if response.content else {})


def _version(answer: Any) -> int:
    return int(answer["version"])


def _message_body(messages: Sequence[str], **options: Any) -> Body:
    if isinstance(messages, str):
        raise ValueError("messages is one string; send a list of strings")
    return {"messages": list(messages)} | {name: value for name, value in options.items() if value is not None}


def _ints(uids: Sequence[int] | None) -> list[int] | None:
    return None if uids is None else [int(uid) for uid in uids]


def _reward_item(reward: Reward) -> Body:
    ids = {"decision_id": reward.decision_id, "reward_id": reward.reward_id, "message": reward.message}
    item: Body = {"uids": _ints(reward.uids), "rewards": [float(value) for value in reward.rewards]}
    return item | {name: value for name, value in ids.items() if value is not None}


def _decision_path(decision_id: str) -> str:
    return f"/v1/decisions/{quote(decision_id, safe='')}"
