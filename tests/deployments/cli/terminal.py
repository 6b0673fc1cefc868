"""Commands as a terminal runs them, against a gate that a test has written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from deployments.cli import app
from deployments.client import GateClient

Sent = list[tuple[str, str, Any]]
"""Method, path with query, and body of each request."""


def run(*arguments: str, stdin: str | None = None) -> Result:
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner(env=environment).invoke(app, arguments, input=stdin)


def let_answer(monkeypatch: pytest.MonkeyPatch, gate: Callable[[httpx.Request], httpx.Response]) -> None:
    """Have every command's client talk to this gate, without ever waiting."""
    client = partial(GateClient, transport=httpx.MockTransport(gate), sleep=lambda _: None)
    monkeypatch.setattr("deployments.client.GateClient", client)


def let_answer_with(monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, object]) -> Sent:
    """The same with JSON by path; answers with what was sent."""
    sent: Sent = []

    def gate(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        sent.append((request.method, request.url.raw_path.decode(), body))
        answer = answers[request.url.path]
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    let_answer(monkeypatch, gate)
    return sent


def problem(status: int, code: str, detail: str) -> httpx.Response:
    document = {"title": "No", "code": code, "detail": detail}
    return httpx.Response(status, content=json.dumps(document), headers={"content-type": "application/problem+json"})
