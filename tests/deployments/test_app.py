from __future__ import annotations

from pathlib import Path

import pytest

from deployments.app import build_app
from deployments.config import ServeArgs
from learner.errors import LogUnavailableError

MEMORY = {"log": {"url": "memory"}}
ROSTER = {"roster": str(Path(__file__).resolve().parents[2] / "roster.yaml")}


def test_a_log_that_cannot_be_had_is_an_error_before_there_are_replicas(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = {"url": f"sqlite:///{tmp_path}/file/events.db"}
    args = ServeArgs.model_validate({"chain": ROSTER, "learner": {"log": log}})
    with pytest.raises(LogUnavailableError, match="cannot be made"):
        build_app(args)


def test_a_log_whose_place_has_the_applications_name_is_left_to_the_learner(tmp_path: Path) -> None:
    log = {"url": f"sqlite:///{tmp_path}/{{app}}/events.db"}
    build_app(ServeArgs.model_validate({"chain": ROSTER, "learner": {"log": log}}))
    assert list(tmp_path.iterdir()) == []


def test_a_roll_starts_a_new_replica_before_it_stops_an_old_one_also_where_there_is_only_one() -> None:
    app = build_app(ServeArgs.model_validate({"chain": ROSTER, "learner": MEMORY}))
    assert app._bound_deployment._deployment_config.max_surge_percent > 0


def test_replicas_a_node_are_bounded_as_the_settings_say() -> None:
    for replica, most in (({}, None), ({"max_replicas_per_node": 2}, 2)):
        app = build_app(ServeArgs.model_validate({"chain": ROSTER, "learner": MEMORY, "replica": replica}))
        assert app._bound_deployment._replica_config.max_replicas_per_node == most
