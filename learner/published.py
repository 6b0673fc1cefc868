"""The newest version that replicas can fetch, and waiting for what was logged to be learned and published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .core import Learner
from .protocol import Wait
from .signals import Signal
from .state import HeadSnapshot

OPERATOR_PATIENCE_S = 60.0
"""How long an operator's action may take to be learned and published."""


class Published:
    """The newest published version, in the object store once for each layout that a replica has asked for.

    Args:
        learner: whose versions they are.
        changed: notified whenever something was learned or published.
        store: puts a snapshot into the object store; returns the reference to it.
    """

    def __init__(self, learner: Learner, changed: Signal, *, store: Callable[[HeadSnapshot], Any]) -> None:
        self._learner = learner
        self._changed = changed
        self._store = store
        self._newest: tuple[HeadSnapshot, dict[int, Any]] | None = None
        # Goes on from one learner to the next, as epochs do.
        self.asked = learner.log.epoch << 32
        """How often replicas were asked how far they are."""

    @property
    def version(self) -> int | None:
        """The version; None before the first."""
        return self._newest[0].version if self._newest else None

    @property
    def order(self) -> tuple[int, int]:
        """(epoch, version), (the log's epoch, 0) before the first."""
        return self._newest[0].order if self._newest else (self._learner.log.epoch, 0)

    def put(self, snapshot: HeadSnapshot) -> None:
        """This one is the newest from now on; whoever sets it wakes those who wait."""
        self._newest = snapshot, {snapshot.format: self._store(snapshot)}

    def newer_than(self, have: tuple[int, int], wanted: int | None) -> tuple[tuple[int, int], list[Any]]:
        """(epoch, version) of the newest, and the reference to it unless the caller has it. Called from one thread.

        Args:
            have: (epoch, version) of the caller's.
            wanted: the layout that it reads; None: none of ours.
        """
        newest = self._newest
        if newest is None:
            return (0, 0), []
        snapshot, refs = newest
        if snapshot.order == have or wanted is None:
            return snapshot.order, []
        if wanted not in refs:
            refs[wanted] = self._store(snapshot.in_format(wanted))
        return snapshot.order, [refs[wanted]]

    async def wait_for_newer(self, have: tuple[int, int], timeout_s: float, *, asked: int = 0) -> None:
        """Wait until another version than the caller's is the newest, or until it is asked how far it is.

        Args:
            have: (epoch, version) of the caller's.
            timeout_s: at most so long.
            asked: how often it was asked when it told; 0 if it has not been yet.
        """
        known = asked or self.asked
        await self._changed.wait_until(
            lambda: self.asked != known or (self._newest is not None and self._newest[0].order != have), timeout_s
        )

    def ask_to_poll_again(self) -> None:
        """Whoever waits for a newer version is answered, so that it polls again and tells how far it is now."""
        self.asked += 1
        self._changed.notify()

    async def wait_until_applied(self, seq: int) -> bool:
        """Wait, as long as an operator would, until that event is learned; whether it is."""
        return await self._changed.wait_until(lambda: self._learner.version >= seq, OPERATOR_PATIENCE_S)

    async def wait_until_published(self, seq: int) -> bool:
        """The same until replicas can fetch it."""
        return await self._changed.wait_until(lambda: self._has(seq), OPERATOR_PATIENCE_S)

    async def wait_until_reached(self, seq: int, wait: Wait, timeout_s: float) -> bool:
        """Wait until a report has got as far as its author asked for; whether it has. While frozen, none waits."""
        await self._changed.wait_until(lambda: self._learner.frozen or self._has_reached(seq, wait), timeout_s)
        return self._has_reached(seq, wait)

    def _has(self, seq: int) -> bool:
        return self._newest is not None and self._newest[0].version >= seq

    def _has_reached(self, seq: int, wait: Wait) -> bool:
        if wait == "logged":
            return True
        if self._learner.frozen:
            # The version goes on, but rewards are held.
            return False
        return self._learner.version >= seq if wait == "applied" else self._has(seq)
