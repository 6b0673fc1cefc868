"""Spans and log lines of a real service: what one request and one reward leave behind, read from the files."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.trace_export import FOLDER_VARIABLE
from tests.ports import free_port

from .service import Service, serve_config, wait_for, write_roster

SECRET = "the heron's unspoken password"
MESSAGES = [f"{SECRET} one", f"{SECRET} two, which is somewhat longer"]
LEARNER_SPANS = ["tidegate.log", "tidegate.learn", "tidegate.publish"]


@dataclass(frozen=True)
class Caller:
    """A caller that traces: its trace, and its own span, which ours are to hang below."""

    trace_id: str
    span_id: str

    def headers(self, *, sampled: bool = True) -> dict[str, str]:
        return {
            "traceparent": f"00-{self.trace_id}-{self.span_id}-{int(sampled):02x}",
            "tracestate": "heron=t61rcWkgMzE",
        }


@dataclass(frozen=True)
class Traced:
    """A running service with tracing on, of which only what a caller traces is recorded."""

    service: Service
    trace_folder: Path
    log_folder: Path

    def spans(self, trace_id: str | None = None) -> list[dict[str, Any]]:
        lines = [line for file in self.trace_folder.iterdir() for line in file.read_text().splitlines(keepends=True)]
        # Of a line that is just being written a reader may see the first part.
        spans = [json.loads(line) for line in lines if line.endswith("\n")]
        return [span for span in spans if trace_id is None or span["context"]["trace_id"] == f"0x{trace_id}"]

    def wait_for_span(self, trace_id: str, name: str) -> list[dict[str, Any]]:
        """All spans of a trace once there is one of that name."""
        wait_for(lambda: name in [span["name"] for span in self.spans(trace_id)], 20)
        return self.spans(trace_id)

    def is_behind_haproxy_alone(self) -> bool:
        """Whether requests reach the replica directly: then they are within Serve's span, else right below the caller.

        Until HAProxy has found the replica healthy it sends to Serve's Python proxy, which keeps `traceparent` to
        itself: for some tenths of a second after the service has said that it is ready.
        """
        caller = new_caller()
        self.service.http.get("/healthz", headers=caller.headers())
        span = only(self.wait_for_span(caller.trace_id, "GET /healthz"), "GET /healthz")
        return bool(span["parent_id"] != f"0x{caller.span_id}")

    def lines(self, component: str) -> list[dict[str, Any]]:
        files = self.log_folder.glob(f"{component}-*.log")
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def new_caller() -> Caller:
    return Caller(secrets.token_hex(16), secrets.token_hex(8))


def only(spans: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [found] = [span for span in spans if span["name"] == name]
    return found


def id_of(span: dict[str, Any]) -> str:
    span_id: str = span["context"]["span_id"]
    return span_id


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    roster = folder / "roster.yaml"
    write_roster(roster, ["a", "b", "c"])
    logs = folder / "logs"
    config = serve_config(free_port(), roster, logging={"requests": True, "folder": str(logs)})
    config["tracing_config"] = {
        "enabled": True,
        "exporter_import_path": "deployments.trace_export:to_files",
        "sampling_ratio": 0.0,
    }
    service = Service(config, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder / "spans"))
        service.start()
    running = Traced(service, folder / "spans", logs)
    try:
        wait_for(running.is_behind_haproxy_alone)
        yield running
    finally:
        service.end()


def select(traced: Traced, headers: dict[str, str]) -> tuple[httpx.Response, list[str]]:
    response = traced.service.http.post("/v1/select", json={"messages": MESSAGES, "k": 2}, headers=headers)
    assert response.status_code == httpx.codes.OK, response.text
    return response, [selection["decision_id"] for selection in response.json()["selections"]]


def test_a_request_leaves_a_tree_of_spans_below_its_callers(traced: Traced) -> None:
    caller = new_caller()
    response, decisions = select(traced, {**caller.headers(), "X-Request-ID": "heron-1"})
    # Serve's own span is the last to end.
    serve = "replica_handle_request Gate __call__"
    spans = traced.wait_for_span(caller.trace_id, serve)

    request, embed, batch = (only(spans, name) for name in ("POST /v1/select", "tidegate.embed", "tidegate.batch"))
    assert only(spans, serve)["parent_id"] == f"0x{caller.span_id}"
    parents = {span["name"]: span["parent_id"] for span in spans}
    assert len(parents) == len(spans), "a span that is not known here"
    assert parents["POST /v1/select"] == id_of(only(spans, serve))
    assert parents["tidegate.embed"] == id_of(request)
    assert parents["tidegate.batch"] == id_of(embed)
    assert parents["tidegate.engine"] == id_of(batch)
    assert parents["tidegate.score"] == parents["tidegate.selection"] == id_of(request)
    assert all("key=heron, value=t61rcWkgMzE" in span["context"]["trace_state"] for span in spans)

    assert [link["context"]["span_id"] for link in batch["links"]] == [id_of(embed)]
    assert id_of(batch) in [link["context"]["span_id"] for link in embed["links"]]

    told = request["attributes"]
    assert told["http.route"] == "/v1/select"
    assert told["http.response.status_code"] == httpx.codes.OK
    assert told["tidegate.request_id"] == "heron-1"
    assert told["tidegate.texts"] == batch["attributes"]["tidegate.texts"] == len(MESSAGES)
    assert batch["attributes"]["tidegate.tokens"] > len(MESSAGES)
    selection = only(spans, "tidegate.selection")["attributes"]
    assert selection["tidegate.decision_ids"] == told["tidegate.decision_ids"] == decisions
    assert selection["tidegate.version"] == response.json()["weights"]["version"]
    assert selection["tidegate.epoch"] == response.json()["weights"]["epoch"]


def test_a_reward_is_followed_through_the_learner_to_its_publication(traced: Traced) -> None:
    _, [decision, _] = select(traced, {})
    uids = traced.service.http.get(f"/v1/decisions/{decision}").json()["uids"]
    caller = new_caller()
    report = {"rewards": [{"decision_id": decision, "uids": uids, "rewards": [1.0, 0.0]}], "wait": "published"}
    answer = traced.service.post("/v1/rewards", report, headers=caller.headers())
    spans = traced.wait_for_span(caller.trace_id, "tidegate.publish")

    chain = [only(spans, name) for name in ("POST /v1/rewards", "tidegate.report", *LEARNER_SPANS)]
    for above, below in pairwise(chain):
        assert below["parent_id"] == id_of(above)
        assert below["start_time"] >= above["start_time"]
    _, report_span, log, learn, publish = chain
    assert report_span["attributes"]["tidegate.seq"] == log["attributes"]["tidegate.seq"] == answer["version"]
    assert log["attributes"]["tidegate.accepted"] == len(uids)
    assert learn["attributes"]["tidegate.version"] >= answer["version"]
    assert publish["attributes"]["tidegate.version"] >= learn["attributes"]["tidegate.version"]
    assert chain[0]["attributes"]["tidegate.decision_ids"] == [decision]


def test_what_its_caller_does_not_record_is_not_recorded(traced: Traced) -> None:
    unsampled, after = new_caller(), new_caller()
    select(traced, unsampled.headers(sampled=False))
    select(traced, {})
    select(traced, after.headers())
    traced.wait_for_span(after.trace_id, "replica_handle_request Gate __call__")
    assert traced.spans(unsampled.trace_id) == []
    # Each span belongs to a caller that is traced: Serve, told to sample nothing by itself, began none.
    with_a_parent = [span for span in traced.spans() if span["parent_id"] is not None]
    assert len(with_a_parent) == len(traced.spans())


def test_log_lines_have_the_request_and_its_decisions_and_no_prompt_is_anywhere(traced: Traced) -> None:
    response, decisions = select(traced, {"X-Request-ID": "heron-2"})
    assert response.headers["X-Request-ID"] == "heron-2"
    refused = traced.service.http.post("/v1/score", json={"messages": [SECRET], "uids": [99]})
    malformed = traced.service.http.post("/v1/score", json={"messages": [[SECRET]]})
    assert (refused.status_code, malformed.status_code) == (422, 422)
    traced.service.post("/v1/admin/freeze", {"frozen": True}, headers={"X-Request-ID": "heron-3"})
    traced.service.post("/v1/admin/freeze", {"frozen": False})

    [line] = [line for line in traced.lines("replica") if line.get("request_id") == "heron-2"]
    assert line["event"] == "request"
    assert (line["method"], line["route"], line["status"], line["texts"]) == ("POST", "/v1/select", 200, 2)
    assert line["decision_ids"] == decisions
    assert line["took_ms"] > 0
    [code] = [
        line["code"]
        for line in traced.lines("replica")
        if line.get("request_id") == refused.headers["X-Request-ID"] and line.get("event") == "request"
    ]
    assert code == "unknown_uid"
    [call] = [line for line in traced.lines("replica") if line.get("event") == "operator_call"][:1]
    assert (call["request_id"], call["path"], call["author"]) == ("heron-3", "/v1/admin/freeze", "anonymous")
    assert {"replica_started", "request"} <= {line.get("event") for line in traced.lines("replica")}
    learners = traced.lines("learner")
    assert {"restored", "operator_action"} <= {line.get("event") for line in learners}
    assert {line["application"] for line in learners} == {"gate"}

    # In no file that the service has written: not ours, not Serve's, not Ray's.
    written = [traced.service.log_path, *traced.log_folder.iterdir(), *traced.trace_folder.iterdir()]
    written += [path for path in traced.service.ray_logs().rglob("*") if path.is_file()]
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
