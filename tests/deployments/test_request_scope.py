from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from deployments.request_scope import log_context
from learner.config import LoggingConfig
from learner.log_lines import JsonLines

from .local_service import LocalService
from .test_http_io import check_problem

Start = Callable[..., Awaitable[LocalService]]
SECRET = "what nobody may read"


class Lines(logging.Handler):
    """Keeps the lines that a replica's file would have."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines({}, log_context, tells_errors=False))
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    def of(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(text) for text in self.texts]
        return [line for line in lines if line.get("event") == event]


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, lines = logging.getLogger("deployments"), Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(lines)
    logger.setLevel(level)


async def test_a_request_has_one_line_if_that_is_wanted(start: Start, lines: Lines) -> None:
    service = await start(logging=LoggingConfig(requests=True))
    headers = {"X-Request-ID": "r-1"}
    response = await service.http.post("/v1/select", json={"messages": [SECRET, "b"]}, headers=headers)
    await service.http.get("/v1/decisions/none", headers={"X-Request-ID": "r-2"})
    first, second = lines.of("request")
    assert first["request_id"] == "r-1"
    assert (first["method"], first["route"], first["status"], first["texts"]) == ("POST", "/v1/select", 200, 2)
    assert first["decision_ids"] == [selection["decision_id"] for selection in response.json()["selections"]]
    assert (first["author"], first["code"]) == ("anonymous", None)
    assert first["took_ms"] > 0
    assert (second["request_id"], second["route"]) == ("r-2", "/v1/decisions/{decision_id}")
    assert (second["status"], second["code"]) == (404, "unknown_decision")
    assert SECRET not in "".join(lines.texts)


async def test_by_default_requests_have_no_lines(service: LocalService, lines: Lines) -> None:
    await service.select(["a"])
    assert lines.texts == []


async def test_probes_have_no_lines(start: Start, lines: Lines) -> None:
    service = await start(logging=LoggingConfig(requests=True))
    for path in ("/healthz", "/readyz"):
        assert (await service.http.get(path)).status_code == 200
    assert lines.texts == []


async def test_a_probe_of_a_replica_that_is_not_ready_is_no_refusal(start: Start, lines: Lines) -> None:
    service = await start(subscribed=False)
    assert (await service.http.get("/readyz")).status_code == 503
    assert lines.of("refused_requests") == []
    assert (await service.post("/v1/score", {"messages": ["a"]})).status_code == 503
    [line] = lines.of("refused_requests")
    assert (line["code"], line["count"]) == ("no_weights", 1)


async def test_prompts_are_in_the_line_if_that_is_wanted(start: Start, lines: Lines) -> None:
    service = await start(logging=LoggingConfig(requests=True, log_prompts=True))
    await service.select([SECRET, "b"])
    await service.reward({"reward_id": "x", "message": "a reward's", "uids": [1], "rewards": [1.0]})
    assert [line["prompts"] for line in lines.of("request")] == [[SECRET, "b"], ["a reward's"]]


async def test_a_report_has_the_decisions_that_it_is_about(start: Start, lines: Lines) -> None:
    service = await start(logging=LoggingConfig(requests=True))
    [selection] = await service.select(["a"], k=1)
    await service.reward({"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": [1.0]})
    assert lines.of("request")[-1]["decision_ids"] == [selection["decision_id"]]


async def test_what_nobody_caught_is_a_500_whose_line_does_not_quote_it(service: LocalService, lines: Lines) -> None:
    service.engine.failing["poison"] = RuntimeError(SECRET)
    response = await service.http.post("/v1/score", json={"messages": ["poison"]}, headers={"X-Request-ID": "r-1"})
    check_problem(response, 500, "internal")
    [line] = lines.of("request_failed")
    assert (line["request_id"], line["route"], line["error"]) == ("r-1", "/v1/score", "RuntimeError")
    assert any("embedding_cache.py" in place for place in line["traceback"])
    assert lines.of("engine_failed")[0]["error"] == "RuntimeError"
    assert SECRET not in "".join(lines.texts)


async def test_an_operators_call_is_logged_with_who_called(service: LocalService, lines: Lines) -> None:
    await service.http.post("/v1/admin/freeze", json={"frozen": True}, headers={"X-Request-ID": "r-1"})
    [line] = lines.of("operator_call")
    assert (line["path"], line["author"], line["request_id"]) == ("/v1/admin/freeze", "anonymous", "r-1")


async def test_lines_of_no_request_have_no_request(lines: Lines) -> None:
    logging.getLogger("deployments.x").info("replica_started")
    [line] = lines.of("replica_started")
    assert "request_id" not in line


async def test_an_id_of_any_length_is_cut(start: Start, lines: Lines) -> None:
    service = await start(logging=LoggingConfig(requests=True))
    await service.http.get("/v1/uids", headers={"X-Request-ID": "x" * 5000})
    [line] = lines.of("request")
    assert line["request_id"] == "x" * 128
