"""The Serve application: one deployment in which the HTTP ingress and the scorer are the same replica.

Serve imports this also where the application is only built, so it loads no torch.

No `from __future__ import annotations` here: Serve reads the type of `build_app`'s argument from its annotation.
"""

from typing import TYPE_CHECKING, cast

from ray import serve
from ray.serve import Application

from learner.chain import check_source
from learner.log_check import check_log

from .auth import check_credentials
from .autoscaling_policy import serve_autoscaling
from .config import ServeArgs

if TYPE_CHECKING:
    from fastapi import FastAPI

DEPLOYMENT = "Gate"
_REQUESTS_PER_REPLICA = 4096
# A new replica starts before an old one stops: with Serve's 0, a roll of one replica is a time without any.
_SURGE_PERCENT = 25


class _ServeReplica:
    """`GateReplica` with the life cycle that Serve expects: an async `__init__` and an async `__del__`."""

    async def __init__(self, args: ServeArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        from .replica import GateReplica

        self._replica = GateReplica(args)
        await self._replica.start()

    def __serve_build_asgi_app__(self) -> "FastAPI":
        """The routes, as Serve asks for them after `__init__`."""
        return self._replica.build_routes()

    def check_health(self) -> None:
        """Serve's health check."""
        self._replica.check_health()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve gives the autoscaling policy, asked for every `metrics_interval_s`."""
        return self._replica.autoscaling_stats()

    async def __del__(self) -> None:
        await self._replica.stop()


def build_app(args: ServeArgs) -> Application:
    """The application that serve_config.yaml names.

    Raises:
        CredentialsError, RosterError, ChainError, LogError: the keys, the network or the log cannot be; better here
            than in every replica.
    """
    check_credentials(args.auth)
    check_source(args.chain)
    # Serve does not tell under which name it deploys.
    check_log(args.learner, None)
    autoscaling = args.replica.autoscaling
    deployment = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=args.replica.num_replicas if autoscaling is None else None,
        autoscaling_config=serve_autoscaling(autoscaling) if autoscaling else None,
        # Ray's annotations do not know that None is the default.
        max_replicas_per_node=cast(int, args.replica.max_replicas_per_node),
        max_ongoing_requests=_REQUESTS_PER_REPLICA,
        max_surge_percent=_SURGE_PERCENT,
        ray_actor_options={"num_cpus": args.replica.num_cpus, "num_gpus": args.replica.num_gpus},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=10,
        logging_config={"enable_access_log": False},
    )(serve.ingress()(_ServeReplica))
    application: Application = deployment.bind(args)
    return application
