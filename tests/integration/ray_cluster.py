"""A Ray cluster of this machine's, as `ray start --head` makes one, and what `serve deploy` puts on it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psutil
import yaml

from deployments.local import end_processes, haproxies, set_ray_environment
from tests.ports import free_port

from .service import ROOT, wait_for

RAY, SERVE = (str(Path(sys.executable).parent / name) for name in ("ray", "serve"))


class RayCluster:
    """One node. Nothing of it is in the places where other Rays of this machine look for theirs."""

    def __init__(self, *, num_cpus: int) -> None:
        # Ray's sockets lie in it, whose paths may have 107 characters.
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        self._dashboard = f"http://127.0.0.1:{free_port()}"
        token = secrets.token_hex(32)
        with mock.patch.dict(os.environ):
            set_ray_environment()
            self._environment = {
                **os.environ,
                "RAY_TMPDIR": self._folder,
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": token,
            }
        self._http = httpx.Client(base_url=self._dashboard, headers={"Authorization": f"Bearer {token}"})
        self._num_cpus = num_cpus
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start Ray, and wait until its dashboard can be told what to serve."""
        ports = {"--port": free_port(), "--ray-client-server-port": free_port()}
        ports |= {"--dashboard-port": self._dashboard.rpartition(":")[2], "--dashboard-agent-listen-port": free_port()}
        # Any port that is free for workers: those that Ray has for them by default are among ours.
        ports |= {"--min-worker-port": 0, "--max-worker-port": 0}
        options = [f"{name}={port}" for name, port in ports.items()]
        with Path(self._folder, "log").open("wb") as log:
            self._process = subprocess.Popen(
                [RAY, "start", "--head", "--block", f"--num-cpus={self._num_cpus}", *options],
                # Not the checkout: workers import from the folder in which Ray was started first, a runtime_env's
                # PYTHONPATH comes after it, and so no other version could ever be rolled to.
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self.applications_or_none)

    def deploy(self, config: dict[str, Any]) -> None:
        """`serve deploy`; answers once it has been told, not once it is done."""
        path = Path(self._folder, "serve_config.yaml")
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        subprocess.run(
            [SERVE, "deploy", "--address", self._dashboard, str(path)],
            cwd=ROOT,
            env=self._environment,
            check=True,
            capture_output=True,
            timeout=60,
        )

    def redeploy(self, config: dict[str, Any]) -> None:
        """What `serve deploy` sends, without the seconds that it takes to start."""
        self._http.put("/api/serve/applications/", json=config, timeout=60.0).raise_for_status()

    def applications(self) -> dict[str, Any]:
        """What Serve says of the applications, by name."""
        answer = self._http.get("/api/serve/applications/")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()["applications"]
        return found

    def applications_or_none(self) -> tuple[dict[str, Any]] | None:
        """The same, once Serve's part of the dashboard answers."""
        assert self._process is not None
        assert self._process.poll() is None, Path(self._folder, "log").read_text(encoding="utf-8")
        try:
            return (self.applications(),)
        except httpx.HTTPError:
            return None

    def replicas(self, app: str = "gate") -> dict[int, str]:
        """The processes of an application's replicas, and what Serve says of each."""
        deployments = self.applications()[app]["deployments"].values()
        known = [replica for one in deployments for replica in one["replicas"] if replica.get("pid")]
        return {replica["pid"]: replica["state"] for replica in known}

    def learner_pid(self) -> int:
        """The process of the only learner."""
        [found] = [process.pid for process in self.processes() if "LearnerActor" in _title(process)]
        return found

    def processes(self) -> list[psutil.Process]:
        """Everything that the cluster has started."""
        if self._process is None or self._process.poll() is not None:
            return []
        return psutil.Process(self._process.pid).children(recursive=True)

    def stop(self) -> None:
        """End all of it."""
        self._http.close()
        if self._process is None:
            return
        started = self.processes()
        node_ids = {part for process in started for part in _title(process).split("=") if len(part) == 56}
        self._process.terminate()
        end_processes(started)
        end_processes([process for node_id in node_ids for process in haproxies(node_id)])
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
