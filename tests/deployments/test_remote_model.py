"""The model's own part: who was queried, what is sent, what is refused. integration/test_service has a real service."""

from __future__ import annotations

import argparse
import json
import logging
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.client import GateClient, GateUnavailableError, ProblemError
from deployments.remote_model import RemoteGatingModel
from gating import MetagraphView
from gating.models import BaseGatingModel

N = 8


class Gate:
    """Gives uid u the score u / 10, and keeps what it was sent. Its outcomes may be overridden by path."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.instead: dict[str, httpx.Response] = {}
        self.version = 0
        self.epoch = 1

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.sent.append((path, json.loads(request.content) if request.content else None))
        if path in self.instead:
            kept = self.instead[path]
            return httpx.Response(kept.status_code, headers=kept.headers, content=kept.content)
        if path == "/v1/score" and json.loads(request.content).get("min_version", 0) > self.version:
            return problem(503, "version_pending")
        return {"/v1/score": self._score, "/v1/rewards": self._reward, "/v1/admin/resync": self._resync}[path]()

    def _score(self) -> httpx.Response:
        told = {
            "Epoch": str(self.epoch),
            "Version": str(self.version),
            "N": str(N),
            "Degraded": "false",
            "Shape": f"1,{N}",
        }
        headers = {f"X-Tidegate-{name}": str(value) for name, value in told.items()}
        return httpx.Response(200, headers=headers, content=(np.arange(N, dtype="<f4") / 10).tobytes())

    def _reward(self) -> httpx.Response:
        self.version += 1
        return httpx.Response(200, json=report(version=self.version))

    def _resync(self) -> httpx.Response:
        self.version += 1
        return httpx.Response(200, json={"seq": self.version, "reset": [3]})

    def bodies(self, path: str) -> list[Any]:
        return [body for at, body in self.sent if at == path]


def report(*rejected: dict[str, Any], version: int = 1) -> dict[str, Any]:
    counts = {"accepted": 0 if rejected else 1, "duplicates": 0, "rejected": list(rejected)}
    return {**counts, "weights": None, "version": version, "reached": True}


def problem(status: int, code: str) -> httpx.Response:
    content_type = {"content-type": "application/problem+json"}
    return httpx.Response(status, content=json.dumps({"code": code, "title": "", "detail": "no"}), headers=content_type)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def model(gate: Gate) -> RemoteGatingModel:
    return remote(gate)


def remote(gate: Gate) -> RemoteGatingModel:
    client = GateClient(transport=httpx.MockTransport(gate), sleep=lambda _: None, retries=1)
    return RemoteGatingModel(client=client)


def test_it_is_a_gating_model_without_parameters(model: RemoteGatingModel) -> None:
    assert isinstance(model, BaseGatingModel)
    model("why?")
    assert (list(model.parameters()), model.state_dict()) == ([], {})


def test_scores_are_those_of_all_uids(gate: Gate, model: RemoteGatingModel) -> None:
    scores = model("why?")
    torch.testing.assert_close(scores.detach(), torch.arange(N) / 10)
    assert gate.sent == [("/v1/score", {"messages": ["why?"]})]


def test_a_reward_reaches_the_uids_that_were_picked_and_the_next_scores_know_it(
    gate: Gate, model: RemoteGatingModel
) -> None:
    scores = model("why?")
    top = scores.topk(3).indices
    assert top.tolist() == [7, 6, 5]
    completed = top[[2, 0]]
    model.backward(scores=scores[completed], rewards=torch.tensor([0.25, 1.0]))
    [sent] = gate.bodies("/v1/rewards")
    [item] = sent["rewards"]
    assert (item["message"], item["uids"], item["rewards"]) == ("why?", [5, 7], [0.25, 1.0])
    model("how?")
    assert gate.bodies("/v1/score")[-1] == {"messages": ["how?"], "min_version": 1}


# What validators do with scores between forward and backward.
@pytest.mark.parametrize(
    ("pick", "uids"),
    [
        (lambda scores: scores[[3, 1]], [3, 1]),
        (lambda scores: scores[torch.tensor([6])], [6]),
        (lambda scores: scores.sort(descending=True).values[:2], [7, 6]),
        (lambda scores: scores.topk(2).values, [7, 6]),
        (lambda scores: torch.stack([scores[4], scores[2]]), [4, 2]),
        (lambda scores: scores[torch.arange(N) % 2 == 1], [1, 3, 5, 7]),
        (lambda scores: scores.to(torch.float64)[2:5], [2, 3, 4]),
        (lambda scores: scores.bfloat16()[[5, 0]], [5, 0]),
        (lambda scores: scores[[7, 5, 3]][[2, 0]], [3, 7]),
        (lambda scores: scores, list(range(N))),
    ],
)
def test_uids_are_found_however_they_were_picked(
    gate: Gate, model: RemoteGatingModel, pick: Any, uids: list[int]
) -> None:
    scores = pick(model("why?"))
    model.backward(scores, torch.full((len(scores),), 0.5))
    assert gate.bodies("/v1/rewards")[0]["rewards"][0]["uids"] == uids


def test_those_who_are_away_may_be_written_out_of_the_scores(gate: Gate, model: RemoteGatingModel) -> None:
    scores = model("why?")
    scores[torch.tensor([7, 6])] = -torch.inf
    model.backward(scores[scores.topk(1).indices], torch.tensor([1.0]))
    assert gate.bodies("/v1/rewards")[0]["rewards"][0]["uids"] == [5]


@settings(deadline=None)
@given(uids=st.lists(st.integers(0, N - 1), min_size=1, max_size=N, unique=True), data=st.data())
def test_every_pick_in_every_order_is_found(uids: list[int], data: st.DataObject) -> None:
    gate = Gate()
    model = remote(gate)
    rewards = data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(uids), max_size=len(uids)))
    model.backward(model("why?")[uids], torch.tensor(rewards))
    [item] = gate.bodies("/v1/rewards")[0]["rewards"]
    assert (item["uids"], item["rewards"]) == (uids, rewards)


# Anything from which it could not be told which uid a reward is for.
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: scores[[3, 3]], "a uid is there twice"),
        (lambda scores: scores[[3, 1]] * 2, "changed or combined"),
        (lambda scores: scores[[3, 1]] + 0.5, "changed or combined"),
        (lambda scores: scores[[3, 1]].softmax(0), "changed or combined"),
        (lambda scores: scores[[3, 1]].cumsum(0), "changed or combined"),
        (lambda scores: scores[[3, 1]] + scores[[2, 4]], "changed or combined"),
        (lambda scores: torch.cat([scores[[3]], torch.zeros(1)]), "changed or combined"),
        (lambda scores: scores[[3, 1]].detach(), "score the message again"),
        (lambda scores: torch.tensor([0.3, 0.1], requires_grad=True), "another model's"),
    ],
)
def test_what_is_no_pick_is_refused_and_nothing_is_sent(
    gate: Gate, model: RemoteGatingModel, change: Any, message: str
) -> None:
    scores = change(model("why?"))
    with pytest.raises(ValueError, match=message):
        model.backward(scores, torch.tensor([1.0, 0.0]))
    assert gate.bodies("/v1/rewards") == []


def test_scores_of_two_messages_or_without_gradient_are_refused(gate: Gate, model: RemoteGatingModel) -> None:
    both = torch.stack([model("why?")[1], model("how?")[2]])
    with pytest.raises(ValueError, match="2 messages"):
        model.backward(both, torch.tensor([1.0, 0.0]))
    with torch.no_grad():
        scores = model("why?")
    with pytest.raises(ValueError, match="no_grad"):
        model.backward(scores[[1]], torch.tensor([1.0]))
    assert gate.bodies("/v1/rewards") == []


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (torch.ones(3), "one score and one reward per uid"),
        (torch.tensor([1.0, torch.nan]), "not finite"),
    ],
)
def test_bad_rewards_are_refused_and_nothing_is_sent(
    gate: Gate, model: RemoteGatingModel, rewards: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.backward(model("why?")[[1, 2]], rewards)
    assert gate.bodies("/v1/rewards") == []


def test_rewards_that_the_service_refuses_as_a_whole_are_an_error(gate: Gate, model: RemoteGatingModel) -> None:
    refusal = {"index": 0, "code": "out_of_range", "detail": "rewards must be in [0, 1]"}
    gate.instead["/v1/rewards"] = httpx.Response(200, json=report(refusal))
    with pytest.raises(ValueError, match=r"out_of_range.*\[0, 1\]"):
        model.backward(model("why?")[[1]], torch.tensor([7.0]))


def test_a_single_uid_that_is_refused_is_said_in_the_log(
    gate: Gate, model: RemoteGatingModel, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = {"index": 0, "uid": 1, "code": "stale_hotkey", "detail": "uid 1 has changed its owner"}
    gate.instead["/v1/rewards"] = httpx.Response(200, json=report(refusal))
    model.backward(model("why?")[[1, 2]], torch.tensor([1.0, 0.0]))
    assert "reward_rejected uid=1 code=stale_hotkey" in caplog.text


def test_a_report_that_failed_can_be_made_again_under_the_same_id(gate: Gate, model: RemoteGatingModel) -> None:
    scores = model("why?")[[1, 2]]
    gate.instead["/v1/rewards"] = httpx.Response(502)
    with pytest.raises(GateUnavailableError):
        model.backward(scores, torch.tensor([1.0, 0.0]))
    del gate.instead["/v1/rewards"]
    model.backward(scores, torch.tensor([1.0, 0.0]))
    ids = [body["rewards"][0]["reward_id"] for body in gate.bodies("/v1/rewards")]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    model.backward(model("why?")[[1]], torch.tensor([1.0]))
    assert gate.bodies("/v1/rewards")[-1]["rewards"][0]["reward_id"] not in ids


def test_the_loss_is_that_of_the_validators(model: RemoteGatingModel) -> None:
    loss = model.backward(model("why?")[[1, 5]], torch.tensor([0.0, 1.0]))
    expected = (torch.tensor([0.1, 0.5]).softmax(0) - torch.tensor([0.0, 1.0]).softmax(0)).square().mean()
    torch.testing.assert_close(loss, expected)
    assert not loss.requires_grad


def test_a_service_that_began_anew_is_not_waited_for(gate: Gate, model: RemoteGatingModel) -> None:
    """One whose log is in memory counts from 0 again, in a later epoch."""
    scores = model("why?")
    model.backward(scores[[0]], torch.tensor([1.0]))
    gate.version = 0
    with pytest.raises(ProblemError, match="version_pending"):
        model("why?")
    gate.epoch = 2
    model("why?")
    model("why?")
    assert gate.bodies("/v1/score")[-1] == {"messages": ["why?"]}


OLD = MetagraphView.from_hotkeys(["a", "b", "c"])
NEW = MetagraphView.from_hotkeys(["a", "x", "c"])


def test_the_service_is_told_of_a_network_that_differs_only(gate: Gate, model: RemoteGatingModel) -> None:
    model.resync(OLD, OLD)
    model.resync(OLD, SimpleNamespace(hotkeys=["a", "b", "c"]))
    assert gate.sent == []
    before = model("why?")
    model.resync(OLD, NEW)
    assert gate.bodies("/v1/admin/resync") == [None]
    with pytest.raises(ValueError, match="before a resync"):
        model.backward(before[[0]], torch.tensor([1.0]))
    model("why?")
    assert gate.bodies("/v1/score")[-1] == {"messages": ["why?"], "min_version": 1}


def test_a_caller_who_may_not_resync_goes_on_and_is_told(
    gate: Gate, model: RemoteGatingModel, caplog: pytest.LogCaptureFixture
) -> None:
    gate.instead["/v1/admin/resync"] = problem(403, "forbidden")
    with caplog.at_level(logging.WARNING):
        model.resync(OLD, NEW)
    assert "resync_not_allowed" in caplog.text
    gate.instead["/v1/admin/resync"] = problem(409, "bad_roster")
    with pytest.raises(ProblemError, match="bad_roster"):
        model.resync(OLD, NEW)


def test_the_address_is_a_setting_like_the_others() -> None:
    parser = argparse.ArgumentParser()
    RemoteGatingModel.add_args(parser)
    flags = parser.parse_args(["--gating.url", "http://gate:9000", "--gating.num_uids", "3"])
    RemoteGatingModel.check_config(flags)
    assert RemoteGatingModel(None, flags).client.url == "http://gate:9000"
    assert RemoteGatingModel(OLD, RemoteGatingModel.config(["--gating.url", "http://a"])).client.url == "http://a"
    assert RemoteGatingModel().client.url == "http://127.0.0.1:8000"
    for config in (RemoteGatingModel.config(["--gating.url", "gate:9000"]),):
        with pytest.raises(ValueError, match="expected something like http"):
            RemoteGatingModel.check_config(config)
        with pytest.raises(ValueError, match="expected something like http"):
            RemoteGatingModel(None, config)
