from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.client import (
    Author,
    Checkpoint,
    GateClient,
    GateUnavailableError,
    Handover,
    HeldReward,
    Metagraph,
    ProblemError,
    Quarantine,
    Rejected,
    Reward,
    Rollback,
    Scores,
    Selection,
    UnexpectedAnswerError,
    Weights,
)
from deployments.client.exchange import MAX_RETRY_AFTER_S, heeds_environment

from .conftest import Connect
from .scripted import PROVENANCE, REPORT, SELECTION, Outcome, ScriptedServer, answer, problem, proxy_error

AUTHOR: dict[str, Any] = {
    "author": "judge",
    "standing": "auto",
    "active": True,
    "recent_rewards": 12.5,
    "recent_weight": 3.0,
    "reports": 40.0,
    "agreement": None,
    "score": -3.5,
    "weight": 0.0,
    "quarantined_since": 17,
}
NO_PATH = "Path '/v1/score' not found. Ping http://.../-/routes for available routes."


def test_importing_the_client_is_quick_and_brings_no_numeric_library() -> None:
    program = (
        "import sys, time; start = time.process_time(); import deployments.client; "
        "took_s = time.process_time() - start; "
        "print([name for name in ('ray', 'torch', 'numpy') if name in sys.modules], took_s < 0.5)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] True"


def test_score_sends_only_what_was_asked_and_gives_typed_scores(connect: Connect) -> None:
    server = ScriptedServer([answer({"scores": [{"uids": [1, 0], "scores": [0.7, 0.2]}], **PROVENANCE})])
    result = connect(server).score(["why?"], top_k=2)
    assert server.requests[0].url == "http://127.0.0.1:8000/v1/score"
    assert server.body() == {"messages": ["why?"], "top_k": 2}
    assert result.scores == (Scores((1, 0), (0.7, 0.2)),)
    assert result.weights == Weights(epoch=3, version=17, age_s=0.5)
    assert result.metagraph == Metagraph(netuid=1, block=6852690, n=256)
    assert result.degraded is False


def test_dense_scores_come_as_an_array_with_their_provenance(connect: Connect) -> None:
    told = {"Epoch": "2", "Version": "7", "Age-S": "0.25", "Netuid": "3", "Block": "9", "N": "5", "Degraded": "true"}
    headers = {f"X-Tidegate-{name}": value for name, value in (told | {"Shape": "2,3"}).items()}
    content = np.arange(6, dtype="<f4").tobytes()
    server = ScriptedServer([httpx.Response(200, headers=headers, content=content)])
    result = connect(server).score_dense(["why?", "how?"], uids=[4, 0, 2])
    assert server.requests[0].headers["accept"] == "application/octet-stream"
    assert server.body() == {"messages": ["why?", "how?"], "uids": [4, 0, 2]}
    np.testing.assert_array_equal(result.scores, np.arange(6, dtype=np.float32).reshape(2, 3))
    assert result.scores.flags.writeable
    assert (result.weights, result.metagraph, result.degraded) == (Weights(2, 7, 0.25), Metagraph(3, 9, 5), True)


def test_dense_scores_from_another_server_are_told_from_a_gates(connect: Connect) -> None:
    for response in (answer({}), httpx.Response(200, headers={"X-Tidegate-Shape": "2"}, content=b"1")):
        with pytest.raises(UnexpectedAnswerError, match="something else"):
            connect(ScriptedServer([response])).score_dense(["why?"])


def test_select_sends_its_candidates_and_gives_typed_selections(connect: Connect) -> None:
    server = ScriptedServer([answer({"selections": [SELECTION], **PROVENANCE})])
    result = connect(server).select(("why?",), k=2, uids=range(5), explore=False, min_version=9)
    expected = {"messages": ["why?"], "k": 2, "uids": [0, 1, 2, 3, 4], "explore": False, "min_version": 9}
    assert server.body() == expected
    assert result.selections == (Selection("r-1", (4, 2), (0.9, 0.1), (1.0, 0.95)),)


def test_report_sends_both_kinds_of_rewards_and_accounts_for_each(connect: Connect) -> None:
    server = ScriptedServer([answer(REPORT)])
    rewards = [Reward((4, 2), (1, 0.5), decision_id="r-1"), Reward([7], [0.25], reward_id="mine", message="why?")]
    report = connect(server).report(rewards, wait="published")
    assert server.body() == {
        "rewards": [
            {"decision_id": "r-1", "uids": [4, 2], "rewards": [1.0, 0.5]},
            {"reward_id": "mine", "message": "why?", "uids": [7], "rewards": [0.25]},
        ],
        "wait": "published",
    }
    assert (report.accepted, report.duplicates, report.version, report.reached) == (3, 1, 21, True)
    assert report.weights == Weights(epoch=3, version=17)
    assert report.rejected == (
        Rejected(0, "stale_hotkey", "uid 4 has changed its owner", uid=4),
        Rejected(1, "unknown_decision", "there is no decision r-9"),
    )


@pytest.mark.parametrize(
    ("call", "request_line", "body", "result"),
    [
        (lambda gate: gate.state(), "GET /v1/state", {"degraded": True}, {"degraded": True}),
        (lambda gate: gate.uids(), "GET /v1/uids", {"uids": [{"uid": 0}]}, [{"uid": 0}]),
        (lambda gate: gate.decision("r/1"), "GET /v1/decisions/r%2F1", {"id": "r/1"}, {"id": "r/1"}),
        (lambda gate: gate.erase_decision("r-1"), "DELETE /v1/decisions/r-1", {"id": "r-1"}, None),
        (lambda gate: gate.resync(), "POST /v1/admin/resync", {"reset": [3]}, {"reset": [3]}),
    ],
)
def test_each_reading_call_asks_its_own_route(
    connect: Connect, call: Callable[[GateClient], Any], request_line: str, body: object, result: object
) -> None:
    server = ScriptedServer([answer(body)])
    assert call(connect(server)) == result
    assert f"{server.requests[0].method} {server.requests[0].url.raw_path.decode()}" == request_line


CHECKPOINT = {
    "name": "00000001-v7",
    "version": 7,
    "epoch": 2,
    "created_at": "2026-01-01T00:00:00+00:00",
    "digest": "ab",
    "frozen": False,
}
HELD = {"seq": 9, "reason": "frozen", "reward_id": "m", "uids": [1], "rewards": [0.5], "author": "judge"}


@pytest.mark.parametrize(
    ("call", "request_line", "sent", "body", "result"),
    [
        (lambda gate: gate.checkpoint(), "POST /v1/admin/checkpoint", None, CHECKPOINT, Checkpoint(**CHECKPOINT)),
        (
            lambda gate: gate.checkpoints(),
            "GET /v1/admin/checkpoints",
            None,
            {"checkpoints": [CHECKPOINT]},
            [Checkpoint(**CHECKPOINT)],
        ),
        (lambda gate: gate.freeze(), "POST /v1/admin/freeze", {"frozen": True}, {"frozen": True, "version": 8}, 8),
        (
            lambda gate: gate.promote("adagrad"),
            "POST /v1/admin/promote",
            {"rule": "adagrad"},
            {"rule": "adagrad", "version": 9, "rules": {}},
            9,
        ),
        (
            lambda gate: gate.hand_over(),
            "POST /v1/admin/handover",
            None,
            {"left_epoch": 1, "epoch": 2, "version": 9, "identity": "abc", "away_s": 1.5},
            Handover(left_epoch=1, epoch=2, version=9, away_s=1.5),
        ),
        (lambda gate: gate.freeze(False), "POST /v1/admin/freeze", {"frozen": False}, {"version": 9}, 9),
        (
            lambda gate: gate.rollback(version=0),
            "POST /v1/admin/rollback",
            {"version": 0},
            {"restored": 0, "version": 9, "quarantined": 8},
            Rollback(restored=0, version=9, quarantined=8),
        ),
        (
            lambda gate: gate.rollback(checkpoint="c"),
            "POST /v1/admin/rollback",
            {"checkpoint": "c"},
            {"restored": 7, "version": 9, "quarantined": 1},
            Rollback(restored=7, version=9, quarantined=1),
        ),
        (
            lambda gate: gate.quarantine(after=3, limit=2),
            "GET /v1/admin/quarantine?after=3&limit=2",
            None,
            {"quarantined": 5, "events": [HELD]},
            Quarantine(5, (HeldReward(9, "frozen", (1,), (0.5,), "judge", reward_id="m"),)),
        ),
        (
            lambda gate: gate.settle("drop", [np.int64(4)]),
            "POST /v1/admin/quarantine",
            {"action": "drop", "seqs": [4]},
            {"version": 11, "quarantined": 0},
            11,
        ),
        (
            lambda gate: gate.settle("readmit"),
            "POST /v1/admin/quarantine",
            {"action": "readmit", "seqs": None},
            {"version": 12, "quarantined": 0},
            12,
        ),
        (lambda gate: gate.authors(), "GET /v1/admin/authors", None, {"authors": [AUTHOR]}, [Author(**AUTHOR)]),
        (
            lambda gate: gate.set_standing("judge", "distrusted"),
            "POST /v1/admin/authors",
            {"author": "judge", "standing": "distrusted"},
            {"author": "judge", "standing": "distrusted", "seq": 13},
            13,
        ),
    ],
)
def test_each_operators_call_asks_its_own_route_and_gives_typed_values(
    connect: Connect, call: Callable[[GateClient], Any], request_line: str, sent: object, body: object, result: object
) -> None:
    server = ScriptedServer([answer(body)])
    assert call(connect(server)) == result
    [request] = server.requests
    assert f"{request.method} {request.url.raw_path.decode()}" == request_line
    assert (json.loads(request.content) if request.content else None) == sent


@pytest.mark.parametrize("both", [{}, {"version": 1, "checkpoint": "c"}])
def test_a_rollback_to_nowhere_or_to_two_places_is_not_sent(connect: Connect, both: dict[str, Any]) -> None:
    server = ScriptedServer([answer({})])
    with pytest.raises(ValueError, match="either version or checkpoint"):
        connect(server).rollback(**both)
    assert server.requests == []


def test_a_service_under_a_path_is_reached(connect: Connect) -> None:
    server = ScriptedServer([answer({})])
    connect(server, url="http://gate.example/tide/").state()
    assert server.requests[0].url == "http://gate.example/tide/v1/state"


@pytest.mark.parametrize(
    "passing",
    [
        problem(429, "overloaded", **{"retry-after": "1"}),
        problem(503, "decision_pending", **{"retry-after": "1"}),
        problem(503, "learner_away", **{"retry-after": "1"}),
        problem(503, "decisions_full", **{"retry-after": "1"}),
        httpx.Response(503, text="no replica"),
        proxy_error(500),
        httpx.Response(500),
        httpx.Response(502),
        httpx.Response(503),
        httpx.Response(504),
        proxy_error(502),
        proxy_error(504),
        httpx.Response(404, text=NO_PATH),
        httpx.ConnectError("connection refused"),
        httpx.ReadTimeout("too slow"),
        httpx.RemoteProtocolError("server disconnected"),
    ],
)
def test_what_may_pass_is_sent_again_unchanged(connect: Connect, passing: Outcome) -> None:
    server = ScriptedServer([passing, passing, answer(REPORT)])
    report = connect(server).report([Reward([4], [1.0], decision_id="r-1")])
    assert report.accepted == 3
    assert len({request.content for request in server.requests}) == 1
    assert len(server.requests) == 3


@pytest.mark.parametrize("lost", [httpx.ReadTimeout("too slow"), proxy_error(500), httpx.RemoteProtocolError("gone")])
@pytest.mark.parametrize(
    "operate",
    [
        lambda gate: gate.rollback(version=3),
        lambda gate: gate.promote("adagrad"),
        lambda gate: gate.settle("drop", seqs=[1]),
        lambda gate: gate.hand_over(),
    ],
)
def test_what_would_be_done_twice_is_not_sent_again_once_it_may_have_arrived(
    connect: Connect, operate: Callable[[Any], object], lost: Outcome
) -> None:
    server = ScriptedServer([lost, answer({})])
    with pytest.raises(GateUnavailableError):
        operate(connect(server))
    assert len(server.requests) == 1
    # Nobody has taken it there: refused before it was done, or not even sent.
    for nothing_done in (httpx.ConnectError("refused"), problem(503, "learner_away")):
        server = ScriptedServer([nothing_done, problem(409, "refused")])
        with pytest.raises(ProblemError, match="refused"):
            operate(connect(server))
        assert len(server.requests) == 2


def test_an_answer_that_cannot_be_decoded_is_unexpected(connect: Connect) -> None:
    server = ScriptedServer([httpx.DecodingError("no gzip")])
    with pytest.raises(UnexpectedAnswerError, match="cannot be read: no gzip"):
        connect(server).state()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("url", "heeds"),
    [
        ("http://127.0.0.1:8000", False),
        ("http://localhost:8000", False),
        ("http://[::1]:8000", False),
        ("http://gate.example", True),
        ("http://10.0.0.7:8000", True),
    ],
)
def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(url: str, heeds: bool) -> None:
    assert heeds_environment(url) is heeds


