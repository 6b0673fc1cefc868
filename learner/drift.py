"""An alarm for when a rule has become worse at telling rewards: the world has changed, or somebody lies.

Bifet and Gavalda 2007 ("Learning from time-changing data with adaptive windowing"), in river's implementation: the
window of losses is cut where its two parts differ beyond chance. Only a rise is an alarm.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_NEW_NORMAL = 5_000


def load_river() -> Any:
    """The detector's class. Its import takes about a second, so only who watches losses has it."""
    from river.drift import ADWIN

    return ADWIN


class DriftAlarm:
    """Watches the losses of one rule.

    Args:
        delta: how likely a cut may be where nothing has changed.
    """

    def __init__(self, delta: float = 1e-4) -> None:
        self._delta = delta
        self.reset()
        self.alarms = 0
        self.last_version: int | None = None
        self.loss_before: float | None = None
        self.loss_after: float | None = None

    def reset(self) -> None:
        """Begin anew: the losses to come are another rule's. What was raised before stays counted."""
        self._detector: Any = None
        self._usual = 0.0
        self._active_for: int | None = None

    @property
    def active(self) -> bool:
        """Whether losses are still nearer to what they rose to than to what they were, and that is not yet usual."""
        return self._active_for is not None

    def update(self, losses: Iterable[float], version: int) -> None:
        """Take in losses that were learned as part of a version."""
        if self._detector is None:
            self._detector = load_river()(delta=self._delta)
        for loss in losses:
            self._detector.update(loss)
            if self._detector.drift_detected and self._detector.estimation > self._usual:
                self._raise(version)
            elif self._active_for is not None:
                self._calm_down()
            self._usual = self._detector.estimation

    def _raise(self, version: int) -> None:
        self.alarms += 1
        self.last_version = version
        self.loss_before, self.loss_after = self._usual, self._detector.estimation
        self._active_for = 0

    def _calm_down(self) -> None:
        assert self._active_for is not None
        assert self.loss_before is not None
        assert self.loss_after is not None
        self._active_for += 1
        if self._active_for >= _NEW_NORMAL or self._detector.estimation < (self.loss_before + self.loss_after) / 2:
            self._active_for = None

    def describe(self) -> dict[str, object]:
        """For `/v1/state`."""
        return {
            "active": self.active,
            "alarms": self.alarms,
            "last_version": self.last_version,
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
        }
