from __future__ import annotations

import pytest
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from deployments.local import ServiceError
from deployments.serve_config import IMPORT_PATH
from deployments.shared_serve import Deployed

THEIRS = ServeApplicationSchema(name="tides", route_prefix="/tides", import_path="tides:app")
BY_CODE = "by-code"
"""An application that `serve.run` deployed: it is in no config."""
DEPLOYED = Deployed(routes={"tides": "/tides", BY_CODE: "/code", "inner": None}, configs={"tides": THEIRS})


def config(name: str = "gate", route_prefix: str | None = "/", **settings: object) -> ServeDeploySchema:
    app = {"name": name, "route_prefix": route_prefix, "import_path": IMPORT_PATH}
    return ServeDeploySchema.model_validate({"applications": [app], **settings})


def test_a_config_that_joins_others_has_theirs_unchanged() -> None:
    whole = DEPLOYED.joined_by(config())
    assert [app.name for app in whole.applications] == ["tides", "gate"]
    assert whole.applications[0] == THEIRS


def test_what_a_config_says_of_logging_is_not_laid_over_others() -> None:
    whole = DEPLOYED.joined_by(config(logging_config={"log_level": "ERROR"}))
    assert whole.logging_config is None
    theirs, ours = whole.applications
    assert theirs.logging_config is None
    assert ours.logging_config is not None
    assert ours.logging_config.log_level == "ERROR"


def test_the_capacity_of_the_instance_stays_what_it_is() -> None:
    half = Deployed(routes=DEPLOYED.routes, configs=DEPLOYED.configs, target_capacity=50)
    assert half.joined_by(config(target_capacity=100)).target_capacity == 50
    assert half.without({"gate"}).target_capacity == 50


@pytest.mark.parametrize("name", ["tides", BY_CODE, "inner"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    with pytest.raises(ServiceError, match=f"an application '{name}' runs on that cluster already; .*`serve deploy`"):
        DEPLOYED.joined_by(config(name=name))


@pytest.mark.parametrize(("route", "owner"), [("/tides", "tides"), ("/code", BY_CODE)])
def test_a_route_that_is_taken_is_refused(route: str, owner: str) -> None:
    with pytest.raises(ServiceError, match=f"route_prefix {route} of application 'gate' belongs to .* '{owner}'"):
        DEPLOYED.joined_by(config(route_prefix=route))


def test_an_application_without_a_route_collides_with_none() -> None:
    assert [app.name for app in DEPLOYED.joined_by(config(route_prefix=None)).applications] == ["tides", "gate"]


def test_what_is_left_without_ours_is_the_others() -> None:
    gate = config().applications[0]
    both = Deployed(routes={**DEPLOYED.routes, "gate": "/"}, configs={"tides": THEIRS, "gate": gate})
    assert both.without(["gate", "not there"]).applications == [THEIRS]
    assert both.without(["gate", "tides"]).applications == []
