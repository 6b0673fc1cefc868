from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deployments.cli import app

from .terminal import let_answer, problem, run

ROOT = Path(__file__).resolve().parents[3]


URL_OPTIONS = ("--url", "--api-key-env", "--json")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ((), ("serve", "demo", "status", "promote", "key", "down", "--install-completion", "Exit codes")),
        (("serve",), ("--config", "--address", "--reset", "--json")),
        (("down",), ("--port", "--address", "--json")),
        (("key",), ("--scope", "--json")),
        (("score",), ("MESSAGE", "--top-k", "--uid", "--min-version", *URL_OPTIONS)),
        (("select",), ("MESSAGE", "--k", "--uid", "--no-explore", "--durable", "--min-version", *URL_OPTIONS)),
        (("reward",), ("UID=REWARD", "--decision", "--message", "--reward-id", "--wait", *URL_OPTIONS)),
        (("uids",), ("--by", "--limit", *URL_OPTIONS)),
        (("decision",), ("ID", "--erase", *URL_OPTIONS)),
        (("status",), ("--watch", "--every", *URL_OPTIONS)),
        (("demo",), ("--data", "--k", "--limit", "--seed", "--batch", *URL_OPTIONS)),
        (("resync",), URL_OPTIONS),
        (("checkpoint",), ("--list", *URL_OPTIONS)),
        (("freeze",), ("--off", *URL_OPTIONS)),
        (("thaw",), URL_OPTIONS),
        (("rollback",), ("--version", "--checkpoint", *URL_OPTIONS)),
        (("promote",), ("RULE", *URL_OPTIONS)),
        (("handover",), URL_OPTIONS),
        (("quarantine",), ("--readmit", "--drop", "--seq", "--after", "--limit", *URL_OPTIONS)),
        (("authors",), ("AUTHOR", "STANDING", *URL_OPTIONS)),
        (("replay",), ("--config", "--app", "--rule", "--from", "--to", "--write-checkpoint", "--json")),
        (("evaluate",), ("--config", "--app", "--policy", "--rule", "--k", "--explored", "--plot", "--json")),
    ],
)
def test_help_names_every_option(command: tuple[str, ...], options: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    for option in options:
        assert option in result.output


def test_help_needs_neither_ray_nor_torch() -> None:
    program = (
        "import sys\n"
        "from deployments.cli import app\n"
        "try: app(['serve', '--help'])\n"
        "except SystemExit: print([name for name in ('ray', 'torch', 'numpy') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"


def commands() -> list[str]:
    return sorted(str(command.callback.__name__) for command in app.registered_commands if command.callback)


def test_every_command_says_what_it_does_and_shows_examples_of_itself() -> None:
    assert len(commands()) >= 20
    for name in commands():
        output = run(name, "--help").output
        examples = [line for line in output.splitlines() if line.strip().startswith("$ tidegate ")]
        assert len(examples) >= 1, name
        assert all(line.split()[2] == name for line in examples)


def test_every_command_can_print_json() -> None:
    for name in commands():
        assert "--json" in run(name, "--help").output, name


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [("scor", "score"), ("rolback", "rollback"), ("stats", "status"), ("checkpoints", "checkpoint")],
)
def test_a_mistyped_command_is_told_what_may_be_meant(mistyped: str, meant: str) -> None:
    result = run(mistyped)
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'" in result.output.replace("\n", " ")


def test_a_mistyped_option_is_told_what_may_be_meant() -> None:
    result = run("score", "why?", "--topk", "3")
    assert result.exit_code == 2
    assert "--top-k" in result.output


@pytest.mark.parametrize(
    ("typed", "offered"), [("tidegate ro", {"rollback"}), ("tidegate re", {"replay", "resync", "reward"})]
)
def test_a_shell_completes_commands(typed: str, offered: set[str]) -> None:
    words = typed.split()
    asked = {"_TIDEGATE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", "from deployments.cli import app; app(prog_name='tidegate')"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | asked,
    )
    assert set(done.stdout.split()) == offered


def test_the_script_for_shell_completion_is_printed() -> None:
    program = "from deployments.cli import app; app(['--show-completion', 'bash'], prog_name='tidegate')"
    env = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, env=env
    )
    assert "_TIDEGATE_COMPLETE=complete_bash" in done.stdout
    assert "complete -o" in done.stdout


# Of every kind of command that asks the service.
ASKING = [
    ("status",),
    ("status", "--watch"),
    ("score", "why?"),
    ("select", "why?"),
    ("reward", "--decision", "d-1", "0=1"),
    ("uids",),
    ("decision", "d-1"),
    ("resync",),
    ("checkpoint",),
    ("freeze",),
    ("thaw",),
    ("rollback", "--version", "0"),
    ("promote", "adagrad"),
    ("handover",),
    ("quarantine",),
    ("authors",),
]


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_without_a_service_every_command_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused")

    let_answer(monkeypatch, refuse)
    result = run(*command, "--url", "http://127.0.0.1:8123")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"tidegate {command[0]}: nothing listens on http://127.0.0.1:8123")
    assert "tidegate serve" in result.stderr


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_what_the_service_refuses_is_a_failure_with_its_words(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    let_answer(monkeypatch, lambda _: problem(403, "forbidden", "the caller [judge] may not do this"))
    result = run(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "403 forbidden: the caller [judge] may not do this" in result.stderr


def test_a_caller_without_a_key_is_told_where_one_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    let_answer(monkeypatch, lambda _: problem(401, "unauthorized", "the call has no valid credentials"))
    result = run("score", "why?")
    assert result.exit_code == 1
    assert "TIDEGATE_API_KEY" in result.stderr
    monkeypatch.setenv("TIDEGATE_API_KEY", "tg_wrong")
    assert "TIDEGATE_API_KEY" not in run("score", "why?").stderr


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_an_address_that_is_none_is_bad_input_to_every_command(command: tuple[str, ...]) -> None:
    result = run(*command, "--url", "127.0.0.1:8000")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "expected something like http://127.0.0.1:8000" in result.stderr
