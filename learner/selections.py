"""How often each uid was chosen. Decisions come while learning works, and are counted between its batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from .event_log import Chosen
from .events import Decision
from .rewards import Network
from .state import LearnerState

_Chosen = tuple[tuple[int, ...], tuple[str, ...], int]
"""Uids, who held them, and the version that chose."""


class Selections:
    """Decisions of the log that wait to be counted. Any thread may add some; to count needs the state's lock.

    So whoever commits decisions never waits for what is being learned, which may take minutes.

    Args:
        comparable: whether versions of that epoch can be compared with the places of this log's resyncs.

    Attributes:
        counted: how many of the log's decisions the statistics have counted.
    """

    def __init__(self, comparable: Callable[[int], bool]) -> None:
        self.counted = 0
        self._comparable = comparable
        self._waiting: deque[_Chosen] = deque()

    def add(self, decisions: Iterable[Chosen | Decision]) -> None:
        """Decisions that are in the log now, in its order."""
        # Not the decisions themselves, for they have embeddings.
        for decision in decisions:
            version = decision.version if self._comparable(decision.epoch) else 0
            self._waiting.append((decision.uids, decision.hotkeys, version))

    def count(self, state: LearnerState) -> None:
        """Count what waits, for the owners that were chosen and for nobody who came since. Mutates the statistics."""
        network, selections = Network(state.view, state.tenures), state.statistics.selections
        while self._waiting:
            uids, hotkeys, version = self._waiting.popleft()
            for uid, hotkey in zip(uids, hotkeys, strict=True):
                if network.still_has(uid, hotkey, version):
                    selections[uid] += 1
            self.counted += 1