def test_a_proxy_that_never_hears_of_its_applications_is_a_service_that_is_away(connect: Connect) -> None:
    server = ScriptedServer([httpx.Response(404, text=NO_PATH)])
    with pytest.raises(GateUnavailableError, match=r"404 text/plain.*its proxy's"):
        connect(server, retries=2).score(["why?"])
    assert len(server.requests) == 3


def test_a_durable_select_is_sent_again_until_its_decisions_are_logged(connect: Connect) -> None:
    server = ScriptedServer([problem(503, "learner_away"), answer({"selections": [SELECTION], **PROVENANCE})])
    assert connect(server).select(["why?"], durable=True).selections[0].decision_id == "r-1"
    assert [server.body(index) for index in (0, 1)] == [
        {"messages": ["why?"], "k": 4, "explore": True, "durable": True}
    ] * 2


@pytest.mark.parametrize("status", [400, 404, 409, 413, 415, 422, 500, 501])
def test_a_problem_that_will_not_pass_is_raised_at_once(connect: Connect, status: int) -> None:
    server = ScriptedServer([problem(status, "some_code", detail="uid 300 is unknown; the network has 256")])
    with pytest.raises(ProblemError, match="uid 300 is unknown") as caught:
        connect(server).score(["why?"])
    assert (caught.value.status, caught.value.code, caught.value.title) == (status, "some_code", "No")
    assert len(server.requests) == 1
    assert server.time.sleeps_s == []


