"""Reward trust after a restart: as it was, as far as the recent past in the log tells."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby

from .config import TrustConfig
from .event_log import EventLog
from .events import Action, OperatorEvent, ResyncEvent, RewardEvent
from .state import LearnerState
from .trust import Trust

_MOST_EVENTS = 20_000
_WINDOWS = 3.0

Turn = OperatorEvent | list[int]
"""What makes reward trust forget: a word on an author, or uids that have changed hands."""


def remembered_trust(config: TrustConfig, state: LearnerState, log: EventLog, *, dim: int, now_s: float) -> Trust:
    """Reward trust as of the end of the log: what was decided is in the state for good, the rest is observed again.

    Args:
        config: how far to believe whom.
        state: what has been learned up to the end of the log.
        log: the events.
        dim: width of the embeddings.
        now_s: the time, on the log's clock.
    """
    trust = Trust(config, state.standings, state.view, dim)
    reported = log.reported_since(now_s - _WINDOWS * config.window_s, _MOST_EVENTS) if config.enabled else []
    if reported:
        _observe_again(trust, reported, _turns(state, log, reported))
    return trust


def _turns(state: LearnerState, log: EventLog, reported: Sequence[tuple[float, RewardEvent]]) -> list[tuple[int, Turn]]:
    """What has made it forget meanwhile, by place in the log, in order.

    To observe again what was said of whom changes nothing else: the last word is the one that the state has.
    """
    changed: dict[int, list[int]] = {}
    for uid, seq in state.tenures.since.items():
        # Of a uid that has changed hands more than once, the last time tells all.
        changed.setdefault(seq, []).append(uid)
    most = 1 + max(max(event.uids) for _, event in reported)
    turns: list[tuple[int, Turn]] = []
    for batch in log.batches(reported[0][1].seq):
        match batch[0]:
            case OperatorEvent(action=Action.STANDING) as said:
                turns.append((said.seq, said))
            case ResyncEvent() as resync:
                turns.append((resync.seq, [*changed.get(resync.seq, ()), *range(resync.view.n, most)]))
    return turns


def _observe_again(
    trust: Trust, reported: Sequence[tuple[float, RewardEvent]], turns: Sequence[tuple[int, Turn]]
) -> None:
    places, followed = [seq for seq, _ in turns], 0
    for (at_s, until), events in groupby(reported, lambda item: (item[0], bisect_left(places, item[1].seq))):
        _follow(trust, turns[followed:until], at_s)
        trust.observe([event for _, event in events], at_s)
        followed = until
    _follow(trust, turns[followed:], reported[-1][0])


def _follow(trust: Trust, turns: Sequence[tuple[int, Turn]], at_s: float) -> None:
    for _, turn in turns:
        if isinstance(turn, OperatorEvent):
            trust.observe([turn], at_s)
        else:
            trust.forget_uids(turn)
