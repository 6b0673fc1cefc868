"""Follows processes while they live: memory and open files, and by how much both grow."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import psutil

_EVERY_S = 2.0
WARM_UP_S = 60.0
"""A process's first minute is left out: it still loads, and its caches fill."""


@dataclass
class Life:
    """One process from when it was first seen. `samples`: seconds, MiB of resident memory, open files."""

    name: str
    samples: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def settled(self) -> np.ndarray:
        """The samples after the warm-up."""
        samples = np.asarray(self.samples)
        return samples[samples[:, 0] >= samples[0, 0] + WARM_UP_S]

    @property
    def lasted_s(self) -> float:
        return self.samples[-1][0] - self.samples[0][0]

    def describe(self) -> dict[str, float | str]:
        """How long it lived, what it had at the end, and how both grew a minute (least squares)."""
        settled = self.settled
        if len(settled) > 2:
            rss, files = (float(np.polyfit(settled[:, 0], settled[:, column], 1)[0]) * 60 for column in (1, 2))
        else:
            rss = files = float("nan")
        return {
            "process": self.name,
            "lived_s": round(self.lasted_s),
            "rss_mib": round(self.samples[-1][1]),
            "rss_mib_per_minute": round(rss, 2),
            "files": self.samples[-1][2],
            "files_per_minute": round(files, 2),
        }


class Watch(threading.Thread):
    """Samples what `find` names (pid -> name), every two seconds until stopped."""

    def __init__(self, find: Callable[[], Mapping[int, str]]) -> None:
        super().__init__(name="watch", daemon=True)
        self.lives: dict[int, Life] = {}
        self._find = find
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            for pid, name in self._find().items():
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    sample = (time.monotonic(), process.memory_info().rss / 2**20, process.num_fds())
                    self.lives.setdefault(pid, Life(name)).samples.append(sample)

    def stop(self) -> list[Life]:
        """The lives that were followed, longest first."""
        self._stopping.set()
        self.join()
        return sorted(self.lives.values(), key=lambda life: -life.lasted_s)
