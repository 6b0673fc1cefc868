from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from deployments.cli.watching import watch_status
from deployments.client import GateClient

from .terminal import let_answer, let_answer_with, run


def test_the_demo_takes_no_address_that_is_none(tmp_path: Path) -> None:
    data = tmp_path / "table.json"
    data.write_text('[{"question": "why?", "scores": {"small": 0.5}}]')
    result = run("demo", "--url", "127.0.0.1:8000", "--data", str(data))
    assert result.exit_code == 2
    assert "expected something like http://127.0.0.1:8000" in result.output


@pytest.mark.parametrize("wrong", [("--k", "0"), ("--batch", "257"), ("--limit", "0"), ("--data", "nowhere.json")])
def test_demo_with_bad_input_is_exit_code_2(wrong: tuple[str, str]) -> None:
    assert run("demo", *wrong).exit_code == 2


@pytest.mark.parametrize(
    ("options", "sent"), [((), "Bearer tg_default"), (("--api-key-env", "MY_KEY"), "Bearer tg_named")]
)
def test_status_and_demo_send_the_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple[str, ...], sent: str
) -> None:
    received: list[str | None] = []

    def gate(request: httpx.Request) -> httpx.Response:
        received.append(request.headers.get("authorization"))
        document = {"title": "Unauthorized", "code": "unauthorized", "detail": "the call has no valid credentials"}
        content_type = {"content-type": "application/problem+json"}
        return httpx.Response(401, content=json.dumps(document), headers=content_type)

    monkeypatch.setattr("deployments.client.GateClient", partial(GateClient, transport=httpx.MockTransport(gate)))
    monkeypatch.setenv("TIDEGATE_API_KEY", "tg_default")
    monkeypatch.setenv("MY_KEY", "tg_named")
    data = tmp_path / "table.json"
    data.write_text('[{"question": "why?", "scores": {"small": 0.5}}]')
    for command in (("status",), ("demo", "--data", str(data))):
        result = run(*command, *options)
        assert result.exit_code == 1
        assert "401 unauthorized: the call has no valid credentials" in result.output
        assert "tg_" not in result.output
    assert received == [sent, sent]


def test_a_named_variable_that_is_not_set_is_bad_input() -> None:
    for command in ("status", "demo"):
        result = run(command, "--api-key-env", "NOT_SET")
        assert result.exit_code == 2
        assert "the variable NOT_SET is not set" in result.stderr


STATE = {"learner": {"status": "running", "version": 1}, "weights": {"version": 1, "age_s": 0.1}, "degraded": False}


def test_status_prints_the_state_as_tables_or_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    let_answer_with(monkeypatch, {"/v1/state": STATE})
    shown = run("status")
    assert shown.exit_code == 0
    assert "learner running" in shown.stdout
    assert json.loads(run("status", "--json").stdout) == STATE


def test_a_live_status_is_not_one_json_document(monkeypatch: pytest.MonkeyPatch) -> None:
    let_answer_with(monkeypatch, {"/v1/state": STATE})
    result = run("status", "--watch", "--json")
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_live_status_follows_the_service_through_an_outage_until_ctrl_c() -> None:
    versions = iter([1, 2, None, 3])

    def gate(_request: httpx.Request) -> httpx.Response:
        version = next(versions)
        if version is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=STATE | {"weights": {"version": version, "age_s": 0.1}})

    screens: list[str] = []

    def sleep(seconds: float) -> None:
        assert seconds == 0.5
        assert isinstance(console.file, io.StringIO)
        screens.append(console.file.getvalue()[sum(map(len, screens)) :])
        if len(screens) == 4:
            raise KeyboardInterrupt

    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with GateClient(transport=httpx.MockTransport(gate), retries=0) as client:
        watch_status(client, console, every_s=0.5, sleep=sleep)
    assert ["weights version 1" in screens[0], "weights version 2" in screens[1]] == [True, True]
    assert "no answer from" in screens[2]
    assert "weights version 2" in screens[2]
    assert "weights version 3" in screens[3]
    assert "no answer from" not in screens[3]


def test_a_demo_without_a_service_is_exit_code_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    let_answer(monkeypatch, refuse)
    data = tmp_path / "table.json"
    data.write_text('[{"question": "why?", "scores": {"small": 0.5}}]')
    result = run("demo", "--data", str(data), "--json")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "tidegate serve" in result.stderr