def test_retries_end_and_the_last_problem_is_raised(connect: Connect) -> None:
    server = ScriptedServer([problem(503, "learner_away")])
    with pytest.raises(ProblemError, match="learner_away"):
        connect(server, retries=2).report([Reward([4], [1.0], decision_id="r-1")])
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (httpx.ConnectError("connection refused"), "no answer from http://127.0.0.1:8000: connection refused"),
        (proxy_error(500), "answered 500 text/html"),
        (httpx.Response(503, text="no replica"), "answered 503 text/plain"),
    ],
)
def test_a_service_that_stays_away_is_unavailable(connect: Connect, outcome: Outcome, message: str) -> None:
    with pytest.raises(GateUnavailableError, match=message):
        connect(ScriptedServer([outcome])).state()


def test_retry_after_is_waited_for_but_not_for_ever(connect: Connect) -> None:
    patient = ScriptedServer([problem(429, "overloaded", **{"retry-after": "7"}), answer({})])
    connect(patient).state()
    assert patient.time.sleeps_s == [7.0]
    exaggerated = ScriptedServer([problem(429, "overloaded", **{"retry-after": "86400"}), answer({})])
    connect(exaggerated).state()
    assert exaggerated.time.sleeps_s == [MAX_RETRY_AFTER_S]


