"""Replicas with queues, in steps of made-up time: what the autoscaling policy is driven with where there is no Ray."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from deployments.autoscaling import (
    BUSY_S,
    OFFERED_TOKENS,
    QUEUED_TOKENS,
    REFUSED_TOKENS,
    TOKENS_PER_S,
    ScalingSettings,
    ScalingState,
    desired_replicas,
    loads_told,
)

STEP_S = 0.1
_REPORTS = 10


@dataclass
class Replica:
    """One queue and one engine.

    Attributes:
        ready_s: when it takes its first request.
        told: the last reports of each figure.
    """

    name: str
    ready_s: float
    queued: float = 0.0
    offered: float = 0.0
    refused: float = 0.0
    busy_s: float = 0.0
    told: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def report(self, now_s: float, speed: float) -> None:
        figures = {
            QUEUED_TOKENS: self.queued,
            TOKENS_PER_S: speed,
            OFFERED_TOKENS: self.offered,
            REFUSED_TOKENS: self.refused,
            BUSY_S: self.busy_s,
        }
        for name, value in figures.items():
            self.told[name] = [*self.told.get(name, [])[-_REPORTS + 1 :], (now_s, value)]


@dataclass(frozen=True)
class Moment:
    """What there was at one time."""

    now_s: float
    delay_s: float
    running: int
    target: int


@dataclass
class Simulator:
    """A service under load.

    Args:
        settings: of the policy.
        speed: tokens a second that a replica says it does under load.
        efficiency: how much of that it really does: a replica also does other things.
        start_s: how long a replica takes to start.
        max_queue_s: what would wait for longer is refused, and not sent again.
        shares_evenly: requests go to each replica in turn, not to the one with the least work.
    """

    settings: ScalingSettings
    speed: float = 4000.0
    efficiency: float = 0.9
    start_s: float = 15.0
    max_queue_s: float = 30.0
    shares_evenly: bool = False
    now_s: float = 0.0
    state: ScalingState = field(default_factory=ScalingState)
    moments: list[Moment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replicas = [Replica(f"r{number}", 0.0) for number in range(self.settings.min_replicas)]
        self._made = len(self.replicas)

    def run(self, arrivals: Callable[[float], float], seconds: float) -> list[Moment]:
        """Let time pass; the moments of that time.

        Args:
            arrivals: tokens a second, by the time since the first run.
            seconds: how much time.
        """
        first = len(self.moments)
        for _ in range(round(seconds / STEP_S)):
            self._step(arrivals(self.now_s))
        return self.moments[first:]

    def _step(self, tokens_per_s: float) -> None:
        running = [replica for replica in self.replicas if replica.ready_s <= self.now_s]
        self._arrive(running, tokens_per_s * STEP_S)
        for replica in running:
            done = min(replica.queued, self.speed * self.efficiency * STEP_S)
            replica.queued -= done
            replica.busy_s += done / (self.speed * self.efficiency)
        self.now_s = round(self.now_s + STEP_S, 6)
        if abs(self.now_s - round(self.now_s)) < STEP_S / 2:
            for replica in running:
                replica.report(self.now_s, self.speed)
            self._decide(running)
        delay_s = sum(replica.queued for replica in running) / (self.speed * self.efficiency * len(running))
        self.moments.append(Moment(self.now_s, delay_s, len(running), len(self.replicas)))

    def _arrive(self, running: list[Replica], tokens: float) -> None:
        parts = len(running)
        for number in range(parts):
            replica = running[number] if self.shares_evenly else min(running, key=lambda one: one.queued)
            replica.offered += tokens / parts
            if replica.queued > self.max_queue_s * self.speed:
                replica.refused += tokens / parts
            else:
                replica.queued += tokens / parts

    def _decide(self, running: list[Replica]) -> None:
        told: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for replica in running:
            for name, series in replica.told.items():
                told.setdefault(name, {})[replica.name] = series
        loads = loads_told(told, now_s=self.now_s, max_age_s=20.0)
        desired, self.state = desired_replicas(
            loads,
            running=len(running),
            target=len(self.replicas),
            settings=self.settings,
            state=self.state,
            now_s=self.now_s,
        )
        while len(self.replicas) < desired:
            self.replicas.append(Replica(f"r{self._made}", self.now_s + self.start_s))
            self._made += 1
        # Serve stops those first that have not started; what waits at one that stops is finished there.
        del self.replicas[desired:]


def changes(moments: list[Moment]) -> list[int]:
    """By how much the target changed, each time it did."""
    targets = [moment.target for moment in moments]
    return [after - before for before, after in itertools.pairwise(targets) if after != before]


def turns(moments: list[Moment]) -> int:
    """How often growing became shrinking or the other way round."""
    steps = changes(moments)
    return sum((before > 0) != (after > 0) for before, after in itertools.pairwise(steps))


def back_under(moments: list[Moment], delay_s: float) -> float:
    """Seconds from the first moment until the delay is under that for good."""
    over = [moment.now_s for moment in moments if moment.delay_s > delay_s]
    return (over[-1] if over else moments[0].now_s) - moments[0].now_s
