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
"""A process's first minute is left out: it still loads."""


@dataclass
class Life:
    """One process from when it was first seen. `samples`: seconds, MiB of resident memory, open files.

    Attributes:
        full_s: from when on nothing filled up any more.
    """

    name: str
    samples: list[tuple[float, float, int]] = field(default_factory=list)
    full_s: float = 0.0

    @property
    def settled(self) -> np.ndarray:
        """The samples after the warm-up, and since all is full."""
        samples = np.asarray(self.samples)
        return samples[samples[:, 0] >= max(samples[0, 0] + WARM_UP_S, self.full_s)]

    @property
    def lasted_s(self) -> float:
        return self.samples[-1][0] - self.samples[0][0]

    @property
    def watched_s(self) -> float:
        """How long it lived after the warm-up and since all is full."""
        settled = self.settled
        return float(settled[-1, 0] - settled[0, 0]) if len(settled) else 0.0

    def describe(self) -> dict[str, float | str]:
        """How long it lived, what it had at the end, and how both grew a minute (least squares) once it had settled."""
        settled = self.settled
        if len(settled) > 2:
            rss, files = (float(np.polyfit(settled[:, 0], settled[:, column], 1)[0]) * 60 for column in (1, 2))
        else:
            rss = files = float("nan")
        return {
            "process": self.name,
            "lived_s": round(self.lasted_s),
            "watched_s": round(self.watched_s),
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
        self._full_s = 0.0
        self._find = find
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            for pid, name in self._find().items():
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    sample = (time.monotonic(), process.memory_info().rss / 2**20, process.num_fds())
                    self.lives.setdefault(pid, Life(name)).samples.append(sample)

    def is_full(self) -> None:
        """Nothing fills up any more, from now on."""
        self._full_s = time.monotonic()

    def stop(self) -> list[Life]:
        """The lives that were followed, longest first."""
        self._stopping.set()
        self.join()
        for life in self.lives.values():
            life.full_s = self._full_s
        return sorted(self.lives.values(), key=lambda life: -life.lasted_s)
