from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deployments.status import render_status

STATE: dict[str, Any] = {
    "learner": {
        "status": "running",
        "epoch": 1721,
        "version": 4711,
        "published_version": 4710,
        "events_logged": 4712,
        "events_applied": 4711,
        "rule": "adagrad",
        "durable": True,
        "moving_reward": 0.87654,
        "moving_loss": 0.0123,
        "decisions": 5000,
        "join_rate": 0.5,
        "counters": {"rewards_accepted": 31415, "late": 3},
        "checkpoint": {
            "name": "00000012-v4700",
            "version": 4700,
            "age_s": 12.25,
            "digest": "ab" * 32,
            "last_error": "no space left on device",
            "pruned_rows": 1234,
        },
        "log_error": "the database is away",
        "frozen": True,
        "quarantine": {"frozen": 5, "rolled_back": 3, "non_finite": 0},
        "rules": {
            "adagrad": {
                "serves": True,
                "moving_loss": 0.125,
                "would_earn": {"decisions": 812, "status": "ok", "value": 0.61, "low": 0.6, "high": 0.62},
            },
            "tight": {
                "serves": False,
                "moving_loss": 0.375,
                "would_earn": {
                    "decisions": 812,
                    "status": "ok",
                    "value": 0.63,
                    "low": 0.625,
                    "high": 0.635,
                    "better_by": {"status": "ok", "value": 0.02, "low": 0.015, "high": 0.025},
                },
            },
            "seed": {
                "serves": False,
                "moving_loss": None,
                "would_earn": {"decisions": 0, "status": "no_support", "better_by": {"status": "no_support"}},
            },
        },
        "drift": {"active": True, "loss_before": 0.5, "loss_after": 0.75, "last_version": 4600},
        "trust": {"enabled": True, "on": True, "active_authors": 17, "quarantined": ["mallory", "eve"], "trusted": []},
        "log_id": "0f9a",
        "fingerprint": "minilm:53aa",
        "node": {"id": "aa" * 28, "ip": "10.0.0.1", "hostname": "head-1"},
    },
    "metagraph": {"netuid": 1, "block": 6852690, "n": 256, "available": 250, "source": "roster"},
    "replicas": [
        {
            "id": "replica-a",
            "incarnation": "a1",
            "issued": 77,
            "epoch": 1721,
            "version": 4710,
            "age_s": 0.21,
            "queued_texts": 6,
            "texts": 99,
            "buffered_decisions": 2,
            "last_poll_s": 0.4,
            "queued_tokens": 431,
            "tokens_per_s": 8125.5,
            "embedding_cache": {"hits": 2, "misses": 2, "shared": 1, "entries": 2, "bytes": 4096},
            "latency_ms": {
                "short": {"texts": 80, "wait_p50": 1.0, "wait_p99": 2.0, "p50": 12.4, "p99": 40.2},
                "medium": {"texts": 19, "wait_p50": 1.5, "wait_p99": 9.0, "p50": 31.0, "p99": 88.8},
                "long": {"texts": 0, "wait_p50": None, "wait_p99": None, "p50": None, "p99": None},
            },
            "node": {"id": "bb" * 28, "ip": "10.0.0.2", "hostname": "worker-2"},
        }
    ],
    "nodes": [
        {
            "id": "aa" * 28,
            "ip": "10.0.0.1",
            "hostname": "head-1",
            "is_head": True,
            "resources": {"CPU": 4.0, "memory": 8.5 * 2**30},
        },
        {
            "id": "bb" * 28,
            "ip": "10.0.0.2",
            "hostname": "worker-2",
            "is_head": False,
            "resources": {"CPU": 16.0, "GPU": 2.0, "memory": 2.0**36},
        },
    ],
    "nodes_age_s": 1.25,
    "weights": {"epoch": 1721, "version": 4710, "age_s": 0.21},
    "degraded": False,
}
AWAY: dict[str, Any] = {
    "learner": {"status": "away", "last_seen_s": 42.5},
    "metagraph": None,
    "replicas": [],
    "weights": {"epoch": 1721, "version": 4710, "age_s": 42.5},
    "degraded": True,
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def rendered(state: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(render_status(state))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(output: str, label: str) -> str:
    return next(line for line in output.splitlines() if label in line)


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("published version", "4710"),
        ("events logged", "4712"),
        ("rule", "adagrad"),
        ("durable", "yes"),
        ("moving reward", "0.8765"),
        ("join rate", "0.5"),
        ("checkpoint", "00000012-v4700"),
        ("its version", "4700"),
        ("saved, s ago", "12.25"),
        ("checkpoint error", "device"),
        ("pruned rows", "1234"),
        ("log error", "away"),
        ("frozen", "yes"),
        ("quarantined", "3,"),
        ("active authors", "17"),
        ("quarantined authors", "mallory,"),
        ("trusted authors", "none"),
        ("rewards accepted", "31415"),
        ("block", "6852690"),
        ("available", "250"),
        ("replica-a", "77"),
        ("learner running", "fresh"),
    ],
)
def test_each_figure_stands_beside_its_name(label: str, value: str) -> None:
    assert value in row(rendered(STATE), label).replace("│", " ").split(label, 1)[1].split()


