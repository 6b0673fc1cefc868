"""How often each uid was chosen. Decisions come while learning works, and are counted between its batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .event_log import Chosen
from .events import Decision
from .state import LearnerState


class Selections:
    """Decisions of the log that wait to be counted. Any thread may add some; to count needs the state's lock.

    So whoever commits decisions never waits for what is being learned, which may take minutes.

    Attributes:
        counted: how many of the log's decisions the statistics have counted.
    """

    def __init__(self) -> None:
        self.counted = 0
        self._waiting: deque[tuple[tuple[int, ...], tuple[str, ...]]] = deque()

    def add(self, decisions: Iterable[Chosen | Decision]) -> None:
        """Decisions that are in the log now, in its order."""
        # Not the decisions themselves, for they have embeddings.
        self._waiting.extend((decision.uids, decision.hotkeys) for decision in decisions)

    def count(self, state: LearnerState) -> None:
        """Count what waits. Mutates the state's statistics."""
        view, selections = state.view, state.statistics.selections
        while self._waiting:
            uids, hotkeys = self._waiting.popleft()
            for uid, hotkey in zip(uids, hotkeys, strict=True):
                if uid < view.n and view.hotkeys[uid] == hotkey:
                    selections[uid] += 1
            self.counted += 1
