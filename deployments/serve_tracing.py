"""Tracing as Serve's own settings want it: `tracing_config` in the Serve config, or RAY_SERVE_TRACING_... variables.

Serve sets the replica's process up; the learner is no part of Serve, so it is told and does the same for itself.
"""

from __future__ import annotations

import ray
from ray.serve._private.tracing_utils import is_tracing_enabled, setup_tracing
from ray.serve.schema import TracingConfig

from learner.tracing import NO_TRACER, Tracer

from .serve_client import serve_client


def replica_tracer() -> Tracer:
    """The tracer of a replica's process, in which Serve has set up what is to be."""
    if not is_tracing_enabled():
        return NO_TRACER
    from .otel import OtelTracer

    return OtelTracer()


class LearnerTracing:
    """Sets tracing up in a learner's process; travels there.

    Args:
        config: Serve's settings.
    """

    def __init__(self, config: TracingConfig) -> None:
        self._config = config

    def __call__(self, app: str) -> Tracer:
        """The tracer of the application's learner."""
        if not setup_tracing("learner", app, tracing_config=self._config):
            return NO_TRACER
        from .otel import OtelTracer

        return OtelTracer()


def learner_tracing() -> LearnerTracing | None:
    """What a learner of this replica's sets its tracing up with, None where tracing is off."""
    if not is_tracing_enabled():
        return None
    # Serve has no public way to ask for it. None there: the variables of this replica have turned it on.
    config = ray.get(serve_client()._controller.get_tracing_config.remote())
    return LearnerTracing(config or TracingConfig())
