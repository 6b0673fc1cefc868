import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.texts import MARK
from benchmarks.wrk import WrkError, build_script, parse, run_wrk

SAID = {
    "requests": 400,
    "duration_us": 2_000_000,
    "bytes": 1000,
    "p50_us": 1500,
    "p90_us": 2500,
    "p99_us": 9000,
    "max_us": 12_000,
    "bad_statuses": 100,
    "connect": 1,
    "read": 2,
    "write": 4,
    "timeout": 8,
    "steady": 300,
    "steady_s": 1.5,
}


def output(**changes):
    return f"Running 2s test @ http://127.0.0.1\n  12 requests in 2.00s\nWRK_RESULT {json.dumps(SAID | changes)}\n"


def test_what_wrk_says_is_read_in_seconds_and_milliseconds():
    result = parse(output(), cpu_s=0.25)
    assert (result.requests, result.duration_s, result.bytes, result.cpu_s) == (400, 2.0, 1000, 0.25)
    assert (result.p50_ms, result.p90_ms, result.p99_ms, result.max_ms) == (1.5, 2.5, 9.0, 12.0)
    assert result.socket_errors == 15


def test_only_good_answers_of_the_time_in_full_swing_count():
    result = parse(output(), cpu_s=0.0)
    assert result.answers_per_s == pytest.approx(200)
    assert result.requests_per_s == pytest.approx(150)


def test_a_run_that_never_was_in_full_swing_counts_as_a_whole():
    result = parse(output(steady=0, steady_s=0.0, bad_statuses=0), cpu_s=0.0)
    assert result.requests_per_s == pytest.approx(200)
    assert parse(output(requests=0, steady=0, steady_s=0.0), cpu_s=0.0).requests_per_s == 0


def test_a_wrk_that_says_nothing_is_an_error_with_its_words():
    with pytest.raises(WrkError, match="unable to connect"):
        parse("Running", cpu_s=0.0, errors="unable to connect to 127.0.0.1:1")


def test_the_script_counts_only_for_fresh_texts(tmp_path):
    fresh = build_script(tmp_path / "b", connections=64, tag="r1", headers={"Accept": "x/y"})
    assert 'local tag = "r1x" .. count' in fresh
    assert 'wrk.headers["Accept"] = "x/y"' in fresh
    assert "count > 64 + 1 then" in fresh
    assert 'local tag = "again"' in build_script(tmp_path / "b", connections=1, tag=None, headers={})


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["Content-Type"], self.headers["X-Test"], body.decode()))
        self.send_response(429 if self.server.refuses else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.got, server.refuses = [], False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_sends_each_body_in_turn_and_no_text_twice(server):
    url = f"http://127.0.0.1:{server.server_port}/"
    result = run_wrk(
        url, [f"a {MARK} b {MARK}", f"c {MARK}"], connections=2, seconds=1, tag="t", headers={"X-Test": "7"}
    )
    bodies = [body for _, _, body in server.got]
    assert len(set(bodies)) == len(bodies) >= result.requests > 2
    assert sorted(bodies, key=lambda body: int(body.rsplit("x")[-1]))[:2] == ["c tx2", "a tx3 b tx3"]
    assert {(kind, header) for kind, header, _ in server.got} == {("application/json", "7")}
    assert result.bad_statuses == result.socket_errors == 0
    assert result.steady_s > 0
    assert abs(result.steady / result.steady_s - result.requests / result.duration_s) < 0.5 * result.requests
    server.got.clear()
    server.refuses = True
    result = run_wrk(url, [f"a {MARK}"], connections=1, seconds=1, tag=None)
    assert {body for _, _, body in server.got} == {"a again"}
    assert result.bad_statuses == result.requests > 0
    assert result.requests_per_s == 0
