"""The applications of a Serve instance that may have others' as well: what is ours comes and goes, theirs stays.

A config that is deployed is the whole of what is to run: Serve deletes every application that an earlier config had
and this one has not. And `serve.delete` leaves an application in the config that Serve keeps, so that a controller
that restarts brings it back. So both ways the config of all others is deployed again with ours, or without.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import ray
from ray import serve
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
from ray.serve._private.client import ServeControllerClient
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from .local import ServiceError
from .serve_client import running_serve, serve_client
from .serve_config import IMPORT_PATH
from .turns import turn

_STARTED_BY_US = b"tidegate-serve-controller"


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a Serve instance runs.

    Attributes:
        routes: by the applications' names, None where one has no route.
        configs: of those that were deployed by a config, by name.
        target_capacity: of the whole instance, in percent.
    """

    routes: Mapping[str, str | None]
    configs: Mapping[str, ServeApplicationSchema]
    target_capacity: float | None = None

    @staticmethod
    def read(client: ServeControllerClient) -> Deployed:
        """Ask the Serve instance."""
        details = client.get_serve_details()
        applications = details["applications"]
        # Serve keeps the configs of applications that are gone.
        kept = ray.get(client._controller.get_app_configs.remote())
        return Deployed(
            routes={name: app["route_prefix"] for name, app in applications.items()},
            configs={
                name: config
                for name, config in kept.items()
                if name in applications and applications[name]["source"] == "declarative"
            },
            target_capacity=details.get("target_capacity"),
        )

    def joined_by(self, config: ServeDeploySchema) -> ServeDeploySchema:
        """The config with everything that is deployed already.

        Raises:
            ServiceError: the name or the route of an application is taken.
        """
        routes = {route: name for name, route in self.routes.items() if route is not None}
        for app in config.applications:
            if app.name in self.routes:
                raise ServiceError(
                    f"an application {app.name!r} runs on that cluster already; change it with `serve deploy`, remove "
                    "it with `tidegate down --address`, or give this one another name"
                )
            if app.route_prefix in routes:
                raise ServiceError(
                    f"route_prefix {app.route_prefix} of application {app.name!r} belongs to application "
                    f"{routes[app.route_prefix]!r} on that cluster; set another"
                )
        # What the config says of logging is for its own applications.
        ours = [
            app if app.logging_config is not None else app.model_copy(update={"logging_config": config.logging_config})
            for app in config.applications
        ]
        return config.model_copy(
            update={
                "applications": [*self.configs.values(), *ours],
                "logging_config": None,
                "target_capacity": self.target_capacity,
            }
        )

    def without(self, apps: Collection[str]) -> ServeDeploySchema:
        """The config of everything but these applications."""
        others = [config for name, config in self.configs.items() if name not in apps]
        return ServeDeploySchema(applications=others, target_capacity=self.target_capacity)


def start_or_join_serve(config: ServeDeploySchema) -> ServeDeploySchema:
    """Start Serve where it does not run; returns what to deploy there, everything that runs already included.

    That has to be deployed in the same `turn`, before anybody else deploys.

    Raises:
        ServiceError: the Serve instance that runs listens elsewhere than the config says, or has such an application.
    """
    host, port = config.http_options.host, config.http_options.port
    client = running_serve()
    if client is None:
        serve.start(http_options={**config.http_options.model_dump(), "location": config.proxy_location})
        _internal_kv_put(_STARTED_BY_US, _controller_id(serve_client()))
        return config
    there = client.http_config
    if (there.host, there.port) != (host, port):
        raise ServiceError(
            f"Serve runs on that cluster already and listens on {there.host}:{there.port}, and the config says "
            f"{host}:{port}; set http_options to {{host: {there.host}, port: {there.port}}}"
        )
    return Deployed.read(client).joined_by(config)


def remove_apps(apps: Collection[str], *, shared: bool) -> None:
    """Remove applications, and Serve itself if `start_or_join_serve` started it and nothing else is left.

    Args:
        apps: their names.
        shared: whether others may deploy on this Serve instance at the same time.

    Raises:
        ServiceError: another is deploying there for minutes.
    """
    client = running_serve()
    if client is None:
        return
    with turn(shared=shared):
        deployed = Deployed.read(client)
        if not deployed.routes.keys() - apps and _internal_kv_get(_STARTED_BY_US) == _controller_id(client):
            serve.shutdown()
            return
        client.deploy_apps(deployed.without(apps))
    # While they stop, their names are taken.
    client.delete_apps([app for app in apps if app in deployed.routes], blocking=True)


def tidegate_apps() -> set[str]:
    """The names of Tidegate's applications on this Serve instance."""
    client = running_serve()
    if client is None:
        return set()
    configs = Deployed.read(client).configs
    return {name for name, config in configs.items() if config.import_path == IMPORT_PATH}


def _controller_id(client: ServeControllerClient) -> bytes:
    """Tells a Serve instance from a later one. The same after the controller has restarted."""
    return bytes(client._controller._actor_id.binary())
