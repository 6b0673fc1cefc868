"""What the command line refuses to start, and plain `serve run`. How it ends: test_readme and test_durability."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import yaml

from deployments.local import wait_until_ended
from tests.ports import free_port

from .service import ROOT, TIDEGATE, serve_config, wait_for, write_roster

NAMES = ["a", "b", "c"]


def test_a_host_beyond_loopback_is_refused_without_authentication(tmp_path: Path) -> None:
    roster = tmp_path / "roster.yaml"
    write_roster(roster, NAMES)
    config = serve_config(free_port(), roster)
    config["http_options"]["host"] = "0.0.0.0"
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    done = subprocess.run(
        [*TIDEGATE, "serve", "--config", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "loopback" in done.stderr


def allow_sigint() -> None:
    """A shell lets its background jobs ignore SIGINT, and so would everything that a test starts there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_plain_serve_run_serves_the_same_config_through_ray_s_own_proxy(tmp_path: Path) -> None:
    roster = tmp_path / "roster.yaml"
    write_roster(roster, NAMES)
    port = free_port()
    path = tmp_path / "serve_config.yaml"
    # Only `tidegate serve` knows where the config is.
    places = {"log": {"url": f"sqlite:///{tmp_path}/events.db"}, "checkpoints": {"url": f"{tmp_path}/checkpoints"}}
    path.write_text(yaml.safe_dump(serve_config(port, roster, learner=places)), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "serve"), "run", "--address", "local", str(path)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, preexec_fn=allow_sigint
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == httpx.codes.OK, 120)
        body = {"messages": ["tide"], "k": 2}
        assert len(httpx.post(f"{url}/v1/select", json=body, timeout=30).json()["selections"][0]["uids"]) == 2
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert wait_until_ended(started, 10) == []
