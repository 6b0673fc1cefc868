"""A Redis server of the tests' own, from the system's package, with nothing on the disk."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from .ports import free_port

PACKAGE = "redis-server"


@contextlib.contextmanager
def running_redis() -> Iterator[str]:
    """A server while the body runs; yields its address. Without the package, the test is skipped."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip(f"no Redis server here; on Debian and Ubuntu: apt install {PACKAGE}")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tidegate-redis-") as folder:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if "Ready to accept connections" in line:
                    break
            else:
                raise RuntimeError("the server does not start:\n" + "".join(said))
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait(10)
            process.stdout.close()
