"""Who holds which uid: an immutable view of a network, and the plan between two views.

A view is built from whatever describes the network (a Bittensor metagraph of any SDK generation, a roster
file); everything below it, rows of the head included, follows from comparing two views.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

NO_HOTKEY = ""
"""The hotkey of a uid that nobody holds (a hole in the numbering)."""


@dataclass(frozen=True, slots=True)
class MetagraphView:
    """The network at one moment; every sequence is indexed by uid.

    Attributes:
        hotkeys: the owner of each uid, `NO_HOTKEY` where there is none.
        available: whether the uid may be selected.
        registered_at: the block at which the owner registered, None where the source does not say.
        netuid: the subnet's number; 0 for a roster.
        block: the block (or the file's revision, in ms since 1970) that the view was read at.
    """

    hotkeys: tuple[str, ...]
    available: tuple[bool, ...]
    registered_at: tuple[int | None, ...]
    netuid: int = 0
    block: int = 0

    def __post_init__(self) -> None:
        if not len(self.hotkeys) == len(self.available) == len(self.registered_at):
            raise ValueError(
                f"a view needs one value per uid: got {len(self.hotkeys)} hotkeys, {len(self.available)} "
                f"availabilities and {len(self.registered_at)} registration blocks"
            )

    @property
    def n(self) -> int:
        """How many uids the network has."""
        return len(self.hotkeys)

    @classmethod
    def from_hotkeys(cls, hotkeys: Sequence[str], *, netuid: int = 0, block: int = 0) -> MetagraphView:
        """A view in which every held uid is available and nothing is known of registrations."""
        return cls(
            hotkeys=tuple(hotkeys),
            available=tuple(hotkey != NO_HOTKEY for hotkey in hotkeys),
            registered_at=(None,) * len(hotkeys),
            netuid=netuid,
            block=block,
        )

    @classmethod
    def from_metagraph(cls, metagraph: Any) -> MetagraphView:
        """The owners of a Bittensor metagraph's uids.

        Args:
            metagraph: an object with `hotkeys`, and with `uids` (tensor, ndarray or list) naming the uid of
                each; without `uids` (bittensor 11) the hotkeys are in uid order.

        Raises:
            ValueError: a uid is negative or repeated, or there is not one hotkey per uid.
        """
        hotkeys = [str(hotkey) for hotkey in metagraph.hotkeys]
        uids = [int(uid) for uid in getattr(metagraph, "uids", range(len(hotkeys)))]
        if len(uids) != len(hotkeys):
            raise ValueError(f"the metagraph has {len(uids)} uids for {len(hotkeys)} hotkeys; give one hotkey per uid")
        if len(set(uids)) != len(uids) or any(uid < 0 for uid in uids):
            raise ValueError("the metagraph's uids must be distinct and not negative")
        by_uid = dict(zip(uids, hotkeys, strict=True))
        return cls.from_hotkeys([by_uid.get(uid, NO_HOTKEY) for uid in range(max(uids, default=-1) + 1)])


@dataclass(frozen=True, slots=True)
class ResyncPlan:
    """What happens to the per-uid rows between two views.

    Attributes:
        source: for each uid of the new view, the old row that it takes over, or -1 for a fresh row.
        reset: uids whose owner changed: their row is fresh.
        added: uids beyond the old view: their row is fresh.
        removed: uids of the old view that the new one lacks.
    """

    source: tuple[int, ...]
    reset: tuple[int, ...] = field(default=())
    added: tuple[int, ...] = field(default=())
    removed: tuple[int, ...] = field(default=())

    @property
    def changes_rows(self) -> bool:
        """Whether any row is reset, added or removed."""
        return bool(self.reset or self.added or self.removed)


def plan_resync(previous: MetagraphView, current: MetagraphView) -> ResyncPlan:
    """Compare two views of one network.

    The owner of a uid is its hotkey together with its registration block. A different hotkey under the same
    registration block is the owner's own swap and keeps the row; the same hotkey under another block has
    registered anew and does not. Where a block is unknown, the hotkey alone decides.
    """
    shared = range(min(previous.n, current.n))
    reset = tuple(uid for uid in shared if _owner_changed(previous, current, uid))
    fresh = set(reset)
    source = tuple(uid if uid < previous.n and uid not in fresh else -1 for uid in range(current.n))
    return ResyncPlan(
        source=source,
        reset=reset,
        added=tuple(range(previous.n, current.n)),
        removed=tuple(range(current.n, previous.n)),
    )


def _owner_changed(previous: MetagraphView, current: MetagraphView, uid: int) -> bool:
    before, after = previous.registered_at[uid], current.registered_at[uid]
    if before is not None and after is not None:
        return before != after
    return previous.hotkeys[uid] != current.hotkeys[uid]


def unknown_uids(view: MetagraphView, uids: Iterable[int]) -> list[int]:
    """The uids that the view does not have, in the order given."""
    return [uid for uid in uids if not 0 <= uid < view.n]
