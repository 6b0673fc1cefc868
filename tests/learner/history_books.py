"""What a log means, worked out a second time and more simply: who earned what, and what is held.

An owner is its registration block, for which the letter of its hotkey stands; a capital is the same owner's next
hotkey.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from gating import MetagraphView
from learner.events import Action, Event, OperatorEvent, Outcome, ResyncEvent, RewardEvent
from learner.state import Held


def network(hotkeys: str, block: int = 1) -> MetagraphView:
    """Letters that are hotkeys."""
    return MetagraphView(
        hotkeys=tuple(hotkeys),
        available=(True,) * len(hotkeys),
        registered_at=tuple(ord(hotkey.lower()) for hotkey in hotkeys),
        block=block,
    )


class Books:
    """Kept event by event.

    `earned[uid]` is what its owner's row has learned, as (place, reward); `since[uid]` when the owner came.
    """

    def __init__(self, view: MetagraphView) -> None:
        self.owners = _owners(view)
        self.earned = [[] for _ in self.owners]
        self.since = {}
        self.held = {}
        self.frozen = False
        self.serving, self.shadows, self.served_since = None, set(), 0
        self.events = {}
        self.past = {0: (copy.deepcopy(self.earned), {}, dict(self.since), self.owners)}

    def enter(self, batch: Sequence[Event]) -> None:
        self.events.update((event.seq, event) for event in batch)
        for event in batch:
            match event:
                case ResyncEvent():
                    self._follow(event)
                case OperatorEvent():
                    self._obey(event)
                case RewardEvent(outcome=Outcome.QUARANTINED):
                    self.held[event.seq] = Held.AUTHOR
                case RewardEvent() if event.outcome in (Outcome.LEARNED, Outcome.DEFAULT):
                    if self.frozen:
                        self.held[event.seq] = Held.FROZEN
                    else:
                        self._earn(event)
        self.past[batch[-1].seq] = (copy.deepcopy(self.earned), dict(self.held), dict(self.since), self.owners)

    def _earn(self, event):
        owned = [uid for uid in event.uids if uid < len(self.owners) and self.since.get(uid, 0) <= event.seq]
        if not owned:
            return
        if not np.isfinite(event.embedding).all():
            self.held[event.seq] = Held.NON_FINITE
            return
        for uid, reward in zip(event.uids, event.rewards, strict=True):
            if uid in owned:
                self.earned[uid].append((event.seq, reward))

    def _follow(self, event):
        before, owners = self.owners, _owners(event.view)
        earned = []
        for uid, owner in enumerate(owners):
            earned.append(list(self.earned[before.index(owner)]) if owner in before else [])
            if before[uid : uid + 1] != owner:
                self.since[uid] = event.seq
        self.owners, self.earned = owners, earned

    def _obey(self, event):
        match event.action:
            case Action.FREEZE:
                self.frozen = True
            case Action.THAW:
                self.frozen = False
                self._readmit([seq for seq, why in self.held.items() if why is Held.FROZEN])
            case Action.READMIT:
                self._readmit(self._settled(event))
            case Action.DROP:
                for seq in self._settled(event):
                    del self.held[seq]
            case Action.ROLLBACK if event.arguments["version"] >= self.served_since:
                self._roll_back(event)
            case Action.SHADOW | Action.PROMOTE:
                self._change_rules(event)

    def _change_rules(self, event):
        label = event.arguments["label"]
        if event.action is Action.SHADOW:
            self.serving, self.shadows = label, set(event.arguments["shadows"])
        elif label in self.shadows:
            self.shadows = self.shadows - {label} | {self.serving}
            self.serving, self.served_since = label, event.seq

    def _settled(self, event):
        asked = {seq for first, last in event.arguments["ranges"] for seq in range(first, last + 1)}
        return [seq for seq, why in self.held.items() if seq in asked and not (self.frozen and why is Held.FROZEN)]

    def _readmit(self, seqs):
        for seq in sorted(seqs):
            del self.held[seq]
            self._earn(self.events[seq])

    def _roll_back(self, event):
        version, now = event.arguments["version"], dict(self.held)
        earned, held, since, owners = self.past[version]
        self.earned, self.held = copy.deepcopy(earned), dict(held)
        self.since, self.owners = dict(since), owners
        given_up = set()
        for seq in range(version + 1, event.seq):
            match self.events[seq]:
                case ResyncEvent() as resync:
                    self._follow(resync)
                case OperatorEvent(action=Action.DROP) as drop:
                    given_up |= {seq for first, last in drop.arguments["ranges"] for seq in range(first, last + 1)}
                case RewardEvent(outcome=Outcome.LEARNED | Outcome.DEFAULT | Outcome.QUARANTINED):
                    self.held[seq] = Held.ROLLED_BACK
        self.held = {seq: now.get(seq, Held.ROLLED_BACK) for seq in self.held if seq not in given_up}


def _owners(view: MetagraphView) -> str:
    return "".join(view.hotkeys).lower()
