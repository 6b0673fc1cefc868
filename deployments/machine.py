"""What a machine is short of for a service, found before it starts: it may run all the same, but not well."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

MEMORY_BYTES = 2 * 2**30
"""What a service of one replica takes with the default encoder, and some room: see docs/index.md for the figure."""
FULL = 0.95
"""From this share on Ray takes a disk for full (`RAY_local_fs_capacity_threshold`)."""
_MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")
_LIMIT_AND_TAKEN = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
"""Where a container finds its limit and what it takes of it: version 2 of cgroups, and version 1."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine has.

    Attributes:
        memory: bytes that can be had, in this container if it is one.
        shared_memory: free bytes of /dev/shm, None where there is none.
        ray_folder: where Ray keeps its session.
        disk_used: share of that folder's file system that is taken.
    """

    memory: int
    shared_memory: int | None
    ray_folder: Path
    disk_used: float

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Machine:
        """This one, as it is now."""
        folder = Path(environment.get("RAY_TMPDIR") or tempfile.gettempdir())
        shm = Path("/dev/shm")
        total, used, _ = shutil.disk_usage(folder)
        return cls(
            memory=min(psutil.virtual_memory().available, _left_by_cgroup()),
            shared_memory=shutil.disk_usage(shm).free if shm.is_dir() else None,
            ray_folder=folder,
            disk_used=used / total,
        )


def shortages(machine: Machine, *, object_store_bytes: int) -> list[str]:
    """What to tell whoever starts a service on this machine: one line each, with the remedy.

    Args:
        machine: what it has.
        object_store_bytes: how large Ray's object store is to be.
    """
    found = []
    if machine.shared_memory is not None and machine.shared_memory < object_store_bytes:
        found.append(
            f"low shared memory: /dev/shm has {machine.shared_memory // _MIB} MiB free and Ray's object store wants "
            f"{object_store_bytes // _MIB}, so it lies in {machine.ray_folder}, which is slower; in Docker: "
            "--shm-size=1g"
        )
    if machine.memory < MEMORY_BYTES:
        found.append(
            f"low memory: {machine.memory // _MIB} MiB can be had and a service takes some {MEMORY_BYTES // _MIB}; "
            "processes may be killed; free some, or give the container more"
        )
    if machine.disk_used >= FULL:
        found.append(
            f"full disk: {machine.disk_used:.0%} of the file system of {machine.ray_folder} is taken, and Ray writes "
            f"nothing from {FULL:.0%} on; free some, or name another folder in RAY_TMPDIR"
        )
    return found


def _left_by_cgroup() -> int:
    """What the container's limit leaves; a lot where there is none."""
    for names in _LIMIT_AND_TAKEN:
        # Another version, or "max".
        with contextlib.suppress(OSError, ValueError):
            limit, taken = (int((_CGROUP / name).read_text(encoding="ascii")) for name in names)
            return limit - taken
    return sys.maxsize
