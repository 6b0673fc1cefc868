"""Reward trust: how much each reported reward counts, and whose are held.

Three guards, all of them off while fewer than `min_authors` authors are active, for one author is the normal case:
an author's share of what counts is bounded, for each uid and in all (`shares`); a reward far from what was expected
(`consensus`) counts less; and an author whose reports contradict what was expected while those of the others agree
with it (`agreement`) counts less as soon as that is likelier than not, for to weigh less costs little and is undone by
itself; once it is beyond chance its rewards are held. They are looked at all the same, and an author that agrees
again is released by itself.

Weights are made here and fixed in the log; learning reads them there. `judge` reads this memory only and `observe`
is given what has been logged, so a commit that failed has left no trace. No clock, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from gating.message import message
from gating.metagraph import MetagraphView, plan_resync

from .author_memory import MOST_AUTHORS, AuthorMemory, Flat, counting
from .config import TrustConfig
from .consensus import Consensus
from .events import Action, Event, OperatorEvent, Outcome, ResyncEvent, RewardEvent, Standing
from .shares import granted_share
from .standings import NOTHING_SAID, AuthorStanding, follow_standing

TRUST = "reward-trust"
"""The author of the events by which reward trust quarantines and releases."""

_DIGITS = 4


@message
class AuthorView:
    """One author as operators see it.

    Attributes:
        author: a key's id or a hotkey.
        standing: what an operator has said: trusted, distrusted, or auto.
        active: whether it reported enough lately to count as one of several.
        recent_rewards: how many it reported lately, faded ones for what is left of them.
        recent_weight: what of them counted, since several authors are known.
        reports: how many events tell how it agrees, in the same way.
        agreement: correlation of its rewards with what was expected, None where nothing is known.
        score: the evidence in standard deviations; below zero it contradicts.
        weight: what a report of its counts, its share of the whole and single outliers left aside; 0: it is held.
        quarantined_since: place in the log at which reward trust quarantined it.
    """

    author: str
    standing: str
    active: bool
    recent_rewards: float
    recent_weight: float
    reports: float
    agreement: float | None
    score: float
    weight: float
    quarantined_since: int | None


class Trust:
    """Judges by what it remembers. What it remembers is bounded, and so is whom it quarantines.

    Args:
        config: how far to believe whom.
        standings: what has been said of authors up to the end of the log.
        view: the network as of then.
        dim: width of the embeddings.
    """

    def __init__(
        self, config: TrustConfig, standings: Mapping[str, AuthorStanding], view: MetagraphView, dim: int
    ) -> None:
        self.config = config
        self.standings = dict(standings)
        self._view = view
        self._consensus = Consensus(dim)
        self._memory = AuthorMemory(
            window_s=config.window_s, memory_events=config.memory_events, closely_from=config.min_authors
        )

    @property
    def is_on(self) -> bool:
        """Whether enough authors are active."""
        return self.config.enabled and self.active() >= self.config.min_authors

    def active(self) -> int:
        """How many authors are active."""
        return int(np.count_nonzero(self._is_active()))

    def judge(self, events: Sequence[Event], now_s: float) -> list[Event]:
        """What is to be logged: each reward in time with its weight, or as quarantined.

        What an operator says in the same commit holds from the next one on.

        Args:
            events: what is to be logged.
            now_s: the time, on the log's clock.
        """
        self._memory.fade(now_s)
        is_on, judged = self.is_on, list(events)
        if not is_on and not any(known.pinned == "distrusted" for known in self.standings.values()):
            return judged
        in_time = {
            place: event
            for place, event in enumerate(events)
            if isinstance(event, RewardEvent) and event.outcome is Outcome.LEARNED
        }
        for place, event in in_time.items():
            if self._is_held(event.author, is_on):
                judged[place] = in_time[place] = replace(event, outcome=Outcome.QUARANTINED)
        if is_on and in_time:
            weighed = self._weighed(list(in_time.values()))
            for place, event in zip(in_time, weighed, strict=True):
                judged[place] = event
        return judged

    def observe(self, events: Iterable[Event], now_s: float) -> None:
        """Remember what has been logged."""
        self._memory.fade(now_s)
        reported: list[RewardEvent] = []
        for event in events:
            match event:
                case RewardEvent(outcome=Outcome.LEARNED | Outcome.QUARANTINED):
                    reported.append(event)
                case OperatorEvent(action=Action.STANDING):
                    self._remember(reported)
                    reported = []
                    self._follow_standing(event)
                case ResyncEvent():
                    # What came before it was earned by the owners of before.
                    self._remember(reported)
                    reported = []
                    self._follow_network(event)
        self._remember(reported)

    def _remember(self, reported: Sequence[RewardEvent]) -> None:
        self._memory.add(reported)
        # One author alone is no consensus.
        learned = [event for event in reported if event.outcome is Outcome.LEARNED]
        if learned and len(self._memory.numbers) >= self.config.min_authors:
            weight = np.array([weight for event in learned for weight in counting(event)])
            self._consensus.learn(learned, Flat.of(learned), weight)

    def forget_uids(self, uids: Sequence[int]) -> None:
        """These uids have new owners, or none."""
        self._consensus.forget(uids)
        self._memory.forget_uids(uids)

    def _follow_network(self, event: ResyncEvent) -> None:
        plan = plan_resync(self._view, event.view, on_hotkey_swap=event.on_hotkey_swap)
        self._view = event.view
        # An owner that takes its row along to another uid begins anew there, here as in `Tenures`.
        self.forget_uids([*(uid for uid, row in enumerate(plan.source) if row != uid), *plan.removed])

    def _follow_standing(self, event: OperatorEvent) -> None:
        follow_standing(self.standings, event)
        number = self._memory.numbers.get(event.arguments["author"])
        if number is not None and event.arguments["standing"] == Standing.AUTO:
            self._memory.agreement.forget(number)

    def verdicts(self, now_s: float) -> list[OperatorEvent]:
        """Whom to quarantine or release by what is known now, as events to be logged."""
        self._memory.fade(now_s)
        if not self.is_on:
            return []
        scores, events = self._memory.agreement.scores(), self._memory.agreement.events()
        sound, config = self._is_consensus_sound(), self.config
        released: list[str] = []
        contrary: list[tuple[float, str]] = []
        for author, number in self._memory.numbers.items():
            known = self.standings.get(author, NOTHING_SAID)
            if known.pinned is not None or not sound[number] or events[number] < config.min_events:
                continue
            if known.is_quarantined and scores[number] >= config.release_at:
                released.append(author)
            elif not known.is_quarantined and scores[number] <= -config.quarantine_at:
                contrary.append((float(scores[number]), author))
        found = [(Standing.RELEASED, author) for author in released]
        found += [(Standing.QUARANTINED, author) for _, author in sorted(contrary)[: self._room(len(released))]]
        return [
            OperatorEvent(Action.STANDING, TRUST, {"author": author, "standing": standing.value})
            for standing, author in found
        ]

    def _room(self, released: int) -> int:
        """How many more may be quarantined: what most of the active authors say is the consensus."""
        active = self._is_active()
        held = sum(bool(active[n]) for author, n in self._memory.numbers.items() if self._is_held(author, True))
        most = (int(active.sum()) - 1) // 2 - held + released
        return max(0, min(most, MOST_AUTHORS - len(self.standings)))

    def authors(self, now_s: float) -> list[AuthorView]:
        """Every author that is remembered or of whom something was said, by name."""
        self._memory.fade(now_s)
        memory, is_on = self._memory, self.is_on
        weights, scores, active = self._doubt(), memory.agreement.scores(), self._is_active()
        correlations, events = memory.agreement.correlations(), memory.agreement.events()
        views = []
        for author in sorted({*memory.numbers, *self.standings}):
            known = self.standings.get(author, NOTHING_SAID)
            view = AuthorView(author, known.shown.value, False, 0.0, 0.0, 0.0, None, 0.0, 1.0, known.quarantined_since)
            if (number := memory.numbers.get(author)) is not None:
                view = replace(
                    view,
                    active=bool(active[number]),
                    recent_rewards=float(memory.reported[number]),
                    recent_weight=float(memory.counted[number].sum()),
                    reports=float(events[number]),
                    agreement=_number_or_none(float(correlations[number])),
                    score=float(scores[number]),
                    weight=float(weights[number]) if is_on and known.pinned is None else 1.0,
                )
            views.append(replace(view, weight=0.0) if self._is_held(author, is_on) else view)
        return views

    def describe(self, now_s: float) -> dict[str, object]:
        """Figures for `/v1/state`."""
        self._memory.fade(now_s)
        known = sorted(self.standings.items())
        return {
            "enabled": self.config.enabled,
            "on": self.is_on,
            "active_authors": self.active(),
            "quarantined": [author for author, standing in known if standing.is_quarantined],
            "distrusted": [author for author, standing in known if standing.pinned == "distrusted"],
            "trusted": [author for author, standing in known if standing.pinned == "trusted"],
        }

    def _weighed(self, events: Sequence[RewardEvent]) -> list[RewardEvent]:
        """The events with what was expected of them, and those that are not held with their weights."""
        flat = Flat.of(events)
        expected = self._consensus.expected(events, flat)
        known = [self._memory.numbers.get(author) for author in flat.authors]
        # An author that is new has the number behind the last one.
        numbers = np.array([len(self._memory.reported) if number is None else number for number in known])
        is_held = np.array([event.outcome is Outcome.QUARANTINED for event in events])[flat.event]
        weight = np.ones(len(flat.uid)) if self._is_few() else self._granted(flat, known, ~is_held)
        weight *= np.append(self._doubt(), 1.0)[numbers][flat.author]
        reports = flat.reports(expected, numbers)
        weight *= self._memory.agreement.clipped(reports, self._is_counting(), self.config.clip)
        pins = [self.standings.get(author, NOTHING_SAID).pinned for author in flat.authors]
        is_trusted = np.array([pin == "trusted" for pin in pins])[flat.author]
        weight = np.where(is_trusted | is_held, 1.0, np.round(weight, _DIGITS))
        weighed, start = [], 0
        for event in events:
            end = start + len(event.uids)
            mine = weight[start:end].tolist()
            guesses = [_number_or_none(guess) for guess in expected[start:end].tolist()]
            weighed.append(
                replace(
                    event,
                    weights=() if min(mine) == 1.0 else tuple(mine),
                    expected=() if all(guess is None for guess in guesses) else tuple(guesses),
                )
            )
            start = end
        return weighed

    def _granted(
        self, flat: Flat, known: Sequence[int | None], is_wanted: Bool[np.ndarray, " k"]
    ) -> Float[np.ndarray, " k"]:
        """What the bounds on an author's share leave of each reward."""
        config, counted = self.config, self._memory.counted
        uids, column = np.unique(flat.uid, return_inverse=True)
        wanted = np.zeros((len(known), len(uids)))
        np.add.at(wanted, (flat.author[is_wanted], column[is_wanted]), 1.0)
        mine = np.stack([np.zeros(counted.shape[1]) if number is None else counted[number] for number in known])
        seen = uids < counted.shape[1]
        own, total = np.zeros_like(wanted), np.zeros(len(uids))
        own[:, seen], total[seen] = mine[:, uids[seen]], counted[:, uids[seen]].sum(axis=0)
        free = np.full(own.shape, config.free_rewards)
        by_row = granted_share(own, total, wanted, share=config.max_row_share, free=free)
        breadth = np.maximum(np.count_nonzero(mine, axis=1), np.count_nonzero(wanted, axis=1))
        in_all = granted_share(
            mine.sum(axis=1)[:, None],
            counted.sum()[None],
            (wanted * by_row).sum(axis=1)[:, None],
            share=config.max_stream_share,
            free=config.free_rewards * breadth[:, None].astype(np.float64),
        )
        granted: Float[np.ndarray, " k"] = by_row[flat.author, column] * in_all[flat.author, 0]
        return granted

    def _doubt(self) -> Float[np.ndarray, " author"]:
        """1, and less for an author that contradicts: how likely that is of one who agrees as the others do."""
        ratios = self._memory.agreement.log_likelihood_ratios(self._is_counting())
        doubt: Float[np.ndarray, " author"] = np.exp(np.minimum(ratios, 0.0))
        return doubt

    def _is_consensus_sound(self) -> Bool[np.ndarray, " author"]:
        """Whether the others agree with what is expected: else to contradict it means nothing."""
        return self._memory.agreement.scores_of_others(self._is_counting()) >= self.config.quarantine_at

    def _is_counting(self) -> Bool[np.ndarray, " author"]:
        """Whose word is part of the consensus."""
        counting = np.ones(len(self._memory.reported), np.bool_)
        for author in self.standings:
            if author in self._memory.numbers and self._is_held(author, True):
                counting[self._memory.numbers[author]] = False
        return counting

    def _is_few(self) -> bool:
        """Whether too few are left, with others held, to bound anyone's share: of two, neither could go first."""
        return int((self._is_active() & self._is_counting()).sum()) < self.config.min_authors

    def _is_active(self) -> Bool[np.ndarray, " author"]:
        return self._memory.reported >= self.config.active_rewards

    def _is_held(self, author: str, is_on: bool) -> bool:
        known = self.standings.get(author, NOTHING_SAID)
        return known.pinned == "distrusted" or (is_on and known.is_quarantined)


def _number_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
