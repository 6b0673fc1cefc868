"""Authors who report on a small world, to reward trust alone or to a whole learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gating import MetagraphView
from learner.config import TrustConfig
from learner.events import Event, OperatorEvent, Outcome, RewardEvent
from learner.trust import Trust

DIM, UIDS = 8, 6
VIEW = MetagraphView.from_hotkeys([f"owner-{uid}" for uid in range(UIDS)], block=1)
SKILL = np.linspace(0.1, 0.9, UIDS)

Reporter = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""From the true rewards to what is reported of them."""


def honest(true: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return true


def liar(true: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return 1.0 - true


def harsh(true: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return 0.25 * true


def lenient(true: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return 0.8 + 0.2 * true


def noisy(true: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(true + rng.normal(0.0, 0.4, true.shape), 0.0, 1.0)


def noisy_liar(true: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 1.0 - noisy(true, rng)


def chance(true: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.random(true.shape)


@dataclass
class World:
    """Reward trust, and the log that it would be given."""

    config: TrustConfig = field(default_factory=TrustConfig)
    seed: int = 0
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.trust = Trust(self.config, {}, VIEW, DIM)
        self.log: list[Event] = []

    def event(self, author: str, reporter: Reporter, uids: Sequence[int] | None = None) -> RewardEvent:
        """One prompt's rewards, as that author reports them."""
        prompt = self.rng.normal(size=DIM)
        prompt = prompt / np.linalg.norm(prompt)
        chosen = self.rng.choice(UIDS, 3, replace=False) if uids is None else np.array(uids)
        true = np.clip(SKILL[chosen] + 0.3 * prompt[0] + self.rng.normal(0.0, 0.1, len(chosen)), 0.0, 1.0)
        return RewardEvent(
            uids=tuple(chosen.tolist()),
            rewards=tuple(reporter(true, self.rng).tolist()),
            outcome=Outcome.LEARNED,
            embedding=prompt.astype(np.float16),
            author=author,
        )

    def commit(self, *events: Event, passes_s: float = 1.0) -> list[Event]:
        """As `Ingest` does it."""
        self.now_s += passes_s
        judged = self.trust.judge([*self.trust.verdicts(self.now_s), *events], self.now_s)
        placed = [replace(event, seq=len(self.log) + offset) for offset, event in enumerate(judged, 1)]
        self.log += placed
        self.trust.observe(placed, self.now_s)
        return placed

    def play(self, rounds: int, **reporters: Reporter) -> None:
        """Each author reports one prompt a round."""
        for _ in range(rounds):
            self.commit(*(self.event(author, reporter) for author, reporter in reporters.items()))

    def quarantined(self) -> list[str]:
        return [author for author, known in self.trust.standings.items() if known.is_quarantined]

    def said(self) -> list[tuple[str, str]]:
        """The verdicts so far."""
        return [
            (event.arguments["author"], event.arguments["standing"])
            for event in self.log
            if isinstance(event, OperatorEvent)
        ]

    def rewards(self, author: str) -> list[RewardEvent]:
        return [event for event in self.log if isinstance(event, RewardEvent) and event.author == author]
