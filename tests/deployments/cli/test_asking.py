from __future__ import annotations

import json

import pytest

from .terminal import let_answer_with, run

PROVENANCE = {
    "weights": {"epoch": 3, "version": 17, "age_s": 0.5},
    "metagraph": {"netuid": 1, "block": 5, "n": 3},
    "degraded": False,
}
SCORES = {"scores": [{"uids": [1, 0], "scores": [0.75, 0.5]}], **PROVENANCE}
SELECTION = {"decision_id": "r-1", "uids": [2, 0], "scores": [0.9, 0.1], "propensities": [1.0, 0.95]}
REPORT = {"accepted": 2, "duplicates": 0, "rejected": [], "weights": None, "version": 21, "reached": True}
ROWS = [
    {"uid": 0, "hotkey": "a", "available": True, "selections": 5, "rewards": 2, "mean_reward": 0.25, "resets": 0},
    {"uid": 1, "hotkey": "b", "available": False, "selections": 0, "rewards": 0, "mean_reward": None, "resets": 1},
    {"uid": 2, "hotkey": "c", "available": True, "selections": 3, "rewards": 1, "mean_reward": 0.75, "resets": 0},
]


def test_scores_are_shown_and_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = let_answer_with(monkeypatch, {"/v1/score": SCORES})
    result = run("score", "[why]?", "--top-k", "2", "--uid", "0", "--uid", "1", "--min-version", "9")
    assert sent == [
        ("POST", "/v1/score", {"messages": ["[why]?"], "top_k": 2, "uids": [0, 1], "min_version": 9}),
    ]
    assert result.exit_code == 0
    assert "[why]?" in result.stdout
    assert [line.split("│")[1:3] for line in result.stdout.splitlines() if "0.7500" in line] == [["   1 ", " 0.7500 "]]
    assert json.loads(run("score", "why?", "--json").stdout) == SCORES


def test_prompts_come_from_standard_input_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = let_answer_with(monkeypatch, {"/v1/score": SCORES | {"scores": SCORES["scores"] * 3}})  # type: ignore[operator]
    assert run("score", "-", "how?", stdin="why?\n\nwhen?\n").exit_code == 0
    assert sent[0][2]["messages"] == ["why?", "when?", "how?"]


def test_a_selection_is_shown_with_the_command_that_rewards_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"/v1/select": {"selections": [SELECTION], **PROVENANCE}, "/v1/rewards": REPORT}
    sent = let_answer_with(monkeypatch, answers)
    result = run("select", "why?", "--k", "2", "--no-explore", "--durable")
    assert sent[0][2] == {"messages": ["why?"], "k": 2, "explore": False, "durable": True}
    [line] = [line for line in result.stdout.splitlines() if "tidegate reward" in line]
    command = line.partition("tidegate ")[2].replace("2=REWARD", "2=1").replace("0=REWARD", "0=0.5")
    assert run(*command.split()).stdout == "2 accepted, 0 duplicates, version 21\n"
    assert sent[1][2] == {"rewards": [{"decision_id": "r-1", "uids": [2, 0], "rewards": [1.0, 0.5]}], "wait": "logged"}
    assert json.loads(run("select", "why?", "--json").stdout)["selections"] == [SELECTION]


def test_a_reward_for_a_message_gets_an_id_that_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = let_answer_with(monkeypatch, {"/v1/rewards": REPORT})
    assert "under ticket-1" in run("reward", "--message", "why?", "--reward-id", "ticket-1", "3=0.5").stdout
    result = run("reward", "--message", "why?", "3=0.5", "--wait", "published")
    items = [body["rewards"][0] for _, _, body in sent]
    assert items[0] == {"reward_id": "ticket-1", "message": "why?", "uids": [3], "rewards": [0.5]}
    assert items[1]["reward_id"] in result.stdout
    assert items[1]["reward_id"] != "ticket-1"
    assert sent[1][2]["wait"] == "published"


def test_a_rejected_reward_is_a_failure_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = {"index": 0, "uid": 4, "code": "stale_hotkey", "detail": "uid 4 has changed its owner"}
    let_answer_with(monkeypatch, {"/v1/rewards": REPORT | {"rejected": [refusal], "reached": False}})
    result = run("reward", "--decision", "r-1", "4=1")
    assert result.exit_code == 1
    assert "rejected uid 4: stale_hotkey: uid 4 has changed its owner" in result.stdout
    assert "not yet logged" in result.stdout
    as_json = run("reward", "--decision", "r-1", "4=1", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["rejected"] == [refusal]


@pytest.mark.parametrize(
    "arguments",
    [
        ("reward", "0=1"),
        ("reward", "--decision", "r-1"),
        ("reward", "--decision", "r-1", "0"),
        ("reward", "--decision", "r-1", "0=much"),
        ("reward", "--decision", "r-1", "0=nan"),
        ("reward", "--decision", "r-1", "--message", "why?", "0=1"),
        ("reward", "--decision", "r-1", "0=1", "--wait", "forever"),
        ("score",),
        ("score", "why?", "--top-k", "0"),
        ("select", "why?", "--k", "0"),
        ("uids", "--by", "hotkey"),
        ("uids", "--by", "beauty"),
        ("decision",),
    ],
    ids=" ".join,
)
def test_a_caller_s_mistake_is_exit_code_2(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    sent = let_answer_with(monkeypatch, {"/v1/uids": {"uids": ROWS}})
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
    assert [path for _, path, _ in sent] == (["/v1/uids"] if "--by" in arguments else [])


def test_uids_are_listed_in_the_order_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    let_answer_with(monkeypatch, {"/v1/uids": {"uids": ROWS}})

    def listed(*options: str) -> list[int]:
        return [row["uid"] for row in json.loads(run("uids", "--json", *options).stdout)["uids"]]

    assert listed() == [0, 1, 2]
    assert listed("--by", "mean_reward") == [2, 0, 1]
    assert listed("--by", "selections", "--limit", "1") == [0]
    shown = run("uids").stdout
    assert "mean reward" in shown
    assert "0.2500" in shown


def test_a_decision_is_explained_or_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    explained = {"id": "r/1", "uids": [2, 0], "rewards": {"2": 1.0}}
    sent = let_answer_with(monkeypatch, {"/v1/decisions/r/1": explained})
    assert "rewards        {'2': 1.0}" in run("decision", "r/1").stdout
    assert json.loads(run("decision", "r/1", "--json").stdout) == explained
    assert json.loads(run("decision", "r/1", "--erase", "--json").stdout) == {"id": "r/1", "embedding": "erased"}
    assert [method for method, _, _ in sent] == ["GET", "GET", "DELETE"]
    assert {path for _, path, _ in sent} == {"/v1/decisions/r%2F1"}
