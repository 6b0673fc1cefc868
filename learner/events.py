"""What the log holds: decisions, rewards, resyncs and operator actions, as plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gating.message import message
from gating.metagraph import MetagraphView

ANONYMOUS = "anonymous"
"""The author of what was reported without authentication."""


@message
class Decision:
    """One prompt's selection, as it was made.

    Attributes:
        id: `<incarnation of the replica>-<counter>`.
        time_s: when it was made, seconds since 1970.
        epoch: epoch of the weights that made it.
        version: version of the weights that made it.
        embedding: float16 [D], None once erased.
        uids: the chosen, best first.
        scores: their scores, exploration bonus included.
        propensities: their inclusion probabilities.
        hotkeys: who held those uids.
        candidates: how many uids could have been chosen.
        candidates_digest: of those uids, see `candidates_digest`.
    """

    id: str
    time_s: float
    epoch: int
    version: int
    embedding: NDArray[np.float16] | None
    uids: tuple[int, ...]
    scores: tuple[float, ...]
    propensities: tuple[float, ...]
    hotkeys: tuple[str, ...]
    candidates: int
    candidates_digest: str = ""


def split_decision_id(decision_id: str) -> tuple[str, int]:
    """The replica's incarnation and its counter, 0 for an id that no replica gives."""
    incarnation, _, counter = decision_id.partition("-")
    return incarnation, int(counter) if counter.isdecimal() else 0


def candidates_digest(uids: NDArray[np.int64]) -> str:
    """What tells one set of candidates from another: BLAKE2b-64 of their numbers, ascending, in hex."""
    return hashlib.blake2b(np.sort(uids).astype("<i8").tobytes(), digest_size=8).hexdigest()


class Outcome(StrEnum):
    """What became of a reward that was logged."""

    LEARNED = "learned"
    DEFAULT = "default"
    LATE = "late"
    STALE = "stale"
    QUARANTINED = "quarantined"
    """In time, but its author was not trusted: held, until an operator says otherwise."""

    @property
    def is_learned(self) -> bool:
        """Whether it changes weights as it comes."""
        return self is Outcome.LEARNED or self is Outcome.DEFAULT

    @property
    def may_be_learned(self) -> bool:
        """Whether it changes weights, or may yet do so."""
        return self.is_learned or self is Outcome.QUARANTINED


@dataclass(frozen=True, slots=True)
class _Placed:
    """What every event has.

    Attributes:
        seq: its place in the log; 0 until it is given one.
        batch: the last sequence number of the batch that it is learned in: the version that has it.
    """

    seq: int = field(default=0, kw_only=True)
    batch: int = field(default=0, kw_only=True)


@message
class RewardEvent(_Placed):
    """Rewards of one decision or message as logged.

    Attributes:
        embedding: None where it was erased since.
        weights: what each reward counts, from 0 to 1; empty where all count 1.
        expected: what each reward was expected to be when it was logged; empty where nobody asked.
    """

    uids: tuple[int, ...]
    rewards: tuple[float, ...]
    outcome: Outcome
    embedding: NDArray[np.float16] | None
    decision_id: str | None = None
    reward_id: str | None = None
    author: str = ANONYMOUS
    weights: tuple[float, ...] = ()
    expected: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ResyncEvent(_Placed):
    """The network changed to `view`; fresh rows are drawn with `seed`, and a swapped hotkey's is kept or reset."""

    view: MetagraphView
    seed: int
    on_hotkey_swap: Literal["keep", "reset"] = "keep"


class Action(StrEnum):
    """What an operator did. `arguments` of the event say the rest; those without a comment have none."""

    RESYNC = "resync"
    CHECKPOINT = "checkpoint"
    FREEZE = "freeze"
    THAW = "thaw"
    ROLLBACK = "rollback"  # {"version": the version whose weights come back}
    READMIT = "readmit"  # {"ranges": [[first, last], ...]}, sequence numbers of held events
    DROP = "drop"  # the same
    ERASE = "erase"  # {"decision_id": ...}
    SHADOW = "shadow"  # {"label": of the rule that serves, "shadows": {label: settings}, "dim", "seed"}: all there are
    REBUILD = (
        "rebuild"  # {"rule": settings, "from": checkpoint or null}: it serves, as if it had learned all of the log
    )
    PROMOTE = "promote"  # {"label": the shadow that serves from here on}; the rule that served becomes a shadow
    STANDING = "standing"  # {"author": whose, "standing": one of `Standing`}, an operator's or reward trust's own


class Standing(StrEnum):
    """What is said of an author: the first three by an operator, the others by reward trust."""

    TRUSTED = "trusted"
    DISTRUSTED = "distrusted"
    AUTO = "auto"
    QUARANTINED = "quarantined"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class OperatorEvent(_Placed):
    """An operator's action. `author` is who asked for it; the arguments are plain JSON."""

    action: Action
    author: str = ANONYMOUS
    arguments: dict[str, Any] = field(default_factory=dict)


Event = RewardEvent | ResyncEvent | OperatorEvent


def placed(event: Event, seq: int, batch: int) -> Event:
    """The event in its place in the log: `dataclasses.replace` in half the time, for thousands come in a second."""
    made = object.__new__(type(event))
    for name in event.__dataclass_fields__:
        object.__setattr__(made, name, getattr(event, name))
    object.__setattr__(made, "seq", seq)
    object.__setattr__(made, "batch", batch)
    return made


@dataclass(frozen=True, slots=True)
class Publish:
    """A version that was published, at `time_s` on the log's clock."""

    version: int
    time_s: float


@dataclass(slots=True)
class Reported:
    """What is known of one decision, or of one reward id, without its embedding, and of its rewards so far.

    Attributes:
        at_s: when the decision reached the log (the reward id: when it was first reported), on the log's clock.
        epoch: of the weights that decided; 0 for a reward id, as are the next three.
        version: of the weights that decided.
        uids: chosen by the decision.
        hotkeys: who held them.
        rewards: uid -> reward.
        authors: uid -> who reported it.
        assumed: of those uids, which have the default reward only: nobody has reported it.
    """

    at_s: float
    epoch: int = 0
    version: int = 0
    uids: tuple[int, ...] = ()
    hotkeys: tuple[str, ...] = ()
    rewards: dict[int, float] = field(default_factory=dict)
    authors: dict[int, str] = field(default_factory=dict)
    assumed: set[int] = field(default_factory=set)

    def note(self, uids: Sequence[int], rewards: Sequence[float], author: str, *, assumed: bool) -> None:
        """Rewards are logged. A report replaces what was assumed."""
        self.rewards.update(zip(uids, rewards, strict=True))
        self.authors.update(dict.fromkeys(uids, author))
        if assumed:
            self.assumed.update(uids)
        elif self.assumed:
            self.assumed.difference_update(uids)
