"""The HTTP routes, over plain objects: no ray here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from learner.errors import LearnerError

from .errors import LearnerAway, LearnerAwayProblem, Problem
from .learner_client import LearnerClient
from .reporting import Reporter
from .schemas import (
    ProblemDocument,
    RewardsRequest,
    RewardsResponse,
    ScoreRequest,
    ScoreResponse,
    SelectRequest,
    SelectResponse,
)
from .scorer import Scorer
from .state_view import StateView


Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Gate:
    """What the routes are about."""

    scorer: Scorer
    reporter: Reporter
    learner: LearnerClient
    state: StateView
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
    _add_admin(api, gate)
    return api


def _add_scoring(api: FastAPI, gate: Gate) -> None:
    @api.post("/v1/score", **_documented(ScoreRequest, ScoreResponse))
    async def score(request: Request) -> Response:
        return _json(await gate.scorer.score(await _read(request, ScoreRequest, gate.max_body_bytes)))

    @api.post("/v1/select", **_documented(SelectRequest, SelectResponse))
    async def select(request: Request) -> Response:
        body = await _read(request, SelectRequest, gate.max_body_bytes)
        if body.durable:
            raise _not_available("durable selections need an event log that outlives the learner")
        return _json(await gate.scorer.select(body))


def _add_rewards(api: FastAPI, gate: Gate) -> None:
    @api.post("/v1/rewards", **_documented(RewardsRequest, RewardsResponse))
    async def rewards(request: Request) -> Response:
        return _json(await gate.reporter.report(await _read(request, RewardsRequest, gate.max_body_bytes)))


def _add_reading(api: FastAPI, gate: Gate) -> None:
    @api.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")

    @api.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "alive"})

    @api.get("/readyz")
    async def readyz() -> Response:
        return _json({"status": "ready", **gate.scorer.provenance(gate.scorer.current_weights())})

    @api.get("/v1/state")
    async def state() -> Response:
        return _json(await gate.state.read())

    @api.get("/v1/uids")
    async def uids() -> Response:
        return _json({"uids": await _ask(gate.learner.uid_table())})

    @api.get("/v1/decisions/{decision_id}")
    async def decision(decision_id: str) -> Response:
        explained = await _ask(gate.learner.explain(decision_id))
        if explained is None:
            raise _no_decision(decision_id)
        embedding = explained.decision.embedding
        return _json(
            {
                # The embedding is personal data and tells a reader nothing: only whether it is still there.
                **asdict(replace(explained.decision, embedding=None)),
                "embedding": "erased" if embedding is None else f"float16[{len(embedding)}]",
                "rewards": explained.rewards,
            }
        )

    @api.delete("/v1/decisions/{decision_id}")
    async def erase(decision_id: str) -> Response:
        if not await _ask(gate.learner.erase_embedding(decision_id)):
            raise _no_decision(decision_id)
        return _json({"id": decision_id, "embedding": "erased"})


def _add_admin(api: FastAPI, gate: Gate) -> None:
    @api.post("/v1/admin/resync")
    async def resync() -> Response:
        return _json(asdict(await _ask(gate.learner.resync())))

    @api.post("/v1/admin/{action}")
    async def later(action: str) -> Response:
        if action in ("checkpoint", "freeze", "rollback"):
            raise _not_available(f"{action} needs an event log that outlives the learner")
        raise Problem(404, "not_found", f"there is no operator action {action!r}")


def _add_errors(api: FastAPI) -> None:
    @api.exception_handler(Problem)
    async def problem(_request: Request, error: Problem) -> Response:
        return _problem(error)

    @api.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        response = _problem(Problem(error.status_code, code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    @api.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> Response:
        # Starlette logs the exception itself; the caller learns only that it is not their fault.
        return _problem(Problem(500, "internal", "an unexpected error; the service's log has it"))


async def _ask(answer: Any) -> Any:
    """An answer of the learner; what it raises becomes a problem."""
    try:
        return await answer
    except LearnerAway as error:
        raise LearnerAwayProblem from error
    except LearnerError as error:
        raise Problem(409, "refused", str(error)) from error


async def _read(request: Request, schema: type[Body], max_bytes: int) -> Body:
    """The request's body, checked.

    Raises:
        Problem: 415, 413, 400 or 422.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Problem(
            415, "unsupported_media_type", f"send Content-Type: application/json, got {content_type or 'none'}"
        )
    body = await _read_limited(request, max_bytes)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise Problem(400, "malformed_json", first["msg"]) from error
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise Problem(422, "invalid_request", f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


async def _read_limited(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    body = bytearray()
    if announced.isdecimal() and int(announced) <= max_bytes:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                break
        else:
            return bytes(body)
    raise Problem(413, "body_too_large", f"the body is larger than {max_bytes} bytes; send it in parts")


def _json(content: object) -> Response:
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return Response(orjson.dumps(content, option=options), media_type="application/json")


def _problem(problem: Problem) -> Response:
    document = ProblemDocument(
        type=f"urn:tidegate:problem:{problem.code}",
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        code=problem.code,
    )
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    return Response(
        orjson.dumps(document.model_dump()),
        status_code=problem.status,
        headers=headers,
        media_type="application/problem+json",
    )


def _documented(request: type[BaseModel], response: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI page says of a route whose body is read and written by hand, for speed."""
    problems = {400: "malformed JSON", 413: "body too large", 422: "invalid request", 429: "overloaded", 503: "retry"}
    return {
        "responses": {
            200: {"model": response},
            **{status: {"model": ProblemDocument, "description": text} for status, text in problems.items()},
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _inline_schema(request)}},
            }
        },
    }


def _inline_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema with its definitions written out where they are used."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inline(definitions[node["$ref"].rpartition("/")[2]])
            return {key: inline(value) for key, value in node.items()}
        return [inline(value) for value in node] if isinstance(node, list) else node

    inlined: dict[str, Any] = inline(schema)
    return inlined


def _not_available(why: str) -> Problem:
    return Problem(501, "not_available", f"not available yet: {why}")


def _no_decision(decision_id: str) -> Problem:
    return Problem(404, "unknown_decision", f"there is no decision {decision_id}, or it is too old")
