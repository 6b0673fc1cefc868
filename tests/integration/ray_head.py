"""A Ray cluster with its tables in Redis, started as an operator does.

Its control store (GCS) can die and come back, and so can all of its head node.

It has a folder, ports and a token of its own, and its processes carry a mark in their environment, so that nothing
else on the machine is touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import psutil

from deployments.local import ray_environment
from tests.ports import free_port

from .ray_cluster import RAY
from .service import ROOT, wait_for

_MARK = "TIDEGATE_TEST_CLUSTER"
_NODE = "TIDEGATE_TEST_NODE"
_OBJECT_STORE_BYTES = 200 * 2**20


class RayHead:
    """A head node, started by `ray start --head`, and workers that are added to it.

    Args:
        redis_address: where its tables are kept.
        num_cpus: of the head.
        ip: of all nodes; 127.0.0.1 is one that no worker can join.
    """

    def __init__(self, redis_address: str, *, num_cpus: int = 4, ip: str = "127.0.0.1") -> None:
        self._port = free_port()
        self._num_cpus = num_cpus
        self._ip = ip
        # Short: the paths of Unix sockets below it must fit into 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="tg-ray-"))
        self._mark = secrets.token_hex(8)
        self._gcs_command: list[str] = []
        self._gcs: subprocess.Popen[bytes] | None = None
        self.address = f"{ip}:{self._port}"
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
        """Start the head; returns when it takes connections. After `kill` it is a new machine with the same address."""
        options = {
            "--port": self._port,
            "--ray-client-server-port": free_port(),
            "--num-cpus": self._num_cpus,
            "--include-dashboard": "false",
        }
        # What another machine's disk does not have.
        Path(self._folder, "ray_current_cluster").unlink(missing_ok=True)
        self._ray_start("head", "--head", *(f"{name}={value}" for name, value in options.items()))

    def add_worker(self, num_cpus: int) -> None:
        """Start a further node; returns when it has joined."""
        self._ray_start("worker", f"--address={self.address}", f"--num-cpus={num_cpus}")

    def kill(self) -> None:
        """Let the head's machine fail: every process on it ends at once, and workers stay."""
        for process in self.processes(node="head"):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_for(lambda: not self.processes(node="head"))

    def _ray_start(self, node: str, *options: str) -> None:
        common = {
            "--node-ip-address": self._ip,
            "--dashboard-agent-listen-port": free_port(),
            # Any: by default they are those from 10,002 to 19,999, in which other tests have servers.
            "--min-worker-port": 0,
            "--max-worker-port": 0,
            "--object-store-memory": _OBJECT_STORE_BYTES,
            "--temp-dir": self._folder,
            "--include-log-monitor": "false",
        }
        command = [RAY, "start", *options, *(f"{name}={value}" for name, value in common.items())]
        done = subprocess.run(
            command,
            env={**self._own, _NODE: node},
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self, name: str = "", *, node: str = "") -> list[psutil.Process]:
        """What belongs to the cluster, or to one node, and has this in its command line, which Ray makes a title of."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                is_there = environment.get(_MARK) == self._mark and environment.get(_NODE, "").startswith(node)
                if is_there and name in " ".join(process.cmdline()):
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
            env={**self._own, _NODE: "head"},
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
