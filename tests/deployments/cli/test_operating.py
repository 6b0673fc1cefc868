from __future__ import annotations

import json
from functools import partial

import httpx
import pytest

from deployments.client import GateClient

from .terminal import let_answer_with, run


def test_a_promotion_is_asked_for_by_label_and_answered_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, str, object]] = []

    def gate(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        received.append((request.method, request.url.path, body))
        if body["rule"] != "tight":
            document = {"title": "Not Found", "code": "unknown_rule", "detail": "there is no shadow rule"}
            content_type = {"content-type": "application/problem+json"}
            return httpx.Response(404, content=json.dumps(document), headers=content_type)
        return httpx.Response(200, json={"rule": "tight", "version": 41, "rules": {}})

    monkeypatch.setattr("deployments.client.GateClient", partial(GateClient, transport=httpx.MockTransport(gate)))
    result = run("promote", "tight")
    assert (result.exit_code, result.output) == (0, "tight serves from version 41 on\n")
    assert received == [("POST", "/v1/admin/promote", {"rule": "tight"})]
    assert json.loads(run("promote", "tight", "--json").output) == {"rule": "tight", "version": 41}
    refused = run("promote", "loose")
    assert refused.exit_code == 1
    assert "tidegate promote:" in refused.stderr
    assert "there is no shadow rule" in refused.stderr
    assert run("promote").exit_code == 2


def test_a_hand_over_tells_the_epochs_and_how_long_there_was_no_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [{"left_epoch": 1, "epoch": 2, "version": 41, "identity": "abc", "away_s": 2.34}] * 2

    def gate(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/admin/handover")
        if answers:
            return httpx.Response(200, json=answers.pop())
        document = {"title": "Conflict", "code": "roll_in_progress", "detail": "replicas of two deployments"}
        return httpx.Response(409, json=document, headers={"content-type": "application/problem+json"})

    monkeypatch.setattr("deployments.client.GateClient", partial(GateClient, transport=httpx.MockTransport(gate)))
    assert run("handover").output == "epoch 1 -> 2, from version 41 on; 2.3 s without a learner\n"
    told = json.loads(run("handover", "--json").output)
    assert told == {"left_epoch": 1, "epoch": 2, "version": 41, "away_s": 2.34}
    refused = run("handover")
    assert refused.exit_code == 1
    assert "tidegate handover: 409 roll_in_progress: replicas of two deployments" in refused.stderr


CHECKPOINT = {
    "name": "00000001-v7",
    "version": 7,
    "epoch": 2,
    "created_at": "2026-01-01T00:00:00+00:00",
    "digest": "ab",
    "frozen": False,
}
HELD = {"seq": 9, "reason": "frozen", "reward_id": "m", "uids": [1], "rewards": [0.5], "author": "judge"}
AUTHOR = {
    "author": "judge",
    "standing": "auto",
    "active": True,
    "recent_rewards": 12.5,
    "recent_weight": 3.0,
    "reports": 40.0,
    "agreement": None,
    "score": -3.5,
    "weight": 0.25,
    "quarantined_since": None,
}
RESYNC = {"block": 5, "n": 3, "reset": [1], "added": [], "removed": [], "seq": 4}
ROLLBACK = {"restored": 3, "version": 9, "quarantined": 6}


@pytest.mark.parametrize(
    ("command", "answer", "sent", "shown", "printed"),
    [
        (("resync",), RESYNC, ("POST", "/v1/admin/resync", None), "reset    1", RESYNC),
        (("checkpoint",), CHECKPOINT, ("POST", "/v1/admin/checkpoint", None), "saved 00000001-v7", CHECKPOINT),
        (
            ("checkpoint", "--list"),
            {"checkpoints": [CHECKPOINT]},
            ("GET", "/v1/admin/checkpoints", None),
            "00000001-v7",
            {"checkpoints": [CHECKPOINT]},
        ),
        (
            ("freeze",),
            {"version": 8},
            ("POST", "/v1/admin/freeze", {"frozen": True}),
            "learning is stopped from version 8 on",
            {"frozen": True, "version": 8},
        ),
        (
            ("freeze", "--off"),
            {"version": 9},
            ("POST", "/v1/admin/freeze", {"frozen": False}),
            "learning goes on from version 9 on",
            {"frozen": False, "version": 9},
        ),
        (
            ("thaw",),
            {"version": 9},
            ("POST", "/v1/admin/freeze", {"frozen": False}),
            "learning goes on from version 9 on",
            {"frozen": False, "version": 9},
        ),
        (
            ("rollback", "--version", "3"),
            ROLLBACK,
            ("POST", "/v1/admin/rollback", {"version": 3}),
            "version 3 serves again as version 9; 6 events are held",
            ROLLBACK,
        ),
        (
            ("rollback", "--checkpoint", "c"),
            ROLLBACK,
            ("POST", "/v1/admin/rollback", {"checkpoint": "c"}),
            "version 3 serves again",
            ROLLBACK,
        ),
        (
            ("quarantine", "--after", "3", "--limit", "5"),
            {"quarantined": 1, "events": [HELD]},
            ("GET", "/v1/admin/quarantine?after=3&limit=5", None),
            "frozen",
            {"quarantined": 1, "events": [HELD | {"decision_id": None}]},
        ),
        (
            ("quarantine", "--drop", "--seq", "9", "--seq", "10"),
            {"version": 11},
            ("POST", "/v1/admin/quarantine", {"action": "drop", "seqs": [9, 10]}),
            "done, as of version 11",
            {"version": 11},
        ),
        (
            ("quarantine", "--readmit"),
            {"version": 11},
            ("POST", "/v1/admin/quarantine", {"action": "readmit", "seqs": None}),
            "done",
            {"version": 11},
        ),
        (("authors",), {"authors": [AUTHOR]}, ("GET", "/v1/admin/authors", None), "judge", {"authors": [AUTHOR]}),
        (
            ("authors", "judge", "trusted"),
            {"seq": 12},
            ("POST", "/v1/admin/authors", {"author": "judge", "standing": "trusted"}),
            "judge is trusted from event 12 on",
            {"author": "judge", "standing": "trusted", "seq": 12},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and isinstance(value[-1], str) else "",
)
def test_each_operator_s_command_makes_its_call_and_shows_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    answer: object,
    sent: tuple[str, str, object],
    shown: str,
    printed: object,
) -> None:
    received = let_answer_with(monkeypatch, {sent[1].partition("?")[0]: answer})
    result = run(*command)
    assert (result.exit_code, result.stderr) == (0, "")
    assert shown in result.stdout
    assert received == [sent]
    as_json = run(*command, "--json")
    assert (as_json.exit_code, as_json.stderr) == (0, "")
    assert json.loads(as_json.stdout) == printed


@pytest.mark.parametrize(
    "command",
    [
        ("rollback",),
        ("rollback", "--version", "1", "--checkpoint", "c"),
        ("rollback", "--version", "-1"),
        ("quarantine", "--readmit", "--drop"),
        ("quarantine", "--seq", "1"),
        ("authors", "judge"),
        ("authors", "judge", "loved"),
        ("checkpoint", "now"),
    ],
    ids=" ".join,
)
def test_an_operator_s_mistake_is_exit_code_2_and_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    received = let_answer_with(monkeypatch, {})
    result = run(*command)
    assert (result.exit_code, result.stdout, received) == (2, "", [])
    assert result.stderr
