"""The Redis of the manifests, by its own command on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.deploy.manifests import named, render
from tests.ports import free_port
from tests.redis_server import PACKAGE


def test_it_asks_for_the_password_and_ends_in_order_when_its_container_is_stopped(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip(f"no Redis server here; on Debian and Ubuntu: apt install {PACKAGE}")
    [container] = named(render("kuberay"), "StatefulSet", "tidegate-redis")["spec"]["template"]["spec"]["containers"]
    [script] = container["args"]
    port = free_port()
    here = script.replace("--dir /data", f"--dir {tmp_path} --bind 127.0.0.1 --port {port}")
    command = [*container["command"], here]
    environment = {**os.environ, "REDIS_PASSWORD": "tide"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            started = any("Ready to accept connections" in line for line in process.stdout)
            assert started
            assert (answer(port, "PING"), answer(port, "AUTH tide")) == ("-NOAUTH Authentication required.", "+OK")
            # The container's first process is the one that is asked to end, and a shell in its place would not.
            assert psutil.Process(process.pid).name() == "redis-server"
            process.terminate()
            assert any("ready to exit" in line for line in process.stdout)
        finally:
            for one in (*psutil.Process(process.pid).children(), process):
                one.kill()


def answer(port: int, command: str) -> str:
    """What a Redis there says to a command."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(256).decode().strip()
