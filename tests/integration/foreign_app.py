"""What others have on a cluster: an application and an actor, and beside them a Tidegate of theirs.

    python -m tests.integration.foreign_app ADDRESS CONFIG

joins a Ray cluster, starts the actor, and deploys a Serve config as `serve deploy` does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema

from deployments.serve_client import serve_client
from tests.integration.service import wait_for


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Tides:
    """Tells which process answers."""

    async def __call__(self, _request: Any) -> int:
        return os.getpid()


app = Tides.bind()


class Bystander:
    """An actor that nobody here knows."""

    def pid(self) -> int:
        return os.getpid()


def _are_running(names: set[str]) -> bool:
    return {name for name, found in serve.status().applications.items() if found.status == "RUNNING"} == names


def main(address: str, config_path: Path) -> None:
    ray.init(address=address, log_to_driver=False)
    bystander = ray.remote(Bystander).options(name="bystander", namespace="tides", lifetime="detached", num_cpus=0)
    ray.get(bystander.remote().pid.remote())
    config = ServeDeploySchema.model_validate(yaml.safe_load(config_path.read_text(encoding="utf-8")))
    serve.start(http_options={**config.http_options.model_dump(), "location": config.proxy_location})
    serve_client().deploy_apps(config)
    wait_for(lambda: _are_running({application.name for application in config.applications}), 120)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
