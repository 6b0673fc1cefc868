"""The HTTP routes, over plain objects: no ray here."""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from .admin_api import add_admin
from .console.routes import add_console
from .dense import DENSE_SCORES, dense_response, wants_dense
from .errors import Problem
from .gate import Gate, admit, ask
from .http_io import documented, json_response, parse_body, problem_response
from .refusals import Refusals
from .request_scope import PROBES, RequestScope, note_problem, route_of
from .schemas import (
    AliveResponse,
    DecisionResponse,
    ErasureResponse,
    ReadyResponse,
    RewardsRequest,
    RewardsResponse,
    ScoreRequest,
    ScoreResponse,
    SelectRequest,
    SelectResponse,
    StateResponse,
    UidsResponse,
)

__all__ = ["Gate", "build_api"]


def build_api(gate: Gate) -> FastAPI:
    """The application that answers the HTTP contract, v1."""
    api = FastAPIOffline(
        title="Tidegate",
        description="Which k of N experts to ask, learned online from the rewards their answers earn.",
        version="1",
        redoc_url=None,
        # A redirect would be no problem document, and would name the address that HAProxy asks.
        redirect_slashes=False,
        # FastAPI's own spans would begin traces that Serve has decided not to record, and its logs quote what was sent.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    api.add_middleware(RequestScope, config=gate.logging, tracer=gate.tracer)
    _add_errors(api, Refusals())
    _add_scoring(api, gate)
    _add_rewards(api, gate)
    _add_reading(api, gate)
    _add_decisions(api, gate)
    add_admin(api, gate)
    add_console(api)
    return api


def _add_scoring(api: FastAPI, gate: Gate) -> None:
    not_acceptable = {406: "bytes wanted of an answer that is not dense"}

    @api.post("/v1/score", **documented(ScoreRequest, ScoreResponse, octets=DENSE_SCORES, also=not_acceptable))
    async def score(request: Request) -> Response:
        _, body = await admit(request, gate, "score")
        asked = parse_body(request, body, ScoreRequest)
        if wants_dense(",".join(request.headers.getlist("accept")), asked.top_k):
            return dense_response(*await gate.scorer.score_dense(asked))
        return json_response(await gate.scorer.score(asked))

    @api.post("/v1/select", **documented(SelectRequest, SelectResponse))
    async def select(request: Request) -> Response:
        _, body = await admit(request, gate, "score")
        return json_response(await ask(gate.scorer.select(parse_body(request, body, SelectRequest))))


def _add_rewards(api: FastAPI, gate: Gate) -> None:
    @api.post("/v1/rewards", **documented(RewardsRequest, RewardsResponse))
    async def rewards(request: Request) -> Response:
        author, body = await admit(request, gate, "reward")
        report = parse_body(request, body, RewardsRequest)
        return json_response(await ask(gate.reporter.report(report, author=author.id)))


def _add_reading(api: FastAPI, gate: Gate) -> None:
    # Load balancers ask with HEAD, too.
    @api.head("/healthz", include_in_schema=False)
    @api.get("/healthz", **documented(None, AliveResponse, open_to_all=True))
    async def healthz() -> Response:
        return json_response({"status": "alive"})

    @api.head("/readyz", include_in_schema=False)
    @api.get("/readyz", **documented(None, ReadyResponse, open_to_all=True, also={503: "no weights yet"}))
    async def readyz() -> Response:
        return json_response({"status": "ready", **gate.scorer.provenance(gate.scorer.current_weights())})

    @api.get("/v1/state", **documented(None, StateResponse))
    async def state(request: Request) -> Response:
        await admit(request, gate, "score")
        return json_response(await gate.state.read())

    @api.get("/v1/uids", **documented(None, UidsResponse))
    async def uids(request: Request) -> Response:
        await admit(request, gate, "score")
        return json_response({"uids": await ask(gate.learner.uid_table())})


def _add_decisions(api: FastAPI, gate: Gate) -> None:
    unknown = {404: "no such decision, or too old", 422: "invalid request"}

    @api.get("/v1/decisions/{decision_id}", **documented(None, DecisionResponse, also=unknown))
    async def decision(request: Request, decision_id: str) -> Response:
        await admit(request, gate, "score")
        explained = await ask(gate.reporter.explain(decision_id))
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

    @api.delete("/v1/decisions/{decision_id}", **documented(None, ErasureResponse, also=unknown))
    async def erase(request: Request, decision_id: str) -> Response:
        author, _ = await admit(request, gate, "admin")
        if not await ask(gate.reporter.erase_embedding(decision_id, author=author.id)):
            raise _no_decision(decision_id)
        return json_response({"id": decision_id, "embedding": "erased"})


def _add_errors(api: FastAPI, refusals: Refusals) -> None:
    @api.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        note_problem(error.code)
        if route_of(request.scope) not in PROBES:
            refusals.note(error)
        return problem_response(error)

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        response = problem_response(Problem(error.status_code, code, str(error.detail)))
        response.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # Starlette names those of the first route of that path.
            response.headers["Allow"] = ", ".join(_methods(api, request))
        note_problem(code)
        return response


def _methods(api: FastAPI, request: Request) -> list[str]:
    """The methods that the request's path has."""
    routes = [
        route for route in api.routes if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE
    ]
    return sorted({method for route in routes for method in route.methods or ()})


def _no_decision(decision_id: str) -> Problem:
    return Problem(404, "unknown_decision", f"there is no decision {decision_id}, or it is too old")
