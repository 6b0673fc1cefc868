"""A machine that really is short of something: in a mount namespace of its own, with file systems that are small."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASK = """
from deployments.machine import Machine, shortages
print(*shortages(Machine.here(), object_store_bytes=2**29), sep="\\n")
"""


def shortages_after(*mounts: str) -> list[str]:
    """What a machine is short of once these shell commands have run in a mount namespace."""
    script = " && ".join([*mounts, f'exec {sys.executable} -c "$1"'])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", ASK], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(autouse=True)
def _may_mount() -> None:
    try:
        subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting takes root's rights and util-linux")


def test_docker_s_64_mib_of_shared_memory() -> None:
    said = shortages_after("mount -t tmpfs -o size=64m none /dev/shm")
    assert [line for line in said if line.startswith("low shared memory: /dev/shm has 64 MiB free and")]


def test_a_disk_that_is_full() -> None:
    said = shortages_after(
        "mount -t tmpfs -o size=100m none /mnt", "head -c 97M /dev/zero > /mnt/taken", "export RAY_TMPDIR=/mnt"
    )
    assert [line for line in said if line.startswith("full disk: 97% of the file system of /mnt is taken")]


@pytest.mark.parametrize(
    ("folder", "limit", "taken"),
    [("", "memory.max", "memory.current"), ("memory/", "memory.limit_in_bytes", "memory.usage_in_bytes")],
    ids=["cgroup 2", "cgroup 1"],
)
def test_a_container_with_little_memory(folder: str, limit: str, taken: str) -> None:
    said = shortages_after(
        "mount -t tmpfs none /sys/fs/cgroup",
        f"mkdir -p /sys/fs/cgroup/{folder}",
        f"echo {2**30} > /sys/fs/cgroup/{folder}{limit}",
        f"echo {2**28} > /sys/fs/cgroup/{folder}{taken}",
    )
    assert [line for line in said if line.startswith("low memory: 768 MiB can be had and")]


def test_a_container_without_a_limit() -> None:
    said = shortages_after(
        "mount -t tmpfs none /sys/fs/cgroup",
        "echo max > /sys/fs/cgroup/memory.max",
        f"echo {2**28} > /sys/fs/cgroup/memory.current",
    )
    assert not [line for line in said if line.startswith("low memory")]
