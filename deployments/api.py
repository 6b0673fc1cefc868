"""The HTTP routes, over plain objects: no ray here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from learner.errors import ChainUnavailableError, LearnerError

from .auth import Author, Doorkeeper
from .config import Scope
from .errors import LearnerAway, LearnerAwayProblem, Problem
from .http_io import documented, json_response, parse_body, problem_response, read_body, request_target
from .learner_client import LearnerClient
from .reporting import Reporter
from .schemas import (
    RewardsRequest,
    RewardsResponse,
    ScoreRequest,
    ScoreResponse,
    SelectRequest,
    SelectResponse,
)
from .scorer import Scorer
from .state_view import StateView

_CHAIN_RETRY_S = 5


@dataclass(frozen=True, slots=True)
class Gate:
    """What the routes are about."""

    scorer: Scorer
    reporter: Reporter
    learner: LearnerClient
    state: StateView
    doorkeeper: Doorkeeper
    max_body_bytes: int


def build_api(gate: Gate) -> FastAPI:
    """The application that answers the HTTP contract, v1."""
    api = FastAPIOffline(
        title="Tidegate",
        description="Which k of N experts to ask, learned online from the rewards their answers earn.",
        version="1",
        redoc_url=None,
    )
    _add_errors(api)
    _add_scoring(api, gate)
    _add_rewards(api, gate)
    _add_reading(api, gate)
    _add_decisions(api, gate)
    _add_admin(api, gate)
    return api


async def _admit(request: Request, gate: Gate, scope: Scope) -> tuple[Author, bytes]:
    """Who calls, and the body as received. Every route but the open ones begins with this.

    Raises:
        Problem: 413, 401 or 403; 503 where only the learner can say.
    """
    body = await read_body(request, gate.max_body_bytes)
    author: Author = await _ask(
        gate.doorkeeper.admit(
            method=request.method, target=request_target(request), headers=request.headers, body=body, scope=scope
        )
    )
    return author, body


def _add_scoring(api: FastAPI, gate: Gate) -> None:
    @api.post("/v1/score", **documented(ScoreRequest, ScoreResponse))
    async def score(request: Request) -> Response:
        _, body = await _admit(request, gate, "score")
        return json_response(await gate.scorer.score(parse_body(request, body, ScoreRequest)))

    @api.post("/v1/select", **documented(SelectRequest, SelectResponse))
    async def select(request: Request) -> Response:
        _, body = await _admit(request, gate, "score")
        wanted = parse_body(request, body, SelectRequest)
        if wanted.durable:
            raise _not_available("durable selections need an event log that outlives the learner")
        return json_response(await gate.scorer.select(wanted))


def _add_rewards(api: FastAPI, gate: Gate) -> None:
    @api.post("/v1/rewards", **documented(RewardsRequest, RewardsResponse))
    async def rewards(request: Request) -> Response:
        author, body = await _admit(request, gate, "reward")
        return json_response(await gate.reporter.report(parse_body(request, body, RewardsRequest), author=author.id))


def _add_reading(api: FastAPI, gate: Gate) -> None:
    @api.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")

    @api.get("/healthz")
    async def healthz() -> Response:
        return json_response({"status": "alive"})

    @api.get("/readyz")
    async def readyz() -> Response:
        return json_response({"status": "ready", **gate.scorer.provenance(gate.scorer.current_weights())})

    @api.get("/v1/state")
    async def state(request: Request) -> Response:
        await _admit(request, gate, "score")
        return json_response(await gate.state.read())

    @api.get("/v1/uids")
    async def uids(request: Request) -> Response:
        await _admit(request, gate, "score")
        return json_response({"uids": await _ask(gate.learner.uid_table())})


def _add_decisions(api: FastAPI, gate: Gate) -> None:
    @api.get("/v1/decisions/{decision_id}")
    async def decision(request: Request, decision_id: str) -> Response:
        await _admit(request, gate, "score")
        explained = await _ask(gate.reporter.explain(decision_id))
        if explained is None:
            raise _no_decision(decision_id)
        embedding = explained.decision.embedding
        return json_response(
            {
                **asdict(explained.decision),
                # It is personal data and tells a reader nothing: only whether it is still there.
                "embedding": "erased" if embedding is None else f"float16[{len(embedding)}]",
                "rewards": explained.rewards,
                "authors": explained.authors,
            }
        )

    @api.delete("/v1/decisions/{decision_id}")
    async def erase(request: Request, decision_id: str) -> Response:
        await _admit(request, gate, "admin")
        if not await _ask(gate.reporter.erase_embedding(decision_id)):
            raise _no_decision(decision_id)
        return json_response({"id": decision_id, "embedding": "erased"})


def _add_admin(api: FastAPI, gate: Gate) -> None:
    @api.post("/v1/admin/resync")
    async def resync(request: Request) -> Response:
        await _admit(request, gate, "admin")
        return json_response(asdict(await _ask(gate.learner.resync())))

    @api.post("/v1/admin/{action}")
    async def later(request: Request, action: str) -> Response:
        await _admit(request, gate, "admin")
        if action in ("checkpoint", "freeze", "rollback"):
            raise _not_available(f"{action} needs an event log that outlives the learner")
        raise Problem(404, "not_found", f"there is no operator action {action!r}")


def _add_errors(api: FastAPI) -> None:
    @api.exception_handler(Problem)
    async def problem(_request: Request, error: Problem) -> Response:
        return problem_response(error)

    @api.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        response = problem_response(Problem(error.status_code, code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    @api.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> Response:
        # Starlette logs the exception itself; the caller learns only that it is not their fault.
        return problem_response(Problem(500, "internal", "an unexpected error; the service's log has it"))


async def _ask(answer: Any) -> Any:
    """An answer of the learner; what it raises becomes a problem."""
    try:
        return await answer
    except LearnerAway as error:
        raise LearnerAwayProblem from error
    except ChainUnavailableError as error:
        raise Problem(503, "chain_unavailable", str(error), retry_after_s=_CHAIN_RETRY_S) from error
    except LearnerError as error:
        raise Problem(409, "refused", str(error)) from error


def _not_available(why: str) -> Problem:
    return Problem(501, "not_available", f"not available yet: {why}")


def _no_decision(decision_id: str) -> Problem:
    return Problem(404, "unknown_decision", f"there is no decision {decision_id}, or it is too old")
