"""The operator's routes. Each action is an event in the log, with who asked for it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from fastapi import FastAPI, Request, Response

from learner.core import HeldEvent
from learner.events import Action, Standing

from .errors import Problem
from .gate import Gate, admit, ask
from .http_io import documented, json_response, parse_body, parse_query
from .schemas import (
    AuthorsResponse,
    CheckpointInfo,
    CheckpointRequest,
    CheckpointsResponse,
    FreezeRequest,
    FreezeResponse,
    HandoverRequest,
    HandoverResponse,
    PromoteRequest,
    PromoteResponse,
    QuarantineQuery,
    QuarantineResponse,
    ResyncRequest,
    ResyncResponse,
    RollbackRequest,
    RollbackResponse,
    SettleRequest,
    SettleResponse,
    StandingRequest,
    StandingResponse,
)

_REFUSALS = {409: "refused, with the reason"}
_UNKNOWN = {**_REFUSALS, 404: "not known, or gone"}


def add_admin(api: FastAPI, gate: Gate) -> None:
    """Add the operator's routes."""
    _add_resync(api, gate)
    _add_checkpoints(api, gate)
    _add_versions(api, gate)
    _add_quarantine(api, gate)
    _add_rules(api, gate)
    _add_handover(api, gate)
    _add_authors(api, gate)

    @api.post("/v1/admin/{action}", include_in_schema=False)
    async def unknown(request: Request, action: str) -> Response:
        await admit(request, gate, "admin")
        raise Problem(404, "not_found", f"there is no operator action {action!r}")


def _add_resync(api: FastAPI, gate: Gate) -> None:
    @api.post("/v1/admin/resync", **documented(ResyncRequest, ResyncResponse, optional=True, also=_REFUSALS))
    async def resync(request: Request) -> Response:
        author, body = await admit(request, gate, "admin")
        parse_body(request, body, ResyncRequest, optional=True)
        return json_response(asdict(await ask(gate.learner.resync(author.id))))


def _add_checkpoints(api: FastAPI, gate: Gate) -> None:
    documents = documented(
        CheckpointRequest, CheckpointInfo, optional=True, also={**_REFUSALS, 501: "the log is in memory"}
    )

    @api.post("/v1/admin/checkpoint", **documents)
    async def checkpoint(request: Request) -> Response:
        author, body = await admit(request, gate, "admin")
        parse_body(request, body, CheckpointRequest, optional=True)
        return json_response(await ask(gate.learner.checkpoint(author.id)))

    @api.get("/v1/admin/checkpoints", **documented(None, CheckpointsResponse, also=_REFUSALS))
    async def checkpoints(request: Request) -> Response:
        await admit(request, gate, "admin")
        return json_response({"checkpoints": await ask(gate.learner.checkpoints())})


def _add_versions(api: FastAPI, gate: Gate) -> None:
    @api.post("/v1/admin/freeze", **documented(FreezeRequest, FreezeResponse, optional=True, also=_REFUSALS))
    async def freeze(request: Request) -> Response:
        author, body = await admit(request, gate, "admin")
        frozen = parse_body(request, body, FreezeRequest, optional=True).frozen
        return json_response({"frozen": frozen, "version": await ask(gate.learner.freeze(frozen, author.id))})

    @api.post("/v1/admin/rollback", **documented(RollbackRequest, RollbackResponse, also=_UNKNOWN))
    async def rollback(request: Request) -> Response:
        author, body = await admit(request, gate, "admin")
        to = parse_body(request, body, RollbackRequest)
        return json_response(await ask(gate.learner.rollback(to.version, to.checkpoint, author.id)))


def _add_rules(api: FastAPI, gate: Gate) -> None:
    @api.post("/v1/admin/promote", **documented(PromoteRequest, PromoteResponse, also=_UNKNOWN))
    async def promote(request: Request) -> Response:
        author, body = await admit(request, gate, "admin")
        label = parse_body(request, body, PromoteRequest).rule
        return json_response(await ask(gate.learner.promote(label, author.id)))


def _add_handover(api: FastAPI, gate: Gate) -> None:
    documents = documented(
        HandoverRequest, HandoverResponse, optional=True, also={**_REFUSALS, 501: "the log is in memory"}
    )

    @api.post("/v1/admin/handover", **documents)
    async def handover(request: Request) -> Response:
        author, body = await admit(request, gate, "admin")
        parse_body(request, body, HandoverRequest, optional=True)
        return json_response(await ask(gate.learner.hand_over(author.id)))


def _add_quarantine(api: FastAPI, gate: Gate) -> None:
    @api.get("/v1/admin/quarantine", **documented(None, QuarantineResponse, query=QuarantineQuery, also=_REFUSALS))
    async def quarantine(request: Request) -> Response:
        await admit(request, gate, "admin")
        page = parse_query(request, QuarantineQuery)
        count, held = await ask(gate.learner.quarantine(page.after, page.limit))
        return json_response({"quarantined": count, "events": [_held(event) for event in held]})

    @api.post("/v1/admin/quarantine", **documented(SettleRequest, SettleResponse, also=_UNKNOWN))
    async def settle(request: Request) -> Response:
        author, body = await admit(request, gate, "admin")
        wanted = parse_body(request, body, SettleRequest)
        action: Literal[Action.READMIT, Action.DROP] = Action.READMIT if wanted.action == "readmit" else Action.DROP
        return json_response(await ask(gate.learner.settle(action, wanted.seqs, author.id)))


def _add_authors(api: FastAPI, gate: Gate) -> None:
    @api.get("/v1/admin/authors", **documented(None, AuthorsResponse, also=_REFUSALS))
    async def authors(request: Request) -> Response:
        await admit(request, gate, "admin")
        return json_response({"authors": [asdict(known) for known in await ask(gate.learner.authors())]})

    @api.post("/v1/admin/authors", **documented(StandingRequest, StandingResponse, also=_REFUSALS))
    async def set_standing(request: Request) -> Response:
        author, body = await admit(request, gate, "admin")
        said = parse_body(request, body, StandingRequest)
        seq = await ask(gate.learner.set_standing(said.author, Standing(said.standing), author.id))
        return json_response({"author": said.author, "standing": said.standing, "seq": seq})


def _held(held: HeldEvent) -> dict[str, Any]:
    event = held.event
    of = {"decision_id": event.decision_id} if event.reward_id is None else {"reward_id": event.reward_id}
    return {
        "seq": event.seq,
        "reason": held.reason.value,
        **of,
        "uids": event.uids,
        "rewards": event.rewards,
        "author": event.author,
    }
