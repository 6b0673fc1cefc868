"""Since when each uid's owner has had it: what tells a reward that the owner earned from one of its predecessor."""

from __future__ import annotations

from dataclasses import dataclass, field

from gating.metagraph import MetagraphView, ResyncPlan


@dataclass(slots=True)
class Tenures:
    """Follows the resyncs.

    Attributes:
        since: uid -> the resync, by its place in the log, at which its row last changed hands; absent for never.
        former_hotkeys: uid -> the hotkeys that its owner has exchanged for others since.
    """

    since: dict[int, int] = field(default_factory=dict)
    former_hotkeys: dict[int, set[str]] = field(default_factory=dict)

    def follow(self, plan: ResyncPlan, previous: MetagraphView, seq: int) -> None:
        """Take note of a resync.

        Args:
            plan: no reward earned before it is for the rows that changed hands there.
            previous: the network before it; an owner that has swapped its hotkey since is still the same.
            seq: the resync's place in the log.
        """
        for uid, row in enumerate(plan.source):
            if row != uid:
                self.since[uid] = seq
                self.former_hotkeys.pop(uid, None)
        for uid in plan.swapped:
            self.former_hotkeys.setdefault(uid, set()).add(previous.hotkeys[uid])

    def held_through(self, uid: int, seq: int) -> bool:
        """Whether the uid has had the same owner since before that place in the log."""
        return self.since.get(uid, 0) <= seq

    def owns(self, uid: int, hotkey: str, view: MetagraphView) -> bool:
        """Whether this hotkey is, or was, that of the uid's present owner."""
        return hotkey == view.hotkeys[uid] or hotkey in self.former_hotkeys.get(uid, ())

    def copy(self) -> Tenures:
        """A copy of its own."""
        return Tenures(dict(self.since), {uid: set(hotkeys) for uid, hotkeys in self.former_hotkeys.items()})
