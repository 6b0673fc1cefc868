"""What all routes share: the objects behind them, how a call is let in, and what a refusal of the learner becomes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request

from learner.config import LoggingConfig
from learner.errors import (
    ChainUnavailableError,
    CheckpointError,
    CheckpointMismatchError,
    DecisionPendingError,
    LearnerError,
    NeedsDurableLogError,
    OverloadedError,
    RepeatedUidError,
    RollInProgressError,
    UnknownEventError,
    UnknownRuleError,
    UnknownUidError,
    UnknownVersionError,
)
from learner.tracing import NO_TRACER, Tracer

from .auth import Author, Doorkeeper
from .config import Scope
from .errors import LearnerAway, LearnerAwayProblem, Problem
from .http_io import read_body, request_target
from .learner_client import LearnerClient
from .reporting import Reporter
from .request_scope import note_author
from .scorer import Scorer
from .state_view import StateView

logger = logging.getLogger(__name__)

_REFUSED: tuple[int, str, int | None] = (409, "refused", None)
# Status, code, and after how many seconds to try again. Of several that fit an error the most special counts.
_PROBLEMS: dict[type, tuple[int, str, int | None]] = {
    ChainUnavailableError: (503, "chain_unavailable", 5),
    CheckpointError: (503, "checkpoint_failed", 5),
    # Trying again would not help.
    CheckpointMismatchError: _REFUSED,
    DecisionPendingError: (503, "decision_pending", 1),
    NeedsDurableLogError: (501, "not_available", None),
    OverloadedError: (429, "overloaded", 1),
    RepeatedUidError: (422, "repeated_uid", None),
    RollInProgressError: (409, "roll_in_progress", 5),
    UnknownEventError: (404, "unknown_event", None),
    UnknownRuleError: (404, "unknown_rule", None),
    UnknownUidError: (422, "unknown_uid", None),
    UnknownVersionError: (404, "unknown_version", None),
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gate:
    """What the routes are about."""

    scorer: Scorer
    reporter: Reporter
    learner: LearnerClient
    state: StateView
    doorkeeper: Doorkeeper
    max_body_bytes: int
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    tracer: Tracer = NO_TRACER


async def admit(request: Request, gate: Gate, scope: Scope) -> tuple[Author, bytes]:
    """Who calls, and the body as received. Every route but the open ones begins with this.

    Raises:
        Problem: 413, 401 or 403; 503 where only the learner can say.
    """
    body = await read_body(request, gate.max_body_bytes) if gate.doorkeeper.reads_body else b""
    author = await ask(
        gate.doorkeeper.admit(
            method=request.method, target=request_target(request), headers=request.headers, body=body, scope=scope
        )
    )
    if not gate.doorkeeper.reads_body:
        body = await read_body(request, gate.max_body_bytes)
    note_author(author.id)
    if scope == "admin" and request.method != "GET":
        logger.info("operator_call method=%s path=%s author=%s", request.method, request.url.path, author.id)
    return author, body


async def ask(answer: Awaitable[T]) -> T:
    """An answer of the learner; what it raises becomes a problem.

    Raises:
        Problem: the learner is away, or refuses.
    """
    try:
        return await answer
    except LearnerAway as error:
        raise LearnerAwayProblem(error) from error
    except LearnerError as error:
        known = (_PROBLEMS[kind] for kind in type(error).__mro__ if kind in _PROBLEMS)
        status, code, retry_after_s = next(known, _REFUSED)
        raise Problem(status, code, str(error), retry_after_s=retry_after_s) from error
