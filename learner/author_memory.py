"""What is remembered of who reported what: sums that fade, of a bounded number of authors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from .agreement import Agreement, Reports
from .events import Outcome, RewardEvent

MOST_AUTHORS = 1000
"""So many authors are remembered; of those not heard of lately, the one that reported least goes first."""

_AT_ONCE = 256
"""Events that are remembered in one go; no author of them makes room for another."""
_NOTCHES = 100.0
_NOTHING = 1e-3


@dataclass(frozen=True, slots=True)
class Flat:
    """The rewards of events, end to end.

    Attributes:
        authors: of the events, each once.
        author: for each reward the place of its author among them.
        event: for each reward the place of its event.
        uid: who earned it.
        reward: what was reported.
    """

    authors: tuple[str, ...]
    author: Int[np.ndarray, " k"]
    event: Int[np.ndarray, " k"]
    uid: Int[np.ndarray, " k"]
    reward: Float[np.ndarray, " k"]

    @classmethod
    def of(cls, events: Sequence[RewardEvent]) -> Flat:
        """Lay events end to end."""
        places: dict[str, int] = {}
        by_event = [places.setdefault(event.author, len(places)) for event in events]
        lengths = [len(event.uids) for event in events]
        return cls(
            authors=tuple(places),
            author=np.repeat(np.array(by_event, np.int64), lengths),
            event=np.repeat(np.arange(len(events)), lengths),
            uid=np.array([uid for event in events for uid in event.uids], np.int64),
            reward=np.array([reward for event in events for reward in event.rewards], np.float64),
        )

    def reports(self, expected: NDArray[np.float64], numbers: Int[np.ndarray, " author"]) -> Reports:
        """The same with what was expected, by the authors' numbers."""
        return Reports(numbers[self.author], self.event, expected, self.reward)


class AuthorMemory:
    """Sums of each author, by a number that it has as long as it is remembered.

    Args:
        window_s: what was reported is down to 1/e after this long.
        memory_events: see `Agreement`.
        closely_from: with fewer authors there is nothing to compare, and only how much each reports is remembered.

    Attributes:
        numbers: author -> number; those that were heard of last come last.
        reported: how many rewards each reported lately.
        counted: what of them counted, by uid.
        agreement: how each agrees with what was expected.
    """

    def __init__(self, *, window_s: float, memory_events: float, closely_from: int) -> None:
        self.numbers: dict[str, int] = {}
        self.reported: Float[np.ndarray, " author"] = np.zeros(0)
        self.counted: Float[np.ndarray, "author uid"] = np.zeros((0, 0))
        self.agreement = Agreement(memory_events)
        self._window_s = window_s
        self._closely_from = closely_from
        self._at_s = -math.inf

    def fade(self, now_s: float) -> None:
        """Let what is old count less. In notches, for it takes all of the memory."""
        elapsed_s = now_s - self._at_s
        if elapsed_s >= self._window_s / _NOTCHES:
            left = math.exp(-elapsed_s / self._window_s)
            self.reported *= left
            self.counted *= left
            self.counted[self.counted < _NOTHING] = 0.0
            self._at_s = now_s

    def add(self, events: Sequence[RewardEvent]) -> None:
        """Take in what was reported in time."""
        for start in range(0, len(events), _AT_ONCE):
            self._add(events[start : start + _AT_ONCE])

    def _add(self, events: Sequence[RewardEvent]) -> None:
        numbers = {author: self._number(author) for author in dict.fromkeys(event.author for event in events)}
        for event in events:
            self.reported[numbers[event.author]] += len(event.uids)
        if len(self.numbers) >= self._closely_from:
            flat = Flat.of(events)
            self._add_closely(events, flat, np.array([numbers[author] for author in flat.authors]))

    def forget_uids(self, uids: Sequence[int]) -> None:
        """These uids have new owners."""
        self.counted[:, [uid for uid in uids if uid < self.counted.shape[1]]] = 0.0

    def _add_closely(self, events: Sequence[RewardEvent], flat: Flat, numbers: Int[np.ndarray, " author"]) -> None:
        uids = int(flat.uid.max()) + 1
        if uids > self.counted.shape[1]:
            self.counted = np.pad(self.counted, ((0, 0), (0, uids - self.counted.shape[1])))
        weight = np.array([weight for event in events for weight in counting(event)])
        np.add.at(self.counted, (numbers[flat.author], flat.uid), weight)
        expected = [guess for event in events for guess in event.expected or (None,) * len(event.uids)]
        # An array of floats has NaN for None.
        self.agreement.add(flat.reports(np.array(expected, np.float64), numbers))

    def _number(self, author: str) -> int:
        """The author's number; a new one may take that of whoever reported least."""
        number = self.numbers.pop(author, None)
        if number is None and len(self.numbers) < MOST_AUTHORS:
            number = len(self.numbers)
            self.reported = np.append(self.reported, 0.0)
            self.counted = np.pad(self.counted, ((0, 1), (0, 0)))
            self.agreement.resize(number + 1)
        elif number is None:
            number = self._freed_number()
        self.numbers[author] = number
        return number

    def _freed_number(self) -> int:
        older = islice(self.numbers.items(), MOST_AUTHORS - _AT_ONCE)
        gone, number = min(older, key=lambda item: float(self.reported[item[1]]))
        del self.numbers[gone]
        self.reported[number] = 0.0
        self.counted[number] = 0.0
        self.agreement.forget(number)
        return number


def counting(event: RewardEvent) -> tuple[float, ...]:
    """What each reward of an event counts as it comes."""
    if event.outcome is Outcome.QUARANTINED:
        return (0.0,) * len(event.uids)
    return event.weights or (1.0,) * len(event.uids)
