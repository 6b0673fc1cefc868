"""What is known of a request while it is answered: for its span, its log line, and every line that is logged meanwhile.

A middleware around all routes. It also turns what nobody caught into a 500: an exception's message may quote a prompt,
so Serve, which would log all of it, does not get to see it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learner.config import LoggingConfig
from learner.tracing import NO_TRACER, Span, Tracer

from .errors import Problem
from .http_io import problem_response

logger = logging.getLogger(__name__)

_UNEXPECTED = Problem(500, "internal", "an unexpected error; the service's log has it")
PROBES = frozenset({"/healthz", "/readyz"})
"""Asked every few seconds by whoever looks after the service: not worth a line."""
_LONGEST_ID = 128


@dataclass(slots=True)
class RequestRecord:
    """What became known of a request.

    Attributes:
        id: the caller's `X-Request-ID`, or the one that Serve gave it; "" without Serve.
        author: who calls, once that is known.
        code: of the problem that was answered.
        status: that was answered, 0 before.
        texts: how many it asked to embed.
        decision_ids: that it made, or reports on.
        prompts: the texts, None where they are not to be kept.
    """

    id: str
    author: str | None = None
    code: str | None = None
    status: int = 0
    texts: int = 0
    decision_ids: list[str] = field(default_factory=list)
    prompts: list[str] | None = None


_REQUEST: ContextVar[RequestRecord | None] = ContextVar("tidegate_request", default=None)


def log_context() -> dict[str, Any]:
    """Fields of the current request, for `learner.log_lines`."""
    record = _REQUEST.get()
    if record is None:
        return {}
    decisions = {"decision_ids": record.decision_ids} if record.decision_ids else {}
    return {"request_id": record.id, **decisions}


def note_author(author: str) -> None:
    """Say who calls."""
    if (record := _REQUEST.get()) is not None:
        record.author = author


def note_problem(code: str) -> None:
    """Say why the request is refused."""
    if (record := _REQUEST.get()) is not None:
        record.code = code


def note_texts(texts: Sequence[str]) -> None:
    """Say what the request wants embedded."""
    if (record := _REQUEST.get()) is not None:
        record.texts += len(texts)
        if record.prompts is not None:
            record.prompts += texts


def note_decisions(ids: Iterable[str]) -> None:
    """Say which decisions the request made, or is about."""
    if (record := _REQUEST.get()) is not None:
        record.decision_ids += ids


class RequestScope:
    """The middleware.

    Args:
        app: what answers.
        config: what is logged.
        tracer: told of each request.
    """

    def __init__(self, app: ASGIApp, *, config: LoggingConfig, tracer: Tracer = NO_TRACER) -> None:
        self._app = app
        self._config = config
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(_request_id(scope), prompts=[] if self._config.log_prompts else None)
        token = _REQUEST.set(record)
        started_s = time.perf_counter()
        try:
            with self._tracer.request(scope["method"], scope["headers"]) as span:
                try:
                    await self._answer(scope, receive, send, record)
                finally:
                    if span is not None:
                        _describe(span, scope, record)
        finally:
            if self._config.requests and route_of(scope) not in PROBES:
                self._log(scope, record, time.perf_counter() - started_s)
            _REQUEST.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        async def noting_the_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_the_status)
        except Exception:
            logger.exception("request_failed method=%s route=%s", scope["method"], route_of(scope))
            if record.status:
                raise
            record.code = _UNEXPECTED.code
            await problem_response(_UNEXPECTED)(scope, receive, noting_the_status)

    def _log(self, scope: Scope, record: RequestRecord, took_s: float) -> None:
        template = "request method=%s route=%s status=%d took_ms=%s texts=%d author=%s code=%s"
        took_ms = round(took_s * 1000, 3)
        values = (scope["method"], route_of(scope), record.status, took_ms, record.texts, record.author, record.code)
        if record.prompts is None:
            logger.info(template, *values)
        else:
            logger.info(template + " prompts=%s", *values, record.prompts)


def _describe(span: Span, scope: Mapping[str, Any], record: RequestRecord) -> None:
    route = route_of(scope)
    span.rename(f"{scope['method']} {route}")
    span.tell(
        **{
            "http.request.method": scope["method"],
            "http.route": route,
            "http.response.status_code": record.status or None,
            "error.type": record.code,
        },
        request_id=record.id,
        texts=record.texts,
        decision_ids=record.decision_ids,
    )


def _request_id(scope: Scope) -> str:
    # Serve's own middleware has seen to it that there is one, and answers it.
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return str(value[:_LONGEST_ID].decode("latin-1"))
    return ""


def route_of(scope: Mapping[str, Any]) -> str:
    """The route's pattern, not what stood in the URL."""
    return str(getattr(scope.get("route"), "path", "-"))