@pytest.mark.parametrize("strange", ["Fri, 07 Nov 2026 23:59:59 GMT", "nan", "inf", "-5", ""])
def test_a_strange_retry_after_falls_back_to_the_backoff(connect: Connect, strange: str) -> None:
    server = ScriptedServer([problem(503, "no_weights", **{"retry-after": strange}), answer({})])
    connect(server).state()
    assert 0.05 <= server.time.sleeps_s[0] <= 0.1


def test_backoff_doubles_with_jitter_up_to_its_bound(connect: Connect) -> None:
    server = ScriptedServer([httpx.ConnectError("refused")])
    with pytest.raises(GateUnavailableError):
        connect(server, retries=8, timeout_s=1000).state()
    bounds_s = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(server.time.sleeps_s, bounds_s, strict=True))
    assert len(set(server.time.sleeps_s)) == len(bounds_s)


passing_outcomes = st.one_of(
    st.builds(lambda seconds: problem(503, "no_weights", **{"retry-after": str(seconds)}), st.integers(0, 20)),
    st.sampled_from([proxy_error(502), httpx.ConnectError("refused"), httpx.ReadTimeout("slow")]),
)


@given(
    outcomes=st.lists(passing_outcomes, min_size=1, max_size=12),
    timeout_s=st.floats(0.05, 60),
    takes_s=st.floats(0, 5),
    retries=st.integers(0, 12),
)
def test_waiting_never_passes_the_deadline(
    connect: Connect, outcomes: list[Outcome], timeout_s: float, takes_s: float, retries: int
) -> None:
    server = ScriptedServer(outcomes, takes_s=takes_s)
    with pytest.raises((GateUnavailableError, ProblemError)):
        connect(server, timeout_s=timeout_s, retries=retries).state()
    assert len(server.requests) <= retries + 1
    # The fake server takes its time whatever the timeout says, so only the last attempt may run over.
    assert server.time.now_s - takes_s < timeout_s


