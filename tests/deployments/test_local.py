from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from ray.serve._private import constants

from deployments import local
from deployments.local import ProcessId, RunFile, ServiceError
from deployments.ports import PortClaims

Spawn = Callable[..., psutil.Process]

IGNORES_SIGTERM = "trap '' TERM; echo ready; while :; do sleep 1000; done"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run files lie here, and not among those of services that run on this machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts real processes; returns once they have said a line. Whatever a test leaves behind is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def spawn_one(*command: str) -> psutil.Process:
        # In a group of its own, so that orphans are found too.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline()
        return psutil.Process(process.pid)

    yield spawn_one
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


NOBODY = ProcessId(2**22 + 1, 0.0)
"""A process that there cannot be."""


def run_file(serve: psutil.Process, *started: psutil.Process, port: int = 8123) -> RunFile:
    return RunFile(port, "node-of-nobody", ProcessId.of(serve), [ProcessId.of(process) for process in started])


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@contextlib.contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[int]:
    with socket.socket() as server:
        server.bind((host, 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_process_tree_ends(spawn: Spawn) -> None:
    parent = spawn("bash", "-c", "sleep 1000 & bash -c 'sleep 1000 & echo ready; wait' & wait")
    tree = [parent, *parent.children(recursive=True)]
    assert len(tree) == 4
    assert set(tree) <= set(local.descendants())
    local.end_processes(tree)
    assert all(gone(process) for process in tree)


def test_a_process_that_ignores_sigterm_is_killed(spawn: Spawn) -> None:
    stubborn = spawn("bash", "-c", IGNORES_SIGTERM)
    tree = [stubborn, *stubborn.children(recursive=True)]
    local.end_processes(tree, timeout_s=0.2)
    assert all(gone(process) for process in tree)


def test_a_process_is_asked_before_it_is_killed(spawn: Spawn, tmp_path: Path) -> None:
    farewell = tmp_path / "farewell"
    polite = spawn("bash", "-c", f"trap 'touch {farewell}; exit' TERM; echo ready; while :; do sleep 0.01; done")
    local.end_processes([polite])
    assert farewell.exists()


def test_processes_that_are_gone_already_need_no_ending(spawn: Spawn) -> None:
    process = spawn("bash", "-c", "echo ready; sleep 1000")
    process.kill()
    process.wait()
    local.end_processes([process])
    local.end_processes([])


def test_a_run_file_is_found_by_its_port_and_private(spawn: Spawn, folder: Path) -> None:
    child = spawn("bash", "-c", "echo ready; exec sleep 1000")
    mine = RunFile.of_this_process(8123, "node-1")
    assert mine.serve == ProcessId.of(psutil.Process())
    assert ProcessId.of(child) in mine.started
    mine.write()
    assert RunFile.read(8123) == mine
    assert RunFile.read(8124) is None
    path = local.run_file_path(8123)
    assert folder in path.parents
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "5", '{"port": 1}', '{"port": 1, "node_id": "n", "serve": {"pid": 1}, "started": []}']
)
def test_a_damaged_run_file_is_none(content: str) -> None:
    path = local.run_file_path(8123)
    path.parent.mkdir()
    path.write_text(content)
    assert RunFile.read(8123) is None


@pytest.mark.parametrize("planted", ["for all to write", "a link"])
def test_a_folder_that_others_may_write_into_is_not_used(planted: str, tmp_path: Path) -> None:
    folder = local.run_file_path(8123).parent
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if planted == "a link":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    (folder / "serve-8123.json").write_text('{"port": 8123, "node_id": "", "serve": {"pid": 1, "started_s": 0}}')
    assert RunFile.read(8123) is None
    with pytest.raises(ServiceError, match="not only yours"):
        RunFile.of_this_process(8123, "node-1").write()


def test_a_reused_pid_is_not_taken_for_the_process() -> None:
    me = psutil.Process()
    assert ProcessId.of(me).find() == me
    assert ProcessId(me.pid, me.create_time() - 60).find() is None
    assert NOBODY.find() is None


def test_stopping_ends_the_service_and_forgets_it(spawn: Spawn) -> None:
    service = spawn("bash", "-c", "echo ready; exec sleep 1000")
    run_file(service).write()
    assert local.stop_service(8123)
    assert gone(service)
    assert RunFile.read(8123) is None
    assert not local.stop_service(8123)


def test_stopping_ends_what_a_killed_service_has_left_behind(spawn: Spawn) -> None:
    service = spawn("bash", "-c", "sleep 1000 & sleep 1000 & echo ready; wait")
    other = spawn("bash", "-c", "echo ready; exec sleep 1000")
    left = service.children()
    run_file(service, *left).write()
    service.kill()
    service.wait()
    assert len(left) == 2
    assert not any(gone(process) for process in left)
    assert local.stop_service(8123)
    assert all(gone(process) for process in left)
    assert not gone(other)


def test_stopping_leaves_alone_whoever_has_the_pid_now(spawn: Spawn) -> None:
    other = spawn("bash", "-c", "echo ready; exec sleep 1000")
    before = ProcessId(other.pid, other.create_time() - 60)
    RunFile(8123, "node-of-nobody", before, [before]).write()
    assert local.stop_service(8123)
    assert not gone(other)
    assert RunFile.read(8123) is None


