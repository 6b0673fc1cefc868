from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from deployments.local import ProcessId, RunFile
from deployments.runner import Served

from .terminal import run


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


def test_down_and_key_print_one_json_document() -> None:
    down = run("down", "--port", "8123", "--json")
    assert (down.exit_code, json.loads(down.stdout)) == (0, {"port": 8123, "stopped": False})
    made = run("key", "alice", "--scope", "score", "--json")
    assert made.stderr == ""
    printed = json.loads(made.stdout)
    assert printed["entry"]["sha256"] == hashlib.sha256(printed["key"].encode()).hexdigest()


def test_serve_prints_where_it_serves_as_json_and_the_rest_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def serve(_path: Path, *, say: Callable[[str], None], **_options: object) -> Iterator[list[Served]]:
        say("starting Ray ...")
        yield [Served("http://127.0.0.1:8000", "none")]

    class CtrlC:
        def wait(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("deployments.runner.running_service", serve)
    monkeypatch.setattr("deployments.runner.metrics_url", lambda: "http://127.0.0.1:8080")
    monkeypatch.setattr("deployments.cli.serving.threading.Event", CtrlC)
    result = run("serve", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"applications": [{"url": "http://127.0.0.1:8000", "auth_mode": "none"}]}
    assert "starting Ray ..." in result.stderr
    assert "Ctrl-C stops it" in result.stderr