def test_each_attempt_gets_no_more_time_than_is_left(connect: Connect) -> None:
    server = ScriptedServer([proxy_error(502), proxy_error(502), answer({})], takes_s=4.0)
    connect(server, timeout_s=10.0).state()
    left_s = [request.extensions["timeout"]["read"] for request in server.requests]
    assert left_s[0] == 10.0
    assert 5.8 < left_s[1] < 6.0
    assert 1.6 < left_s[2] < 2.0


def test_ready_asks_once_and_says_no_where_nothing_answers(connect: Connect) -> None:
    assert connect(ScriptedServer([answer({"status": "ready"})])).ready()
    for outcome in (problem(503, "no_weights"), proxy_error(500), httpx.ConnectError("refused")):
        server = ScriptedServer([outcome])
        assert not connect(server).ready()
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "strange",
    [
        httpx.Response(404, html="<h1>Not found</h1>"),
        httpx.Response(404, text="404 page not found"),
        httpx.Response(200, html="<h1>It works</h1>"),
        answer([1, 2]),
        answer(None),
        answer({"selections": [SELECTION]}),
        answer({"selections": [{"uids": [1]}], **PROVENANCE}),
    ],
)
def test_another_server_is_told_from_a_gate(connect: Connect, strange: httpx.Response) -> None:
    with pytest.raises(UnexpectedAnswerError, match=r"http://127\.0\.0\.1:8000 .*check"):
        connect(ScriptedServer([strange])).select(["why?"])


def test_one_string_is_not_taken_for_a_list_of_messages(connect: Connect) -> None:
    with pytest.raises(ValueError, match="list of strings"):
        connect(ScriptedServer([answer({})])).score("why?")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://gate", "http://", "http://gate:port", ""])
def test_an_address_that_is_none_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="expected something like http"):
        connect(ScriptedServer([answer({})]), url=url)


def test_leaving_the_context_closes_the_connections(connect: Connect) -> None:
    with connect(ScriptedServer([answer({})])) as gate:
        gate.state()
    with pytest.raises(RuntimeError, match="closed"):
        gate.state()