def test_stopping_kills_a_service_that_does_not_listen(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_SERVE_STOP_TIMEOUT_S", 0.1)
    monkeypatch.setattr(local.end_processes, "__defaults__", (0.1,))
    stubborn = spawn("bash", "-c", IGNORES_SIGTERM)
    run_file(stubborn).write()
    assert local.stop_service(8123)
    assert gone(stubborn)


def test_the_haproxy_of_the_node_is_found_by_name_and_no_other(spawn: Spawn, tmp_path: Path) -> None:
    shutil.copy(shutil.which("bash") or "/bin/bash", tmp_path / "haproxy")
    script = "echo ready; read"
    with subprocess.Popen(["sleep", "1000"], stdout=subprocess.PIPE) as feeder:
        started = [
            subprocess.Popen([tmp_path / "haproxy", "-c", script, node], stdin=feeder.stdout, stdout=subprocess.PIPE)
            for node in ("/tmp/ray/node-1/haproxy.cfg", "/tmp/ray/node-2/haproxy.cfg")
        ]
        try:
            for process in started:
                assert process.stdout
                assert process.stdout.readline()
            assert [process.pid for process in local.haproxies("node-1")] == [started[0].pid]
            assert local.haproxies("") == []
            # A service whose main process is gone already: its proxy is what is left.
            RunFile(8123, "node-1", NOBODY, []).write()
            assert local.stop_service(8123)
            assert started[0].wait(timeout=10) < 0
            assert started[1].poll() is None
        finally:
            for process in (*started, feeder):
                process.kill()
                process.wait()
                if process.stdout:
                    process.stdout.close()


def test_a_free_port_is_claimed_and_a_taken_one_is_named_with_the_remedy() -> None:
    with PortClaims() as claims, PortClaims() as others:
        with listening() as port:
            with pytest.raises(ServiceError, match=f"port {port} on 127.0.0.1 is taken; stop what listens there"):
                local.claim_port(claims, "127.0.0.1", port)
            run_file(psutil.Process(), port=port).write()
            with pytest.raises(ServiceError, match="by another tidegate serve; stop it with `tidegate down`"):
                local.claim_port(claims, "127.0.0.1", port)
        local.claim_port(claims, "127.0.0.1", port)
        if sys.platform == "linux":
            with pytest.raises(ServiceError, match=f"port {port} is claimed .* `tidegate down --port {port}`"):
                local.claim_port(others, "127.0.0.1", port)


def test_what_is_set_in_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_USAGE_STATS_ENABLED": "1"})
    local.set_ray_environment()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] == "1"
    names = ("DIRECT_INGRESS_MIN_HTTP_PORT", "DIRECT_INGRESS_MAX_HTTP_PORT", "FALLBACK_PROXY_HTTP_PORT")
    first, last, fallback = (int(os.environ[f"RAY_SERVE_{name}"]) for name in names)
    assert (last - first, fallback - first) == (98, 99)
    assert (os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1") == (sys.platform == "linux")


def test_serve_knows_every_variable_that_is_set_for_it() -> None:
    known = Path(constants.__file__).read_text()
    names = {name for name in local.ray_environment() if name.startswith("RAY_SERVE_")}
    assert len(names) > 5
    assert {name for name in names if f'"{name}"' not in known} == set()


class _Answers(BaseHTTPRequestHandler):
    statuses: list[int]
    paths: list[str]
    body = b"no weights yet"

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def answering(*statuses: int) -> Iterator[tuple[str, list[str]]]:
    paths: list[str] = []
    handler = type("Handler", (_Answers,), {"statuses": list(statuses), "paths": paths})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/gate", paths
        finally:
            server.shutdown()
            thread.join()


def test_waiting_for_the_service_ends_when_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with answering(503, 503, 200) as (url, paths):
        local.wait_until_ready(url, timeout_s=30)
    assert paths == ["/gate/readyz"] * 3


def test_a_service_that_does_not_get_ready_is_an_error_with_its_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with answering(503) as (url, _), pytest.raises(ServiceError, match=r"not ready within 0\.3 s: no weights yet"):
        local.wait_until_ready(url, timeout_s=0.3)
    with pytest.raises(ServiceError, match="no answer"):
        local.wait_until_ready(url, timeout_s=0.05)


def test_a_learner_that_cannot_start_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(_Answers, "body", b'{"detail": "the learner cannot start: the log is another\'s"}')
    with answering(503, 503, 200) as (url, paths):
        local.wait_until_ready(url, timeout_s=30, patience_s=20)
    assert len(paths) == 3
    with (
        answering(503) as (url, _),
        pytest.raises(ServiceError, match=r"ready: the learner cannot start: the log is another's$"),
    ):
        local.wait_until_ready(url, timeout_s=30, patience_s=0.1)


def test_patience_begins_anew_with_every_learner_that_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["the learner cannot start: x", "no weights yet", "the learner cannot start: x", None])
    times = iter([0.0, 1.0, 2.0, 3.0, 4.0])

    def get(url: str, timeout: float, trust_env: bool) -> httpx.Response:
        text = next(answers)
        return httpx.Response(200 if text is None else 503, text=text or "")

    monkeypatch.setattr(
        local, "httpx", SimpleNamespace(get=get, codes=httpx.codes, TransportError=httpx.TransportError)
    )
    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: next(times), sleep=lambda _: None))
    local.wait_until_ready("http://127.0.0.1:1", timeout_s=10, patience_s=1.5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_interrupt_the_service_until_it_cleans_up(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        local.interrupt_on_signals()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        local.ignore_signals()
        signal.raise_signal(number)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
