from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest
import yaml
from jsonschema import Draft201909Validator

from tests.alerts import RULES
from tests.deploy.manifests import DEPLOY, ROOT, SCHEMAS, named, read_documents, render
from tests.deploy.test_kuberay import names_set_for_ray

[COMPOSE] = read_documents(DEPLOY / "docker-compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def errors(compose: dict[str, Any]) -> list[str]:
    """What the schema has against it. The schema is older than a project's name."""
    schema = json.loads((SCHEMAS / "compose.json").read_text("utf-8"))
    rest = {key: value for key, value in compose.items() if key != "name"}
    return [f"{error.json_path}: {error.message}" for error in Draft201909Validator(schema).iter_errors(rest)]


def test_it_fits_its_schema() -> None:
    assert errors(COMPOSE) == []


def test_a_mistake_does_not_fit() -> None:
    assert errors({**COMPOSE, "services": {**SERVICES, "gate": {**SERVICES["gate"], "enviroment": {}}}})


def test_it_is_the_service_its_log_and_what_watches_it() -> None:
    assert set(SERVICES) == {"gate", "postgres", "prometheus", "grafana"}


def test_no_image_floats() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert images.pop("gate") == f"registry.example/tidegate:{version}-cpu"
    assert all(re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z]+)?$", image) for image in images.values())


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(published) == ["127.0.0.1:3000:3000", "127.0.0.1:8000:8000"]


def test_the_gate_has_what_tidegate_serve_sets_and_rays_token(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SERVICES["gate"]["environment"]
    own = names_set_for_ray(monkeypatch)
    assert set(environment) == own | {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}
    assert environment["RAY_AUTH_MODE"] == "token"
    cluster = named(render("kuberay"), "ConfigMap", "tidegate-environment")["data"]
    different = {name for name in own if environment[name] != cluster[name]}
    assert different == {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"}, "one machine has nobody to wait for"


def test_secrets_are_files_that_are_not_in_the_repository() -> None:
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} == {
        f"./secrets/{name}" for name in ("api_keys", "postgres_password", "ray_token", "grafana_password")
    }
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    text = (DEPLOY / "docker-compose.yaml").read_text("utf-8")
    named_files = set(re.findall(r"/run/secrets/(\w+)", text + (DEPLOY / "one_machine.sh").read_text("utf-8")))
    named_files |= set(re.findall(r"/run/secrets/(\w+)", (DEPLOY / "serve_config.compose.yaml").read_text("utf-8")))
    given = {name for service in SERVICES.values() for name in service.get("secrets", [])}
    assert named_files == given == set(COMPOSE["secrets"])


def test_what_is_mounted_from_the_repository_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_prometheus_scrapes_ray_and_haproxy_and_grafana_asks_it() -> None:
    [config] = read_documents(DEPLOY / "prometheus.yml")
    targets = {target for job in config["scrape_configs"] for one in job["static_configs"] for target in one["targets"]}
    metrics_port = re.search(r"--metrics-export-port=(\d+)", (DEPLOY / "one_machine.sh").read_text("utf-8"))
    assert metrics_port is not None
    haproxy = SERVICES["gate"]["environment"]["RAY_SERVE_HAPROXY_METRICS_PORT"]
    assert targets == {f"gate:{metrics_port[1]}", f"gate:{haproxy}"}
    [sources] = read_documents(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"
    for name, network in {"gate": "log", "postgres": "log", "prometheus": "metrics", "grafana": "metrics"}.items():
        assert network in SERVICES[name]["networks"]


def test_only_what_must_reaches_the_world() -> None:
    outside = {name for name, network in COMPOSE["networks"].items() if not network.get("internal")}
    assert outside == {"outside"}
    assert {name for name, service in SERVICES.items() if "outside" in service["networks"]} == {"gate", "grafana"}


def test_the_gate_ends_later_than_it_drains() -> None:
    assert yaml.safe_load(SERVICES["gate"]["stop_grace_period"].removesuffix("s")) > 35


def test_prometheus_loads_the_alert_rules_that_are_mounted() -> None:
    [config] = read_documents(DEPLOY / "prometheus.yml")
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["prometheus"]["volumes"]}
    [rules] = config["rule_files"]
    assert (DEPLOY / mounted[rules]).resolve() == RULES
