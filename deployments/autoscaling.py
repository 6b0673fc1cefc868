"""How many replicas there should be, by how long what waits for them would wait. Pure: no Ray, no clock.

Requests differ in length by orders of magnitude, so their number says little. What a user waits for is the queue: its
tokens, divided by the tokens a second that the engine does. More replicas come when that has been over the target for a
while: as many as the tokens that arrive need, and the queue on top of them. An empty queue says nothing of how many
replicas could go, so they go by how much of the engines' time and speed is in use. Between the two nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

QUEUED_TOKENS = "queued_tokens"
"""What replicas tell: tokens that wait for the engine."""
TOKENS_PER_S = "tokens_per_s"
"""The engine's speed under load."""
OFFERED_TOKENS = "offered_tokens"
"""Tokens that were to be encoded since the replica started, refused ones included."""
REFUSED_TOKENS = "refused_tokens"
"""Those that admission refused."""
BUSY_S = "busy_s"
"""Seconds that the engine has worked since the replica started."""

Series = Sequence[tuple[float, float]]
"""What one replica told of one thing, as (seconds, value), oldest first."""

_MOST_GROWTH = 2


@dataclass(frozen=True, slots=True)
class ScalingSettings:
    """When to have more or fewer replicas; see `deployments.config.AutoscalingArgs` for each."""

    min_replicas: int
    max_replicas: int
    target_delay_s: float
    upscale_delay_s: float
    downscale_delay_s: float
    target_utilization: float
    hysteresis: float
    catch_up_s: float


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """How one replica is doing.

    Attributes:
        queued_tokens: that wait for its engine.
        tokens_per_s: its engine's speed under load.
        offered_per_s: tokens a second that came of late, refused ones included.
        busy: share of time in which its engine worked of late, 0 to 1.
        is_refusing: whether it has refused requests of late.
    """

    queued_tokens: float
    tokens_per_s: float
    offered_per_s: float
    busy: float
    is_refusing: bool = False


@dataclass(frozen=True, slots=True)
class ScalingState:
    """What is kept from one decision to the next.

    Attributes:
        over_since_s: since when more replicas are wanted, None if they are not.
        under_since_s: since when fewer would do, None if they would not.
        most_under: the most that were needed since then.
        running: how many ran at the last decision.
        grew_s: when there last were more than before.
    """

    over_since_s: float | None = None
    under_since_s: float | None = None
    most_under: int = 0
    running: int = 0
    grew_s: float = -math.inf


def desired_replicas(
    loads: Sequence[ReplicaLoad],
    *,
    running: int,
    target: int,
    settings: ScalingSettings,
    state: ScalingState,
    now_s: float,
) -> tuple[int, ScalingState]:
    """How many replicas there should be from now on.

    Args:
        loads: of those that tell; one that has just started does not yet.
        running: how many run, at least 1.
        target: how many there should be according to the last decision; some of them may be starting.
        settings: when to have more or fewer.
        state: from the last decision.
        now_s: the time, in seconds.
    """
    state = _noting(state, running, now_s)
    if not loads:
        return _hold(target, target, settings, state, now_s)
    speed = sum(load.tokens_per_s for load in loads) / len(loads)
    queued = sum(load.queued_tokens for load in loads)
    offered_per_s = sum(load.offered_per_s for load in loads)
    is_over = queued > settings.target_delay_s * speed * running
    if is_over or any(load.is_refusing for load in loads):
        needed = math.ceil((offered_per_s + queued / settings.catch_up_s) / (speed * settings.target_utilization))
        if now_s - state.grew_s >= settings.catch_up_s:
            # They have had the time to work the queue off, so they are slower than they seem.
            needed = max(needed, running + 1)
        wanted = max(target, min(needed, _MOST_GROWTH * running))
    elif len(loads) < running:
        wanted = target
    else:
        margin = 1 - settings.hysteresis
        in_use = max(offered_per_s / speed, sum(load.busy for load in loads)) / settings.target_utilization
        waiting = queued / (speed * settings.target_delay_s)
        wanted = _fewer(target, max(in_use, waiting) / margin)
    return _hold(wanted, target, settings, state, now_s)


def desired_by_default(
    wanted: float, *, running: int, target: int, settings: ScalingSettings, state: ScalingState, now_s: float
) -> tuple[int, ScalingState]:
    """The same where another policy says how many it wants: its wish with this one's delays, steps and bounds."""
    state = _noting(state, running, now_s)
    if wanted > target:
        steady = max(target, min(math.ceil(wanted), _MOST_GROWTH * running))
    else:
        steady = _fewer(target, wanted / (1 - settings.hysteresis))
    return _hold(steady, target, settings, state, now_s)


def loads_told(told: Mapping[str, Mapping[str, Series]], *, now_s: float, max_age_s: float) -> list[ReplicaLoad]:
    """What replicas told, as loads; those that left something out, or have been silent for too long, are not in it.

    Args:
        told: what is told, by its name, -> the replica -> what it told in the last while.
        now_s: the time, by the clock of the series.
        max_age_s: how old a replica's newest word may be.
    """
    names = (QUEUED_TOKENS, TOKENS_PER_S, OFFERED_TOKENS, REFUSED_TOKENS, BUSY_S)
    loads = []
    for replica in told.get(TOKENS_PER_S, {}):
        series = [told.get(name, {}).get(replica, ()) for name in names]
        if all(len(one) > 1 for one in series) and now_s - series[0][-1][0] <= max_age_s:
            loads.append(_load(*series))
    return loads


def _load(queued: Series, speed: Series, offered: Series, refused: Series, busy: Series) -> ReplicaLoad:
    return ReplicaLoad(
        queued_tokens=max(queued[-1][1], 0.0),
        tokens_per_s=max(speed[-1][1], 1.0),
        # What a text was taken for is set right once it is tokenized, so this may go back a little.
        offered_per_s=max(_per_second(offered), 0.0),
        busy=min(max(_per_second(busy), 0.0), 1.0),
        is_refusing=refused[-1][1] > refused[0][1],
    )


def _per_second(counted: Series) -> float:
    (first_s, first), (last_s, last) = counted[0], counted[-1]
    return (last - first) / max(last_s - first_s, 1e-3)


def _noting(state: ScalingState, running: int, now_s: float) -> ScalingState:
    grew_s = now_s if 0 < state.running < running else state.grew_s
    return replace(state, running=running, grew_s=grew_s)


def _fewer(target: int, needed: float) -> int:
    """How many of the replicas stay where so many are needed: at least half of them."""
    return min(target, max(math.ceil(needed), math.ceil(target / _MOST_GROWTH)))


def _hold(
    wanted: int, target: int, settings: ScalingSettings, state: ScalingState, now_s: float
) -> tuple[int, ScalingState]:
    """Give in to a wish once it has been there for the whole of its delay, within the bounds."""
    wanted, bounded = _within(settings, wanted), _within(settings, target)
    idle = replace(state, over_since_s=None, under_since_s=None, most_under=0)
    if wanted > bounded:
        since_s = now_s if state.over_since_s is None else state.over_since_s
        if now_s - since_s >= settings.upscale_delay_s:
            return wanted, idle
        return bounded, replace(idle, over_since_s=since_s)
    if wanted < bounded:
        since_s = now_s if state.under_since_s is None else state.under_since_s
        most = max(state.most_under, wanted)
        if now_s - since_s >= settings.downscale_delay_s:
            return most, idle
        return bounded, replace(idle, under_since_s=since_s, most_under=most)
    return bounded, idle


def _within(settings: ScalingSettings, replicas: int) -> int:
    return max(settings.min_replicas, min(replicas, settings.max_replicas))
