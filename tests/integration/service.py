"""A real service for tests: `tidegate serve` in a process of its own, talked to over HTTP, killed by process id."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

from deployments.ports import REPLICA_PORTS
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
TIDEGATE = [sys.executable, "-m", "deployments.cli"]
START_TIMEOUT_S = 120.0

T = TypeVar("T")


def wait_for(probe: Callable[[], T | None], timeout_s: float = 60.0, every_s: float = 0.05) -> T:
    """The first answer of `probe` that is true; a transport error counts as none."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            answer = probe()
        except httpx.TransportError:
            answer = None
        if answer:
            return answer
        time.sleep(every_s)
    raise AssertionError(f"{probe} did not become true within {timeout_s} s")


def write_roster(path: Path, names: list[str], unavailable: tuple[int, ...] = ()) -> None:
    experts = [{"name": name, "available": uid not in unavailable} for uid, name in enumerate(names)]
    path.write_text(yaml.safe_dump({"experts": experts}), encoding="utf-8")


def serve_config(port: int, roster: Path, **args: dict[str, Any]) -> dict[str, Any]:
    """The repository's own serve_config.yaml with another port and roster, and `args` laid over its arguments."""
    config = copy.deepcopy(yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8")))
    config["http_options"]["port"] = port
    arguments = config["applications"][0]["args"]
    arguments["chain"]["roster"] = str(roster)
    for section, values in args.items():
        # A chain of another source has other settings.
        other = values.get("source", "roster") != "roster"
        arguments[section] = values if other else {**arguments.get(section, {}), **values}
    return config


class Service:
    """A running `tidegate serve`."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.port = config["http_options"]["port"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.config_path = folder / "serve_config.yaml"
        self.config_path.write_text(yaml.safe_dump(config), encoding="utf-8")
        self.log_path = folder / "serve.log"
        self.http = httpx.Client(base_url=self.url, timeout=30.0)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def beside(cls, other: Service) -> Service:
        """Another service with the same settings, not started, on a port of its own."""
        config = yaml.safe_load(other.config_path.read_text(encoding="utf-8"))
        config["http_options"]["port"] = free_port()
        folder = other.config_path.parent / "beside"
        folder.mkdir()
        return cls(config, folder)

    def start(self, *prefixes: str) -> None:
        """Start and wait until the applications under these prefixes (default: the only one, at the root) are ready."""
        self.launch()
        wait_for(lambda: self._is_up(prefixes or ("",)), START_TIMEOUT_S)

    def join(self, address: str, environment: dict[str, str]) -> None:
        """Start on a Ray cluster that runs, in an environment as on its nodes, and wait until it is ready."""
        self.launch("--address", address, **environment)
        self.wait_until_up()

    def wait_until_up(self, prefix: str = "") -> None:
        """Wait until the application under this prefix is ready."""
        wait_for(lambda: self._is_up((prefix,)), START_TIMEOUT_S)

    def reconnect(self) -> None:
        """Talk again to what is left where the service was."""
        self.http = httpx.Client(base_url=self.url, timeout=30.0)

    def launch(self, *options: str, **environment: str) -> None:
        """Start `tidegate serve` with these options, in an environment that has these variables as well."""
        command = [*TIDEGATE, "serve", "--config", str(self.config_path), *options]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the service was not started"
        return self._process

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal to `tidegate serve` and wait until it has ended; its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def end(self) -> None:
        """End every process at once, if it has not been stopped: nothing of the service is looked at any more."""
        if self.process.poll() is not None:
            return
        processes = [psutil.Process(self.process.pid), *self.processes()]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.wait()
        psutil.wait_procs(processes, timeout=30)

    def start_again(self, *options: str) -> None:
        """Start what was stopped, with the same config and further options of `tidegate serve`."""
        assert self.process.poll() is not None, "the service still runs"
        self.reconnect()
        self.launch(*options)
        wait_for(lambda: self._is_up(("",)), START_TIMEOUT_S)

    def wait(self) -> int:
        """Wait until `tidegate serve` has ended; its exit code."""
        self.http.close()
        return self.process.wait(timeout=60)

    def processes(self) -> list[psutil.Process]:
        """Everything that the service has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def learner_pid(self) -> int:
        return wait_for(lambda: next((pid for pid, name in self.command_lines() if "LearnerActor" in name), None))

    def replica_pids(self) -> list[int]:
        return [pid for pid, name in self.command_lines() if "ServeReplica" in name]

    def replicas(self) -> dict[int, str]:
        """The replicas' own addresses, behind HAProxy's back, by process: of each that has its port open."""
        urls = {}
        for pid in self.replica_pids():
            for connection in psutil.Process(pid).net_connections("tcp4"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port in REPLICA_PORTS:
                    urls[pid] = f"http://127.0.0.1:{connection.laddr.port}"
        return urls

    def replica_urls(self) -> list[str]:
        """The replicas' own addresses."""
        return sorted(self.replicas().values())

    def metrics_url(self) -> str:
        """Where Prometheus finds Ray's metrics, as `tidegate serve` says."""
        found = re.search(r"Metrics for Prometheus: (\S+)", self.log)
        assert found is not None, self.log
        return found[1]

    def metrics(self) -> dict[str, float]:
        """Ray's metrics as Prometheus would scrape them: the series as it is written -> its value."""
        text = httpx.get(self.metrics_url(), timeout=5).text
        lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("ray_")]
        return {series: float(value) for series, _, value in lines}

    def ray_logs(self) -> Path:
        """The folder in which the processes of this service's Ray write their logs."""
        parts = [part for _, line in self.command_lines() for part in re.split(r"[ =]", line)]
        return Path(next(part for part in parts if part.endswith("/logs")))

    def post(self, path: str, body: Any, **options: Any) -> dict[str, Any]:
        """The answer to a request that must succeed."""
        response = self.http.post(path, json=body, **options)
        assert response.status_code == httpx.codes.OK, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get("/v1/state").json()
        return answer

    def arguments(self) -> dict[str, Any]:
        """The arguments of the application that is served."""
        config: dict[str, Any] = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
        args: dict[str, Any] = config["applications"][0]["args"]
        return args

    def command_lines(self) -> list[tuple[int, str]]:
        """The pid and the command line, which Ray makes a title of, of everything that the service has started."""
        titles = []
        for process in self.processes():
            try:
                titles.append((process.pid, " ".join(process.cmdline())))
            except psutil.Error:
                continue
        return titles

    def _is_up(self, prefixes: tuple[str, ...]) -> bool:
        assert self.process.poll() is None, f"tidegate serve ended:\n{self.log}"
        ready = [self.http.get(f"{prefix}/readyz").status_code == httpx.codes.OK for prefix in prefixes]
        return "Ctrl-C stops it" in self.log and all(ready)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
