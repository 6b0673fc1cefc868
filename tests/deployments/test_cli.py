from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from typer.testing import CliRunner, Result

from deployments.cli import app
from deployments.client import GateClient
from deployments.local import ProcessId, RunFile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line sets variables for Ray and looks for run files; neither is this machine's."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, arguments)


def write_config(folder: Path, *, host: str = "127.0.0.1", port: int = 8000, **args: object) -> Path:
    path = folder / "config.yaml"
    application = {"name": "gate", "import_path": "deployments.app:build_app", "args": args}
    path.write_text(yaml.safe_dump({"http_options": {"host": host, "port": port}, "applications": [application]}))
    return path


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ((), ("serve", "demo", "status", "promote", "handover", "key", "down")),
        (("promote",), ("RULE", "--url", "--api-key-env", "--json")),
        (("serve",), ("--config", "--address", "--reset")),
        (("demo",), ("--url", "--data", "--k", "--limit", "--seed", "--batch", "--api-key-env", "--json")),
        (("status",), ("--url", "--api-key-env", "--json")),
        (("key",), ("--scope",)),
        (("down",), ("--port", "--address")),
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


# conftest refuses ray.init, so what exits with 1 here has not got that far.
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("applications: [", "is not YAML"),
        ("aplications: []", "aplications is not a setting; did you mean applications?"),
        ("'[/x] [red]': 1", "[/x] [red] is not a setting"),
    ],
)
def test_serving_a_bad_config_is_a_clear_error(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    result = run("serve", "--config", str(path))
    assert result.exit_code == 1
    assert result.stderr.startswith("tidegate serve: ")
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_serving_beyond_this_machine_without_authentication_is_refused(tmp_path: Path) -> None:
    result = run("serve", "--config", str(write_config(tmp_path, host="0.0.0.0")))
    assert result.exit_code == 1
    assert "the service listens on loopback only, but http_options.host is 0.0.0.0" in result.stderr


def test_serving_a_roster_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    result = run("serve", "--config", str(write_config(tmp_path, chain={"roster": "/nowhere/roster.yaml"})))
    assert result.exit_code == 1
    assert "roster /nowhere/roster.yaml cannot be read" in result.stderr


def test_serving_on_a_taken_port_is_a_clear_error(tmp_path: Path, taken_port: int) -> None:
    result = run("serve", "--config", str(write_config(tmp_path, port=taken_port)))
    assert result.exit_code == 1
    assert f"port {taken_port} on 127.0.0.1 is taken" in result.stderr


@pytest.mark.parametrize("reset", [False, True])
def test_a_reset_is_asked_for_and_never_assumed(monkeypatch: pytest.MonkeyPatch, reset: bool) -> None:
    asked: list[object] = []

    @contextlib.contextmanager
    def refuse(_path: Path, **options: object) -> Iterator[None]:
        asked.append(options["reset"])
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("deployments.runner.running_service", refuse)
    assert run("serve", *(["--reset"] if reset else [])).exit_code == 0
    assert asked == [reset]


def test_down_where_nothing_runs_says_so() -> None:
    result = run("down", "--port", "8123")
    assert (result.exit_code, result.output.strip()) == (0, "nothing of Tidegate's serves on port 8123")


def test_down_ends_the_service_of_its_port_only() -> None:
    services = [subprocess.Popen(["sleep", "1000"]) for _ in range(2)]
    try:
        for port, service in zip((8123, 8124), services, strict=True):
            RunFile(port, "node-of-nobody", ProcessId.of(psutil.Process(service.pid)), []).write()
        result = run("down", "--port", "8123")
        assert (result.exit_code, result.output.strip()) == (0, "stopped the service on port 8123")
        assert services[0].wait(timeout=10) is not None
        assert services[1].poll() is None
        assert RunFile.read(8124) is not None
    finally:
        for service in services:
            service.kill()
            service.wait()


def test_status_without_a_service_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.client.GateClient", partial(GateClient, sleep=lambda _: None))
    with socket.socket() as not_listening:
        not_listening.bind(("127.0.0.1", 0))
        result = run("status", "--url", f"http://127.0.0.1:{not_listening.getsockname()[1]}")
    assert result.exit_code == 1
    assert "Is the service running?" in result.output


def test_an_address_that_is_none_is_bad_input(tmp_path: Path) -> None:
    result = run("status", "--url", "127.0.0.1:8000")
    assert result.exit_code == 2
    assert "expected something like http://127.0.0.1:8000" in result.stderr
    data = tmp_path / "table.json"
    data.write_text('[{"question": "why?", "scores": {"small": 0.5}}]')
    result = run("demo", "--url", "127.0.0.1:8000", "--data", str(data))
    assert result.exit_code == 2
    assert "expected something like http://127.0.0.1:8000" in result.output


@pytest.mark.parametrize("wrong", [("--k", "0"), ("--batch", "257"), ("--limit", "0"), ("--data", "nowhere.json")])
def test_demo_with_bad_input_is_exit_code_2(wrong: tuple[str, str]) -> None:
    assert run("demo", *wrong).exit_code == 2


def test_a_new_key_fits_its_entry_and_is_printed_on_its_own() -> None:
    results = [run("key", "alice", "--scope", "score", "--scope", "reward") for _ in range(2)]
    keys = []
    for result in results:
        key, entry = result.stdout.splitlines()
        [parsed] = yaml.safe_load(entry)
        assert (parsed["id"], parsed["scopes"]) == ("alice", ["reward", "score"])
        assert parsed["sha256"] == hashlib.sha256(key.encode()).hexdigest()
        assert key not in entry + result.stderr
        keys.append(key)
    assert keys[0] != keys[1]


@pytest.mark.parametrize("arguments", [("a b", "--scope", "score"), ("alice", "--scope", "all"), ("alice",), ()])
def test_a_key_for_nobody_or_nothing_is_bad_input(arguments: tuple[str, ...]) -> None:
    assert run("key", *arguments).exit_code == 2


def test_serving_with_keys_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    auth = {"mode": "api_key", "keys_file": "/nowhere/keys.yaml"}
    result = run("serve", "--config", str(write_config(tmp_path, host="0.0.0.0", auth=auth)))
    assert result.exit_code == 1
    assert "auth.keys_file /nowhere/keys.yaml cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("auth", "place"),
    [
        ({"keys": [{"id": "alice", "sha256": "tg_secret", "scopes": ["score"]}]}, "auth.api_key.keys.0.sha256"),
        ({"keys": "tg_secret"}, "auth.api_key.keys"),
        ({"keys_file": "tg_secret"}, "auth.api_key.keys_file"),
    ],
)
def test_a_key_in_the_place_of_its_hash_is_not_shown(tmp_path: Path, auth: dict[str, object], place: str) -> None:
    result = run("serve", "--config", str(write_config(tmp_path, auth={"mode": "api_key", **auth})))
    assert result.exit_code == 1
    assert f"{place}: " in result.stderr
    assert "tg_secret" not in result.output


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
    assert json.loads(run("handover", "--json").output) == {
        "left_epoch": 1,
        "epoch": 2,
        "version": 41,
        "away_s": 2.34,
    }
    refused = run("handover")
    assert refused.exit_code == 1
    assert "tidegate handover: 409 roll_in_progress: replicas of two deployments" in refused.stderr


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
