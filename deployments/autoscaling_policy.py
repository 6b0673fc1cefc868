"""The autoscaling policy as Serve's controller calls it, and the settings that make Serve call it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ray import cloudpickle
from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from . import autoscaling
from .autoscaling import ScalingSettings, ScalingState, desired_by_default, desired_replicas, loads_told
from .config import AutoscalingArgs

_PATH = f"{__name__}:QueueDelayPolicy"
_STATE = "tidegate"
_LOOK_BACK = 10
"""Rates are taken over so many of a replica's reports, and one silent for twice as long is not counted."""


class QueueDelayPolicy:
    """What Serve asks every 0.1 s; `autoscaling` says what is decided.

    Args:
        max_age_s: how old a replica's newest word may be.
        settings: those of `ScalingSettings`. The bounds that count are Serve's: it adjusts them to `target_capacity`.
    """

    def __init__(self, *, max_age_s: float, **settings: Any) -> None:
        self._max_age_s = max_age_s
        self._settings = ScalingSettings(**settings)

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """How many replicas, and the state to be given back next time."""
        state = ctx.policy_state.get(_STATE, ScalingState())
        if not ctx.current_num_replicas:
            return ctx.target_num_replicas, {_STATE: state}
        now_s = ctx.current_time or 0.0
        told = {
            name: {
                str(replica): [(point.timestamp, point.value) for point in points]
                for replica, points in replicas.items()
            }
            for name, replicas in (ctx.raw_metrics or {}).items()
        }
        current: dict[str, Any] = {
            "running": ctx.current_num_replicas,
            "target": ctx.target_num_replicas,
            "settings": replace(
                self._settings,
                min_replicas=ctx.capacity_adjusted_min_replicas,
                max_replicas=ctx.capacity_adjusted_max_replicas,
            ),
            "state": state,
            "now_s": now_s,
        }
        if loads := loads_told(told, now_s=now_s, max_age_s=self._max_age_s):
            desired, state = desired_replicas(loads, **current)
        else:
            wanted, _ = replica_queue_length_autoscaling_policy(ctx)
            desired, state = desired_by_default(wanted, **current)
        return desired, {_STATE: state}


def serve_autoscaling(args: AutoscalingArgs) -> AutoscalingConfig:
    """The settings as Serve takes them."""
    is_own = args.policy == "queue_delay"
    with _quiet():
        return AutoscalingConfig(
            min_replicas=args.min_replicas,
            max_replicas=args.max_replicas,
            metrics_interval_s=args.metrics_interval_s,
            look_back_period_s=_LOOK_BACK * args.metrics_interval_s,
            target_ongoing_requests=args.target_ongoing_requests,
            # The policy waits by itself, and would otherwise do so twice.
            upscale_delay_s=0.0 if is_own else args.upscale_delay_s,
            downscale_delay_s=0.0 if is_own else args.downscale_delay_s,
            policy=_policy(args) if is_own else AutoscalingPolicy(),  # type: ignore[no-untyped-call]
        )


def _policy(args: AutoscalingArgs) -> AutoscalingPolicy:
    settings = {
        "max_age_s": 2 * _LOOK_BACK * args.metrics_interval_s,
        "min_replicas": args.min_replicas,
        "max_replicas": args.max_replicas,
        "target_delay_s": args.target_delay_ms / 1000,
        "upscale_delay_s": args.upscale_delay_s,
        "downscale_delay_s": args.downscale_delay_s,
        "target_utilization": args.target_utilization,
        "hysteresis": args.hysteresis,
        "catch_up_s": args.catch_up_s,
    }
    # Serve sends the policy's module itself to its controller, which outlives deployments: what the module uses has to
    # go along, lest it meets that of an older version there.
    cloudpickle.register_pickle_by_value(autoscaling)  # type: ignore[no-untyped-call]
    try:
        return AutoscalingPolicy(policy_function=_PATH, policy_kwargs=settings)  # type: ignore[no-untyped-call]
    finally:
        cloudpickle.unregister_pickle_by_value(autoscaling)  # type: ignore[no-untyped-call]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Serve 2.60's warning that `metrics_interval_s` will go: the variables that it names are not read yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
