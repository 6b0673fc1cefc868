"""What goes wrong on purpose, by process id."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from tests.integration.service import Service, kill, wait_for

from .load import Load


@dataclass
class Faults:
    """Breaks a service under load; every fault returns once the load is served again.

    Attributes:
        done: what was broken, in order.
    """

    service: Service
    load: Load
    done: list[str] = field(default_factory=list)

    def kill_learner(self) -> None:
        """SIGKILL the learner, and wait until another acknowledges rewards."""
        victim = self.service.learner_pid()
        kill(victim)
        self._over("learner killed", lambda: victim not in self._pids("LearnerActor"))

    def kill_replica(self) -> None:
        """SIGKILL one replica, and wait for its successor."""
        count = len(self.service.replica_pids())
        victim = self.service.replica_pids()[0]
        kill(victim)
        self._over(
            "replica killed",
            lambda: victim not in self.service.replica_pids() and len(self.service.replica_urls()) >= count,
        )

    def kill_controller(self) -> None:
        """SIGKILL Serve's controller, and wait for its successor."""
        self._kill_and_wait("controller killed", "ServeController")

    def kill_proxy(self) -> None:
        """SIGKILL the actor that runs the proxy, and HAProxy itself."""
        for process in self._haproxies():
            with contextlib.suppress(ProcessLookupError):
                kill(process.pid)
        self._over("haproxy killed", lambda: bool(self._haproxies()))

    def pause_learner(self, for_s: float) -> None:
        """SIGSTOP the learner until nothing has been acknowledged for a while, then let it go on."""
        learner = self.service.learner_pid()
        os.kill(learner, signal.SIGSTOP)
        try:
            # How long it is paused is the fault itself, and no condition to wait for.
            threading.Event().wait(for_s)
        finally:
            os.kill(learner, signal.SIGCONT)
        self._over(f"learner paused for {for_s:g} s", lambda: True)

    def limit_files(self) -> None:
        """Let the learner write no file beyond 4 KB, as a quota does, until it says so; then lift that again."""
        learner = psutil.Process(self.service.learner_pid())
        before = learner.rlimit(psutil.RLIMIT_FSIZE)
        learner.rlimit(psutil.RLIMIT_FSIZE, (4096, before[1]))
        wait_for(lambda: self.service.state()["learner"].get("log_error"))
        learner.rlimit(psutil.RLIMIT_FSIZE, before)
        self._over("files limited", lambda: True)

    def _kill_and_wait(self, name: str, title: str) -> None:
        [victim] = self._pids(title)
        kill(victim)
        self._over(name, lambda: bool(set(self._pids(title)) - {victim}))

    def _pids(self, title: str) -> list[int]:
        return [pid for pid, line in self.service.command_lines() if title in line]

    def _haproxies(self) -> list[psutil.Process]:
        """Those that run. Processes come and go while they are looked at."""
        found = []
        for process in self.service.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == "haproxy" and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _over(self, name: str, recovered: Callable[[], bool]) -> None:
        wait_for(lambda: recovered() or None, timeout_s=90.0)
        self.wait_for_progress()
        self.done.append(name)

    def wait_for_progress(self) -> None:
        """Wait until more rewards have been acknowledged."""
        before = self.load.acknowledged
        wait_for(lambda: self.load.acknowledged > before + 20 or None, timeout_s=90.0)
