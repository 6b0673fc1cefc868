"""Two applications under one `tidegate serve`: each its own network, encoder, learner and log."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

from tests.gating.conftest import gpt_neo_folder
from tests.ports import free_port

from .service import Service, serve_config, write_roster

__all__ = ["gpt_neo_folder"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, gpt_neo_folder: Path) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("subnets")
    config = serve_config(free_port(), folder / "sn1.yaml", replica={"num_cpus": 0.5})
    first = config["applications"][0]
    second = deepcopy(first)
    for application, netuid, n in ((first, 1, 8), (second, 23, 5)):
        roster = folder / f"sn{netuid}.yaml"
        write_roster(roster, [f"sn{netuid}-expert-{uid}" for uid in range(n)])
        application.update(name=f"sn{netuid}", route_prefix=f"/sn{netuid}")
        application["args"]["chain"] = {"source": "roster", "roster": str(roster), "netuid": netuid}
    second["args"]["encoder"] = {"kind": "causal", "model_name": str(gpt_neo_folder), "dtype": "fp32"}
    config["applications"] = [first, second]
    service = Service(config, folder)
    service.start("/sn1", "/sn23")
    yield service
    service.end()


def test_each_application_answers_for_its_own_network(service: Service) -> None:
    for prefix, netuid, n in (("/sn1", 1, 8), ("/sn23", 23, 5)):
        answer = service.post(f"{prefix}/v1/score", {"messages": ["tide"]})
        assert (answer["metagraph"]["netuid"], answer["metagraph"]["n"]) == (netuid, n)
        assert len(answer["scores"][0]["scores"]) == n
        page = service.http.get(f"{prefix}/docs")
        assert f"{prefix}/openapi.json" in page.text


def test_what_one_learns_the_other_does_not(service: Service) -> None:
    body = {"messages": ["tide"]}
    other_before = service.post("/sn23/v1/score", body)
    selection = service.post("/sn1/v1/select", {**body, "k": 2})["selections"][0]
    item = {"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": [1.0, 0.0]}
    assert service.post("/sn1/v1/rewards", {"rewards": [item], "wait": "published"})["accepted"] == 2
    assert service.post("/sn1/v1/score", body)["weights"]["version"] == 1
    other = service.post("/sn23/v1/score", body)
    assert other["scores"] == other_before["scores"]
    assert other["weights"]["version"] == 0
    strangers = service.post("/sn23/v1/rewards", {"rewards": [item]})
    assert [rejection["code"] for rejection in strangers["rejected"]] == ["unknown_decision"]


def test_another_encoder_is_another_application_with_its_own_state(service: Service) -> None:
    learners = [service.http.get(f"{prefix}/v1/state").json()["learner"] for prefix in ("/sn1", "/sn23")]
    assert len({learner["fingerprint"] for learner in learners}) == 2
    for prefix in ("/sn1", "/sn23"):
        selection = service.post(f"{prefix}/v1/select", {"messages": ["salt"], "k": 2})["selections"][0]
        item = {"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": [0.0, 1.0]}
        report = service.post(f"{prefix}/v1/rewards", {"rewards": [item], "wait": "published"})
        assert (report["accepted"], report["reached"]) == (2, True)


def test_each_has_a_learner_and_a_log_of_its_own(service: Service) -> None:
    logs = {service.http.get(f"{prefix}/v1/state").json()["learner"]["log_id"] for prefix in ("/sn1", "/sn23")}
    assert len(logs) == 2
    learners = [name for _, name in service.command_lines() if "LearnerActor" in name]
    assert len(learners) == 2
