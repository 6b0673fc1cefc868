"""Services to measure: `tidegate serve` with a roster of some size, and how much processor time its processes take."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.integration.service import Service, serve_config, write_roster
from tests.ports import free_port

ROLES = {"haproxy": "haproxy", "ServeReplica": "replica", "LearnerActor": "learner", "ServeController": "controller"}
"""What stands in a process's command line -> its role; everything else is "other": Ray's own processes."""


@contextlib.contextmanager
def served(uids: int, *, log: str | None = None, **sections: dict[str, Any]) -> Iterator[Service]:
    """A ready service of so many uids on a port and in a folder of its own; ended afterwards.

    Args:
        uids: experts in the roster.
        log: URL of the event log; None: SQLite in the folder.
        sections: laid over the arguments in serve_config.yaml.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
        folder = Path(name)
        roster = folder / "roster.yaml"
        write_roster(roster, [f"expert-{uid}" for uid in range(uids)])
        if log is not None:
            sections = {**sections, "learner": {**sections.get("learner", {}), "log": {"url": log}}}
        service = Service(serve_config(free_port(), roster, **sections), folder)
        try:
            service.start()
            yield service
        finally:
            service.stop()


def role_of(command_line: str) -> str:
    """The role of a process in the service."""
    return next((role for part, role in ROLES.items() if part in command_line), "other")


@dataclass(frozen=True)
class CpuTimes:
    """Processor seconds since each process started.

    Attributes:
        processes: pid -> its role and seconds.
        threads: thread -> seconds, of the replicas.
    """

    processes: dict[int, tuple[str, float]]
    threads: dict[int, float]

    @classmethod
    def read(cls, processes: Iterable[psutil.Process]) -> CpuTimes:
        """Of these processes, as of now; one that has ended is passed over."""
        by_pid, threads = {}, {}
        for process in processes:
            with contextlib.suppress(psutil.Error):
                role, times = role_of(" ".join(process.cmdline())), process.cpu_times()
                by_pid[process.pid] = (role, times.user + times.system)
                if role == "replica":
                    threads |= {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
        return cls(by_pid, threads)

    def since(self, before: CpuTimes) -> dict[str, float]:
        """Seconds taken by each role; a process that has started since counts from its start."""
        taken: dict[str, float] = {}
        for pid, (role, seconds) in self.processes.items():
            taken[role] = taken.get(role, 0.0) + seconds - before.processes.get(pid, (role, 0.0))[1]
        return taken

    def threads_since(self, before: CpuTimes) -> dict[int, float]:
        """Seconds taken by each thread of the replicas."""
        return {thread: seconds - before.threads.get(thread, 0.0) for thread, seconds in self.threads.items()}


def busiest(threads: dict[int, float], *, share: float = 0.05) -> set[int]:
    """The threads that took at least this share of what the busiest one took."""
    most = max(threads.values(), default=0.0)
    return {thread for thread, seconds in threads.items() if seconds >= share * most > 0}
