"""A Ray cluster with its tables in Redis, started as an operator does; its control store (GCS) can die and come back.

It has a folder, ports and a token of its own, and its processes carry a mark in their environment, so that nothing
else on the machine is touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from deployments.local import ray_environment
from tests.ports import free_port

from .service import ROOT

_MARK = "TIDEGATE_TEST_CLUSTER"
_CPUS = 4
_OBJECT_STORE_BYTES = 200 * 2**20


class RayHead:
    """A head node, started by `ray start --head`.

    Args:
        redis_address: where its tables are kept.
    """

    def __init__(self, redis_address: str) -> None:
        self._port = free_port()
        # Short: the paths of Unix sockets below it must fit into 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="tg-ray-"))
        self._mark = secrets.token_hex(8)
        self._gcs_command: list[str] = []
        self._gcs: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{self._port}"
        # What an operator exports on every node, and before `tidegate serve --address`.
        self.environment = {
            **ray_environment(),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "PYTHONPATH": str(ROOT),
        }
        self._own = {
            **os.environ,
            **self.environment,
            "RAY_REDIS_ADDRESS": redis_address,
            _MARK: self._mark,
        }

    def start(self) -> None:
        """Start the node; returns when it takes connections."""
        options = {
            "--port": self._port,
            "--node-ip-address": "127.0.0.1",
            "--ray-client-server-port": free_port(),
            "--dashboard-agent-listen-port": free_port(),
            # Any: by default they are those from 10,002 to 19,999, in which other tests have servers.
            "--min-worker-port": 0,
            "--max-worker-port": 0,
            "--num-cpus": _CPUS,
            "--object-store-memory": _OBJECT_STORE_BYTES,
            "--temp-dir": self._folder,
            "--include-dashboard": "false",
            "--include-log-monitor": "false",
        }
        ray = Path(sys.executable).parent / "ray"
        command = [ray, "start", "--head", *(f"{name}={value}" for name, value in options.items())]
        done = subprocess.run(
            command, env=self._own, cwd=self._folder, capture_output=True, text=True, timeout=60, start_new_session=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self, name: str = "") -> list[psutil.Process]:
        """What belongs to the cluster and has this in its command line, which Ray makes a title of."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark and name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill_gcs(self) -> None:
        """Let the control store die; how to start it again is kept."""
        [gcs] = self.processes("gcs_server")
        self._gcs_command = gcs.cmdline()
        gcs.kill()
        psutil.wait_procs([gcs], timeout=10)

    def start_gcs(self) -> None:
        """Start the control store again as it was, as a supervisor does. It reads its tables from Redis."""
        self._gcs = subprocess.Popen(
            self._gcs_command,
            env=self._own,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def remove(self) -> None:
        """End the cluster's processes, and those only, and delete its folder."""
        # Asked to end, some of Ray's would take their time.
        while left := self.processes():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=10)
        if self._gcs is not None:
            self._gcs.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)
