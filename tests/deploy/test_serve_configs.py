from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.auth import check_exposure
from deployments.config import ApiKeyAuthArgs, ServeArgs
from deployments.serve_config import check_serve_config, parse_args
from learner.config import RosterChain
from tests.deploy.manifests import CLUSTERS, DEPLOY, ROOT, render, serve_config


def _files() -> list[Path]:
    """The repository's YAML files. Without git (an unpacked archive) all that lie where they are expected."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.yaml", "*.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split() if (ROOT / name).exists()]
    return [*ROOT.glob("*.yaml"), *(ROOT / "examples").rglob("*.yaml"), *DEPLOY.rglob("*.yaml")]


def _found() -> dict[str, dict[str, Any]]:
    """Every Serve config in a file of its own or in a RayService, by where it is."""
    found: dict[str, dict[str, Any]] = {}
    for path in _files():
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if isinstance(document, dict) and "applications" in document:
                found[str(path.relative_to(ROOT))] = document
            elif isinstance(document, dict) and document.get("kind") == "RayService":
                found[str(path.relative_to(ROOT))] = yaml.safe_load(document["spec"]["serveConfigV2"])
    return found


FOUND = _found()
SERVED = {
    **{name: serve_config(render(name)) for name in CLUSTERS},
    "compose": FOUND["deploy/serve_config.compose.yaml"],
}


def _args(config: dict[str, Any]) -> ServeArgs:
    [application] = config["applications"]
    return parse_args(application["args"])


def test_every_serve_config_is_found() -> None:
    assert set(FOUND) == {
        "serve_config.yaml",
        "examples/serve_config.subnets.yaml",
        "deploy/serve_config.compose.yaml",
        "deploy/kuberay/rayservice.yaml",
        "deploy/subnet/serve_config.yaml",
        "deploy/llm-router/serve_config.yaml",
    }


@pytest.mark.parametrize("place", sorted(FOUND))
def test_every_serve_config_passes_the_strict_check(place: str) -> None:
    config = check_serve_config(FOUND[place])
    for application in config.applications:
        assert isinstance(application.args, dict)
        check_exposure(parse_args(application.args).auth, config.http_options.host)


@pytest.mark.parametrize("name", sorted(SERVED))
def test_what_is_deployed_asks_for_keys_from_a_secret_and_can_be_reached(name: str) -> None:
    config = check_serve_config(SERVED[name])
    auth = _args(SERVED[name]).auth
    assert isinstance(auth, ApiKeyAuthArgs)
    assert auth.keys == ()
    assert (config.http_options.host, config.http_options.port) == ("0.0.0.0", 8000)
    assert config.proxy_location == "EveryNode"


@pytest.mark.parametrize("name", sorted(SERVED))
def test_what_is_deployed_logs_to_postgresql_without_a_password_and_saves_outside_the_container(name: str) -> None:
    learner = _args(SERVED[name]).learner
    user_and_host = learner.log.url.removeprefix("postgresql://").partition("/")[0]
    assert learner.log.url.startswith("postgresql://")
    assert ":" not in user_and_host
    assert learner.checkpoints.url.startswith("/var/lib/tidegate/")


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_replica_on_a_cpu_computes_on_no_more_cores_than_it_reserves(name: str) -> None:
    args = _args(SERVED[name])
    assert args.replica.learner_num_cpus >= 1
    if args.replica.num_gpus == 0:
        assert args.encoder.device == "cpu"
        assert args.encoder.threads == args.replica.num_cpus
    else:
        assert args.encoder.device == "cuda"


def test_the_two_examples_are_a_subnet_and_a_roster() -> None:
    assert _args(SERVED["subnet"]).chain.source == "bittensor"
    assert isinstance(_args(SERVED["llm-router"]).chain, RosterChain)
