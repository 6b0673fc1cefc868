"""Playing a stream with an agent, and what comes of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from .agents import Agent
from .streams import Stream

WINDOW = 200
"""Over how many prompts it is judged whether a change is overcome."""
BEFORE = 500
"""Over how many prompts before a change it is judged what there is to recover."""
RECOVERED = 0.95
ADOPTED = 0.5
CURVE_POINTS = 40


@dataclass(frozen=True)
class Outcome:
    """What choices on a stream were worth, prompt by prompt.

    Attributes:
        stream: that was played.
        first: reward of the first choice.
        all: mean reward of the k choices.
        best: greatest reward of the k choices.
        chosen: whom, where that is known: None for an expectation over chance.
    """

    stream: Stream
    first: Float[np.ndarray, " step"]
    all: Float[np.ndarray, " step"]
    best: Float[np.ndarray, " step"]
    chosen: Int[np.ndarray, "step k"] | None = None

    @classmethod
    def of(cls, stream: Stream, chosen: Int[np.ndarray, "step k"]) -> Outcome:
        """What these choices, best first, have earned."""
        earned = np.take_along_axis(stream.rewards, chosen, axis=1)
        return cls(stream, earned[:, 0], earned.mean(axis=1), earned.max(axis=1), chosen)

    def figures(self, informed_share: float | None = None) -> dict[str, float | None]:
        """Mean rewards, and the steps that a change took to be overcome; None for never.

        Args:
            informed_share: how often the newcomer of a cold arm is asked by who knows all rewards.
        """
        last = slice(-(len(self.first) // 3) or None, None)
        figures: dict[str, float | None] = {
            "first": float(self.first.mean()),
            "first_last_third": float(self.first[last].mean()),
            "all": float(self.all.mean()),
            "best_of_k": float(self.best.mean()),
        }
        if self.stream.name == "drift":
            figures["recovered_after"] = self._recovered_after()
        if informed_share is not None and self.chosen is not None:
            figures["adopted_after"] = self._adopted_after(informed_share)
        return figures

    def regret(self) -> list[list[float]]:
        """(step, what the best choices would have earned more with the first choice, up to there)."""
        lost = np.cumsum(self.stream.worth.max(axis=1) - self.first)
        at = np.unique(np.linspace(0, len(lost) - 1, CURVE_POINTS).astype(int))
        return [[int(step + 1), round(float(lost[step]), 2)] for step in at]

    def newcomer_share(self) -> float:
        """How often the uid of a cold arm is asked once it is there."""
        return float(self._has_newcomer().mean())

    def _recovered_after(self) -> int | None:
        """Steps from the change until the last 200 first choices earn 95% of what the 500 before it did."""
        half = self.stream.half or 0
        wanted = RECOVERED * self.first[max(half - BEFORE, 0) : half].mean()
        return _first_window(self.first[half:], wanted)

    def _adopted_after(self, informed_share: float) -> int | None:
        """Steps from its arrival until it was asked, in the last 200 prompts, half as often as it should be."""
        has_it = np.concatenate([np.zeros(WINDOW - 1), self._has_newcomer()])
        after = _first_window(has_it, max(ADOPTED * informed_share, 1 / WINDOW))
        return None if after is None else after - (WINDOW - 1)

    def _has_newcomer(self) -> Bool[np.ndarray, " step"]:
        assert self.stream.available is not None
        assert self.chosen is not None
        newcomer = np.flatnonzero(~self.stream.available[0])
        has_it: Bool[np.ndarray, " step"] = np.isin(self.chosen[self.stream.half or 0 :], newcomer).any(axis=1)
        return has_it


def _first_window(values: Float[np.ndarray, " step"], wanted: float) -> int | None:
    """After how many values the last 200 have this mean for the first time."""
    if len(values) < WINDOW:
        return None
    means = np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")
    reached = np.flatnonzero(means >= wanted - 1e-12)
    return int(reached[0]) + WINDOW if len(reached) else None


def play(stream: Stream, agent: Agent, k: int) -> Outcome:
    """One pass: choose for a few prompts, then learn whatever reports have arrived."""
    chosen = np.zeros((stream.steps, k), np.int64)
    reported = stream.rewards if stream.reported is None else stream.reported
    waiting: list[tuple[int, int]] = []
    everyone = np.arange(stream.uids)
    for steps in stream.requests():
        start, last = int(steps[0]), int(steps[-1])
        if gone := stream.newcomers.get(start):
            agent.replace(gone)
            # What the old owners earned reaches nobody.
            reported = np.array(reported)
            reported[:start, list(gone)] = np.nan
        candidates = everyone if stream.available is None else np.flatnonzero(stream.available[start])
        chosen[steps] = agent.choose(stream.embedding[steps], candidates, k)
        for step in steps.tolist():
            heapq.heappush(waiting, (step + (0 if stream.delay is None else int(stream.delay[step])), step))
        if rows := np.array(list(_due(waiting, last)), np.int64).tolist():
            rewards = np.take_along_axis(reported[rows], chosen[rows], axis=1)
            agent.learn(stream.embedding[rows], chosen[rows], rewards, stream.names(np.array(rows)))
    return Outcome.of(stream, chosen)


def _due(waiting: list[tuple[int, int]], last: int) -> Iterator[int]:
    """The prompts whose reports have come by then, in the order in which they came."""
    while waiting and waiting[0][0] <= last:
        yield heapq.heappop(waiting)[1]