def test_the_rules_stand_side_by_side_where_there_are_shadows() -> None:
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in rendered(STATE).splitlines()]
    assert ["adagrad", "yes", "0.125", "0.61", "0.6 to 0.62", "-", "812"] in rows
    assert ["tight", "no", "0.375", "0.63", "0.625 to 0.635", "0.02 (0.015 to 0.025)", "812"] in rows
    assert ["seed", "no", "-", "no_support", "-", "-", "0"] in rows
    alone = copy.deepcopy(STATE)
    alone["learner"]["rules"] = {"adagrad": STATE["learner"]["rules"]["adagrad"]}
    assert "would have earned" not in rendered(alone)


def test_an_alarm_that_is_on_is_seen_with_when_and_how_far() -> None:
    assert "drift: the loss rose from 0.5 to 0.75 at version 4600" in rendered(STATE)
    calm = copy.deepcopy(STATE)
    calm["learner"]["drift"]["active"] = False
    assert "drift" not in rendered(calm)


def test_the_engines_figures_are_shown_by_replica() -> None:
    cells = row(rendered(STATE), "8126").replace("│", " ").split()
    assert cells == ["replica-a", "bbbbbbbb", "431", "8126", "60%", "12/40", "31/89", "-"]


def test_nodes_are_shown_with_what_they_have_and_what_runs_there() -> None:
    output = rendered(STATE)
    assert "nodes, as of 1.25 s ago" in output
    cells = [row(output, node).replace("│", " ").split() for node in ("aaaaaaaa", "64")]
    assert cells == [
        ["aaaaaaaa", "head-1", "10.0.0.1", "4", "0", "8.5", "head,", "learner"],
        ["bbbbbbbb", "worker-2", "10.0.0.2", "16", "2", "64", "1", "replica"],
    ]
    assert "head-1 (10.0.0.1)" in row(output, "runs on")


def test_a_service_that_tells_nothing_of_nodes_and_engines_has_no_such_tables() -> None:
    older = copy.deepcopy(STATE)
    del older["nodes"], older["replicas"][0]["latency_ms"], older["learner"]["node"]
    output = rendered(older)
    assert "nodes, as of" not in output
    assert "engines" not in output
    assert "runs on" not in output


def test_an_absent_learner_is_shown_with_when_it_was_last_seen() -> None:
    output = rendered(AWAY)
    assert "away" in row(output, "learner ")
    assert "degraded" in row(output, "learner ")
    assert "42.5" in row(output, "last seen")
    assert "moving reward" not in output
    assert "metagraph: not known" in output
    assert "replicas: none known" in output


def test_a_log_in_memory_is_said_to_be_none_that_lasts_and_has_no_checkpoint() -> None:
    state = copy.deepcopy(STATE)
    state["learner"]["durable"] = False
    output = rendered(state)
    assert "no" in row(output, "durable").replace("│", " ").split()
    assert "checkpoint" not in output


def test_eighty_columns_hold_large_figures_whole() -> None:
    state = copy.deepcopy(STATE)
    large = {"version": 123_456_789, "texts": 123_456_789, "issued": 12_345_678, "queued_texts": 10_000}
    state["replicas"][0].update(large, id="gate#Gate#5ykq2v0x", buffered_decisions=20_000, age_s=1.234)
    state["learner"].update(fingerprint="53aa" * 16, epoch=1_721_000_000_123)
    console = Console(file=io.StringIO(), width=80)
    console.print(render_status(state))
    assert isinstance(console.file, io.StringIO)
    output = console.file.getvalue()
    assert max(map(len, output.splitlines())) <= 80
    for figure in large.values():
        assert str(figure) in row(output, str(figure))
    assert "…" not in output


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*prefix, key), *paths(item, (*prefix, key)))]


@pytest.mark.parametrize("path", paths(STATE), ids=lambda path: ".".join(map(str, path)))
def test_any_value_may_be_null_or_missing(path: tuple[Any, ...]) -> None:
    state = copy.deepcopy(STATE)
    parent: Any = state
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = None
    assert "learner" in rendered(state)
    del parent[path[-1]]
    assert "learner" in rendered(state)


@given(st.dictionaries(st.sampled_from([*STATE, "new"]), json_values))
def test_no_answer_breaks_the_rendering(state: dict[str, Any]) -> None:
    assert "replicas" in rendered(state)


def test_what_the_service_says_is_not_taken_for_markup() -> None:
    state = copy.deepcopy(STATE)
    state["learner"]["rule"] = "[red]x[/blue]"
    state["learner"]["counters"] = {"[/]": 1}
    assert "[red]x[/blue]" in rendered(state)
