"""Deploys as `tidegate serve --address` does, one application after the other, and takes them away again.

    python -m tests.integration.joiner ADDRESS CONFIG COUNT

joins a Ray cluster, and from then on does for each line of its input what that says: `deploy` the application of the
config COUNT times under other names and routes, tell what is `deployed`, or `remove` its own. What it tells is in lines
that begin with TOLD: Ray writes there, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.serve_client import serve_client
from deployments.shared_serve import Deployed, remove_apps, start_or_join_serve
from deployments.turns import turn

TOLD = "joiner:"


def deploy(config: ServeDeploySchema, name: str) -> None:
    """Deploy one more application beside all that are there."""
    [app] = config.applications
    mine = app.model_copy(update={"name": name, "route_prefix": f"/{name}"})
    with turn(shared=True):
        serve_client().deploy_apps(start_or_join_serve(config.model_copy(update={"applications": [mine]})))


def tell(names: Iterable[str]) -> None:
    print(TOLD, *names, flush=True)  # noqa: T201


def main(address: str, config_path: Path, count: int) -> None:
    ray.init(address=address, namespace="serve", log_to_driver=False)
    config = ServeDeploySchema.model_validate(yaml.safe_load(config_path.read_text(encoding="utf-8")))
    names = [f"app-{os.getpid()}-{number}" for number in range(count)]
    tell(names)
    for line in sys.stdin:
        if line.strip() == "deploy":
            for name in names:
                deploy(config, name)
        elif line.strip() == "remove":
            remove_apps(names, shared=True)
        tell(Deployed.read(serve_client()).configs)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
