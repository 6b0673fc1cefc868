"""Who holds which uid: an immutable view of a network, and the plan between two views.

A view is built from whatever describes the network (a Bittensor metagraph of any SDK generation, a roster
file); everything below it, rows of the head included, follows from comparing two views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .message import message

NO_HOTKEY = ""
"""The hotkey of a uid that nobody holds (a hole in the numbering)."""


@message
class MetagraphView:
    """The network at one moment; every sequence is indexed by uid.

    Attributes:
        hotkeys: the owner of each uid, `NO_HOTKEY` where there is none.
        available: whether the uid may be selected.
        registered_at: the block at which the owner registered, None where the source does not say.
        netuid: the subnet's number; 0 for a roster.
        block: the block (or the file's revision, in ms since 1970) that the view was read at.
        serving: whether the uid serves an axon; empty where the source does not say.
        validator_permit: whether the uid holds one; empty where the source does not say.
        stake: of each uid, in TAO; empty where the source does not say.
    """

    hotkeys: tuple[str, ...]
    available: tuple[bool, ...]
    registered_at: tuple[int | None, ...]
    netuid: int = 0
    block: int = 0
    serving: tuple[bool, ...] = ()
    validator_permit: tuple[bool, ...] = ()
    stake: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.hotkeys) == len(self.available) == len(self.registered_at):
            raise ValueError(
                f"a view needs one value per uid: got {len(self.hotkeys)} hotkeys, {len(self.available)} "
                f"availabilities and {len(self.registered_at)} registration blocks"
            )
        for name in ("serving", "validator_permit", "stake"):
            if len(getattr(self, name)) not in (0, self.n):
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {self.n} uids; give one per uid")

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

    def restricted(self, *, vpermit_tao_limit: float, exclude: Collection[int] = ()) -> MetagraphView:
        """The view in which a uid is available if it serves an axon and is no large validator (the seed's rule).

        Args:
            vpermit_tao_limit: the most stake, in TAO, that a uid with a validator permit may have.
            exclude: uids that are never available.
        """
        serving = self.serving or tuple(hotkey != NO_HOTKEY for hotkey in self.hotkeys)
        permit = self.validator_permit or (False,) * self.n
        stake = self.stake or (0.0,) * self.n
        available = tuple(
            serving[uid] and not (permit[uid] and stake[uid] > vpermit_tao_limit) and uid not in exclude
            for uid in range(self.n)
        )
        return replace(self, available=available)

    @classmethod
    def from_metagraph(cls, metagraph: Any) -> MetagraphView:
        """A Bittensor metagraph, of the SDK's generation 11 or of 6 to 10, as a view.

        Args:
            metagraph: an object with `hotkeys`, and with `uids` (tensor, ndarray or list) naming the uid of
                each; without `uids` (bittensor 11) the hotkeys are in uid order. What it says of axons,
                permits, stakes and registration blocks is taken over. Every uid that serves is available.

        Raises:
            ValueError: a uid is negative or repeated, or there is not one value per hotkey.
        """
        hotkeys = [str(hotkey) for hotkey in metagraph.hotkeys]
        uids = _uids(metagraph, len(hotkeys))
        n = max(uids, default=-1) + 1
        # Those of 6 to 10 have neurons as well once they are synced, and axons from the start.
        is_legacy = hasattr(metagraph, "axons") or not hasattr(metagraph, "neurons")
        columns = _legacy_columns(metagraph) if is_legacy else _neuron_columns(metagraph)
        for name, column in columns.items():
            if column and len(column) != len(hotkeys):
                raise ValueError(f"the metagraph's {name} has {len(column)} values for {len(hotkeys)} hotkeys")

        def by_uid(column: Sequence[Any], missing: Any) -> tuple[Any, ...]:
            values = dict(zip(uids, column, strict=True))
            return tuple(values.get(uid, missing) for uid in range(n))

        def optional(name: str, missing: Any) -> tuple[Any, ...]:
            return by_uid(columns[name], missing) if columns[name] else ()

        held = by_uid(hotkeys, NO_HOTKEY)
        serving = optional("serving", False)
        return cls(
            hotkeys=held,
            available=serving or tuple(hotkey != NO_HOTKEY for hotkey in held),
            registered_at=optional("registered_at", None) or (None,) * n,
            netuid=_scalar(metagraph, "netuid"),
            block=_scalar(metagraph, "block"),
            serving=serving,
            validator_permit=optional("validator_permit", False),
            stake=optional("stake", 0.0),
        )


@dataclass(frozen=True, slots=True)
class ResyncPlan:
    """What happens to the per-uid rows between two views.

    Attributes:
        source: for each uid of the new view, the old row that it takes over, or -1 for a fresh row.
        reset: uids of both views whose owner changed and whose row is fresh.
        added: uids beyond the old view whose row is fresh.
        removed: uids of the old view that the new one lacks.
        moved: (from, to): the owner holds another uid now, and its row goes with it.
        swapped: uids whose owner exchanged its own hotkey and keeps its row.
    """

    source: tuple[int, ...]
    reset: tuple[int, ...] = field(default=())
    added: tuple[int, ...] = field(default=())
    removed: tuple[int, ...] = field(default=())
    moved: tuple[tuple[int, int], ...] = field(default=())
    swapped: tuple[int, ...] = field(default=())

    @property
    def changes_rows(self) -> bool:
        """Whether any row is reset, moved, added or removed."""
        return bool(self.reset or self.added or self.removed or self.moved)


def plan_resync(
    previous: MetagraphView, current: MetagraphView, *, on_hotkey_swap: Literal["keep", "reset"] = "keep"
) -> ResyncPlan:
    """Compare two views of one network.

    The owner of a uid is its hotkey together with its registration block. So the same hotkey under another block
    has registered anew and gets a fresh row, and an owner that is found under another uid (the subnet was
    compacted) takes its row along. An owner's swap of its own hotkey shows as one hotkey that went and one that
    came under the same block. Where a block is unknown, the uid and the hotkey alone decide.

    Args:
        previous: the network as the rows follow it so far.
        current: the network now.
        on_hotkey_swap: what an owner's swap of its own hotkey does to its row.
    """
    was_at = _owners(previous)
    swaps = _swaps(previous, current)
    sources = []
    for uid, owner in enumerate(zip(current.hotkeys, current.registered_at, strict=True)):
        source = was_at.get(owner, -1)
        if source < 0 and uid in swaps and on_hotkey_swap == "keep":
            source = swaps[uid]
        if source < 0 and _same_hotkey(previous, current, uid):
            source = uid
        sources.append(source)
    return ResyncPlan(
        source=tuple(sources),
        reset=tuple(uid for uid, source in enumerate(sources) if source < 0 and uid < previous.n),
        added=tuple(uid for uid, source in enumerate(sources) if source < 0 and uid >= previous.n),
        removed=tuple(range(current.n, previous.n)),
        moved=tuple((source, uid) for uid, source in enumerate(sources) if source >= 0 and source != uid),
        swapped=tuple(uid for uid, source in swaps.items() if sources[uid] == source == uid),
    )


def _owners(view: MetagraphView) -> dict[tuple[str, int | None], int]:
    """(hotkey, registration block) -> uid, where both are known."""
    return {
        (hotkey, block): uid
        for uid, (hotkey, block) in enumerate(zip(view.hotkeys, view.registered_at, strict=True))
        if hotkey != NO_HOTKEY and block is not None
    }


def _swaps(previous: MetagraphView, current: MetagraphView) -> dict[int, int]:
    """New uid -> old uid of owners that exchanged their hotkey.

    A registration block of the past can only come with an owner of the past. If of several owners that registered
    in one block more than one hotkey is gone, who is who cannot be told, and none counts as a swap.
    """
    before, after = _owners(previous), _owners(current)
    gone, come = _by_block(before.keys() - after.keys(), before), _by_block(after.keys() - before.keys(), after)
    return {
        uids[0]: gone[block][0]
        for block, uids in sorted(come.items())
        if len(uids) == 1 and len(gone.get(block, ())) == 1
    }


def _by_block(
    owners: Iterable[tuple[str, int | None]], uid_of: Mapping[tuple[str, int | None], int]
) -> dict[int | None, list[int]]:
    uids: dict[int | None, list[int]] = {}
    for owner in owners:
        uids.setdefault(owner[1], []).append(uid_of[owner])
    return uids


def _same_hotkey(previous: MetagraphView, current: MetagraphView, uid: int) -> bool:
    """Whether the uid's hotkey stayed, and it is not known to have registered anew."""
    if uid >= previous.n or previous.hotkeys[uid] != current.hotkeys[uid]:
        return False
    return previous.registered_at[uid] is None or current.registered_at[uid] is None


def check_owners(view: MetagraphView) -> None:
    """Refuse a view that no chain can have.

    Raises:
        ValueError: a uid has no owner, a hotkey holds two uids, or a stake is not a number.
    """
    uid_of: dict[str, int] = {}
    for uid, hotkey in enumerate(view.hotkeys):
        if hotkey == NO_HOTKEY:
            raise ValueError(f"uid {uid} has no owner; the uids of a subnet have no holes")
        if hotkey in uid_of:
            raise ValueError(f"hotkey {hotkey} holds uids {uid_of[hotkey]} and {uid}; a hotkey holds at most one")
        uid_of[hotkey] = uid
    wrong = [uid for uid, stake in enumerate(view.stake) if not math.isfinite(stake)]
    if wrong:
        raise ValueError(f"the stake of uid {wrong[0]} is {view.stake[wrong[0]]}; expected a finite amount")


def unknown_uids(view: MetagraphView, uids: Iterable[int]) -> list[int]:
    """The uids that the view does not have, in the order given."""
    return [uid for uid in uids if not 0 <= uid < view.n]


def _uids(metagraph: Any, count: int) -> list[int]:
    uids = [int(uid) for uid in getattr(metagraph, "uids", range(count))]
    if len(uids) != count:
        raise ValueError(f"the metagraph has {len(uids)} uids for {count} hotkeys; give one hotkey per uid")
    if len(set(uids)) != len(uids) or any(uid < 0 for uid in uids):
        raise ValueError("the metagraph's uids must be distinct and not negative")
    return uids


def _neuron_columns(metagraph: Any) -> dict[str, list[Any]]:
    """bittensor 11: one record per neuron. What a record leaves out is not known of any."""

    def column(read: Callable[[Any], Any]) -> list[Any]:
        values = [read(neuron) for neuron in metagraph.neurons]
        return [] if any(value is None for value in values) else values

    return {
        "serving": column(lambda neuron: getattr(neuron, "axon", None) is not None),
        "validator_permit": column(lambda neuron: getattr(neuron, "validator_permit", None)),
        "stake": column(lambda neuron: getattr(getattr(neuron, "total_stake", None), "amount", None)),
        "registered_at": column(lambda neuron: getattr(neuron, "block_at_registration", None)),
    }


def _legacy_columns(metagraph: Any) -> dict[str, list[Any]]:
    """bittensor 6 to 10: one tensor or array per quantity, any of which may be missing or empty."""

    def column(name: str, convert: Callable[[Any], Any]) -> list[Any]:
        values = getattr(metagraph, name, None)
        return [] if values is None else [convert(value) for value in values]

    return {
        "serving": column("axons", lambda axon: bool(axon.is_serving)),
        "validator_permit": column("validator_permit", bool),
        "stake": column("S", float) or column("total_stake", float),
        "registered_at": column("block_at_registration", int),
    }


def _scalar(metagraph: Any, name: str) -> int:
    """A number that may come as an int, an array of shape () or (1,), or not at all."""
    value = getattr(metagraph, name, 0)
    return int(value.item() if hasattr(value, "item") else value or 0)
