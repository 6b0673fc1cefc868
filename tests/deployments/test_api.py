from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi.openapi.models import OpenAPI
from pydantic import BaseModel, ValidationError

from deployments.config import ServingArgs
from deployments.schemas import RewardsRequest, ScoreRequest, SelectRequest, SettleRequest
from gating.metagraph import MetagraphView
from learner.errors import ChainUnavailableError, StaleViewError

from .local_service import FINGERPRINT, UNAVAILABLE, LocalService, N
from .test_http_io import check_problem

Start = Callable[..., Awaitable[LocalService]]

NAN, INF = float("nan"), float("inf")
JSON = {"Content-Type": "application/json"}
BODIES: dict[str, type[BaseModel]] = {
    "/v1/score": ScoreRequest,
    "/v1/select": SelectRequest,
    "/v1/rewards": RewardsRequest,
    "/v1/admin/quarantine": SettleRequest,
}
REWARD = {"decision_id": "r-1", "uids": [1, 2], "rewards": [0.5, 0.25]}


def scoring(**changed: Any) -> dict[str, Any]:
    return {"messages": ["why?"], **changed}


def rewarding(**changed: Any) -> dict[str, Any]:
    return {"rewards": [{**REWARD, **changed}]}


BAD_SCORING: dict[str, tuple[object, str]] = {
    "no object": ([], "body"),
    "no messages key": ({}, "messages"),
    "no messages": (scoring(messages=[]), "messages"),
    "257 messages": (scoring(messages=["why?"] * 257), "messages"),
    "null messages": (scoring(messages=None), "messages"),
    "one string": (scoring(messages="why?"), "messages"),
    "empty message": (scoring(messages=["why?", ""]), "messages.1"),
    "blank message": (scoring(messages=[" \n"]), "messages.0"),
    "number as message": (scoring(messages=[7]), "messages.0"),
    "null as message": (scoring(messages=[None]), "messages.0"),
    "list as message": (scoring(messages=[["why?"]]), "messages.0"),
    "unknown key": (scoring(topk=3), "topk"),
    "no uids": (scoring(uids=[]), "uids"),
    "negative uid": (scoring(uids=[-1]), "uids.0"),
    "uid as string": (scoring(uids=["1"]), "uids.0"),
    "uid as float": (scoring(uids=[1.0]), "uids.0"),
    "uid as bool": (scoring(uids=[True]), "uids.0"),
    "uid is NaN": (scoring(uids=[NAN]), "uids.0"),
    "uids as a number": (scoring(uids=1), "uids"),
    "negative min_version": (scoring(min_version=-1), "min_version"),
    "min_version as string": (scoring(min_version="1"), "min_version"),
    "min_version as float": (scoring(min_version=1.0), "min_version"),
    "min_version as bool": (scoring(min_version=False), "min_version"),
}
BAD_SCORE: dict[str, tuple[object, str]] = {
    "top_k is 0": (scoring(top_k=0), "top_k"),
    "top_k is negative": (scoring(top_k=-3), "top_k"),
    "top_k as string": (scoring(top_k="3"), "top_k"),
    "top_k as float": (scoring(top_k=3.0), "top_k"),
    "top_k as bool": (scoring(top_k=True), "top_k"),
    "k belongs to select": (scoring(k=3), "k"),
}
BAD_SELECT: dict[str, tuple[object, str]] = {
    "k is 0": (scoring(k=0), "k"),
    "k is negative": (scoring(k=-1), "k"),
    "k is null": (scoring(k=None), "k"),
    "k as string": (scoring(k="4"), "k"),
    "k as float": (scoring(k=4.0), "k"),
    "k as bool": (scoring(k=True), "k"),
    "k is infinite": (scoring(k=INF), "k"),
    "explore as number": (scoring(explore=1), "explore"),
    "explore as string": (scoring(explore="true"), "explore"),
    "durable as number": (scoring(durable=0), "durable"),
    "top_k belongs to score": (scoring(top_k=3), "top_k"),
}
BAD_REWARDS: dict[str, tuple[object, str]] = {
    "no rewards": ({"rewards": []}, "rewards"),
    "no rewards key": ({}, "rewards"),
    "a list": ([REWARD], "body"),
    "unknown key outside": ({"rewards": [REWARD], "durable": True}, "durable"),
    "unknown key inside": (rewarding(uid=3), "rewards.0.uid"),
    "unknown wait": ({"rewards": [REWARD], "wait": "learned"}, "wait"),
    "fewer rewards than uids": (rewarding(rewards=[0.5]), "1 values for 2 uids"),
    "more rewards than uids": (rewarding(rewards=[0.5] * 3), "3 values for 2 uids"),
    "no uids": (rewarding(uids=[], rewards=[]), "rewards.0.uids"),
    "repeated uid": (rewarding(uids=[1, 1]), "names a uid twice"),
    "negative uid": (rewarding(uids=[1, -2]), "rewards.0.uids.1"),
    "uid as string": (rewarding(uids=["1", 2]), "rewards.0.uids.0"),
    "uid as float": (rewarding(uids=[1.0, 2]), "rewards.0.uids.0"),
    "uid as bool": (rewarding(uids=[True, 2]), "rewards.0.uids.0"),
    "reward is NaN": (rewarding(rewards=[0.5, NAN]), "rewards.0.rewards.1"),
    "reward is infinite": (rewarding(rewards=[INF, 0.5]), "rewards.0.rewards.0"),
    "reward is minus infinite": (rewarding(rewards=[-INF, 0.5]), "rewards.0.rewards.0"),
    "reward as string": (rewarding(rewards=["0.5", 0.5]), "rewards.0.rewards.0"),
    "reward as bool": (rewarding(rewards=[True, 0.5]), "rewards.0.rewards.0"),
    "reward is null": (rewarding(rewards=[None, 0.5]), "rewards.0.rewards.0"),
    "neither id": (rewarding(decision_id=None), "give either"),
    "both ids": (rewarding(reward_id="mine", message="why?"), "give either"),
    "id without message": (rewarding(decision_id=None, reward_id="mine"), "give either"),
    "empty id": (rewarding(decision_id=""), "rewards.0.decision_id"),
    "overlong id": (rewarding(decision_id="x" * 201), "rewards.0.decision_id"),
    "id as number": (rewarding(decision_id=1), "rewards.0.decision_id"),
    "blank message": (rewarding(decision_id=None, reward_id="mine", message=" "), "rewards.0.message"),
    "one bad item among good ones": ({"rewards": [REWARD, {**REWARD, "rewards": [0.5]}]}, "rewards.1"),
}
BAD = [
    pytest.param(path, body, place, id=f"{path[4:]}: {name}")
    for path, table in (
        ("/v1/score", BAD_SCORING | BAD_SCORE),
        ("/v1/select", BAD_SCORING | BAD_SELECT),
        ("/v1/rewards", BAD_REWARDS),
    )
    for name, (body, place) in table.items()
]


@pytest.mark.parametrize(("path", "body", "place"), BAD)
async def test_a_malformed_request_is_a_422_that_names_the_place_and_changes_nothing(
    service: LocalService, path: str, body: object, place: str
) -> None:
    before = service.everything()
    content = json.dumps(body)
    response = await service.http.post(path, content=content, headers={"Content-Type": "application/json"})
    detail = check_problem(response, 422, "invalid_request")["detail"]
    assert detail.startswith(f"{place}:") or (" " in place and place in detail), detail
    assert service.everything() == before
    assert service.engine.batches == []


@pytest.mark.parametrize("path", ["/v1/score", "/v1/select"])
@pytest.mark.parametrize(
    ("uids", "code", "named"),
    [([1, N], "unknown_uid", str(N)), ([10**30], "unknown_uid", "0 to 9"), ([2, 5, 2], "repeated_uid", "twice")],
)
async def test_an_unknown_or_repeated_uid_is_a_422_before_anything_is_encoded(
    service: LocalService, path: str, uids: list[int], code: str, named: str
) -> None:
    before = service.everything()
    document = check_problem(await service.post(path, scoring(uids=uids)), 422, code)
    assert named in document["detail"]
    assert service.everything() == before
    assert service.engine.batches == []


async def test_an_unknown_uid_anywhere_in_a_report_refuses_all_of_it(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=1)
    await service.decisions.flush()
    before = service.everything()
    good = {"decision_id": chosen["decision_id"], "uids": chosen["uids"], "rewards": [1.0]}
    body = {"rewards": [good, {**REWARD, "uids": [1, N]}]}
    document = check_problem(await service.post("/v1/rewards", body), 422, "unknown_uid")
    assert "rewards[1] names uid 10" in document["detail"]
    assert service.everything() == before


@pytest.mark.parametrize("path", ["/v1/score", "/v1/select"])
async def test_a_message_over_the_size_limit_is_a_422_that_names_it(start: Start, path: str) -> None:
    service = await start(serving=ServingArgs(max_message_chars=20))
    before = service.everything()
    document = check_problem(await service.post(path, scoring(messages=["x" * 20, "x" * 21])), 422, "message_too_long")
    assert "messages[1] has 21 characters; at most 20 fit" in document["detail"]
    assert service.everything() == before
    assert service.engine.batches == []
    assert (await service.post(path, scoring(messages=["x" * 20]))).status_code == 200


async def test_a_rewarded_message_over_the_size_limit_refuses_the_report(start: Start) -> None:
    service = await start(serving=ServingArgs(max_message_chars=20))
    before = service.everything()
    body = rewarding(decision_id=None, reward_id="mine", message="x" * 21)
    check_problem(await service.post("/v1/rewards", body), 422, "message_too_long")
    assert service.everything() == before


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/score/", 404, "not_found"),
        ("POST", "/v1/admin/explode", 404, "not_found"),
        ("GET", "/v1/decisions/r-1", 404, "unknown_decision"),
        ("DELETE", "/v1/decisions/r-1", 404, "unknown_decision"),
        ("GET", "/v1/score", 405, "method_not_allowed"),
        ("PUT", "/v1/rewards", 405, "method_not_allowed"),
        ("GET", "/v1/admin/resync", 405, "method_not_allowed"),
        ("POST", "/v1/admin/checkpoint", 501, "not_available"),
        ("POST", "/v1/admin/rollback", 415, "unsupported_media_type"),
    ],
)
async def test_every_error_is_a_problem_document(
    service: LocalService, method: str, path: str, status: int, code: str
) -> None:
    response = await service.http.request(method, path)
    check_problem(response, status, code)
    if status == 405:
        assert response.headers["allow"]


async def test_durable_selections_cannot_be_had_of_a_log_in_memory(service: LocalService) -> None:
    before = service.everything()
    document = check_problem(await service.post("/v1/select", scoring(durable=True)), 501, "not_available")
    assert "set learner.log.url" in document["detail"]
    assert service.everything() == before
    assert service.engine.batches == []


async def test_an_unexpected_error_is_a_500_that_tells_nothing_of_the_inside(
    service: LocalService, caplog: pytest.LogCaptureFixture
) -> None:
    service.engine.failing["poison"] = RuntimeError("secret inside")
    with caplog.at_level(logging.CRITICAL):
        response = await service.post("/v1/score", scoring(messages=["poison"]))
    check_problem(response, 500, "internal")
    assert "secret" not in response.text
    assert (await service.post("/v1/score", scoring())).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/rewards", rewarding()),
        ("GET", "/v1/uids", None),
        ("GET", "/v1/decisions/r-1", None),
        ("DELETE", "/v1/decisions/r-1", None),
        ("POST", "/v1/admin/resync", None),
        ("POST", "/v1/admin/checkpoint", None),
        ("GET", "/v1/admin/checkpoints", None),
        ("POST", "/v1/admin/freeze", None),
        ("POST", "/v1/admin/rollback", {"version": 0}),
        ("GET", "/v1/admin/quarantine", None),
        ("POST", "/v1/admin/quarantine", {"action": "drop"}),
        ("GET", "/v1/admin/authors", None),
        ("POST", "/v1/admin/authors", {"author": "x", "standing": "auto"}),
    ],
)
async def test_what_needs_the_learner_is_a_503_to_be_tried_again_while_it_is_away(
    service: LocalService, method: str, path: str, body: object
) -> None:
    await service.select(["why?"])
    service.learner.away = True
    response = await service.http.request(method, path, json=body) if body else await service.http.request(method, path)
    document = check_problem(response, 503, "learner_away")
    assert document["detail"].startswith("the learner is away (switched away): nothing was acknowledged")
    assert int(response.headers["retry-after"]) >= 1


async def test_alive_does_not_mean_ready(start: Start) -> None:
    service = await start(subscribed=False)
    assert (await service.http.get("/healthz")).json() == {"status": "alive"}
    response = await service.http.get("/readyz")
    check_problem(response, 503, "no_weights")
    assert int(response.headers["retry-after"]) >= 1
    await service.subscriber.poll_once()
    ready = await service.http.get("/readyz")
    assert (ready.status_code, ready.json()["status"], ready.json()["degraded"]) == (200, "ready", False)
    service.now_s += 11
    assert (await service.http.get("/readyz")).json()["degraded"] is True


async def test_the_table_of_uids_counts_selections_and_rewards(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=1)
    uid = chosen["uids"][0]
    await service.reward({"decision_id": chosen["decision_id"], "uids": [uid], "rewards": [0.75]})
    rows = (await service.http.get("/v1/uids")).json()["uids"]
    assert [row["uid"] for row in rows] == list(range(N))
    assert [row["uid"] for row in rows if not row["available"]] == [UNAVAILABLE]
    assert (rows[uid]["hotkey"], rows[uid]["selections"], rows[uid]["mean_reward"]) == (f"hotkey-{uid}", 1, 0.75)


async def test_a_decision_is_explained_from_the_moment_it_was_answered(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=2)
    # Nothing has sent the decision to the learner yet.
    explained = (await service.http.get(f"/v1/decisions/{chosen['decision_id']}")).json()
    assert explained["id"] == chosen["decision_id"]
    for name in ("uids", "scores", "propensities"):
        assert explained[name] == pytest.approx(chosen[name])
    assert explained["hotkeys"] == [f"hotkey-{uid}" for uid in chosen["uids"]]
    assert (explained["epoch"], explained["version"], explained["candidates"]) == (1, 0, N - 1)
    assert (explained["embedding"], explained["rewards"]) == ("float16[8]", {})
    await service.reward({"decision_id": chosen["decision_id"], "uids": chosen["uids"][:1], "rewards": [0.5]})
    explained = (await service.http.get(f"/v1/decisions/{chosen['decision_id']}")).json()
    assert explained["rewards"] == {str(chosen["uids"][0]): 0.5}


async def test_an_erased_embedding_is_gone_and_later_rewards_are_rejected(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=1)
    path = f"/v1/decisions/{chosen['decision_id']}"
    assert (await service.http.delete(path)).json() == {"id": chosen["decision_id"], "embedding": "erased"}
    assert (await service.http.get(path)).json()["embedding"] == "erased"
    account = await service.reward({"decision_id": chosen["decision_id"], "uids": chosen["uids"], "rewards": [1.0]})
    assert account["accepted"] == 0
    assert [rejected["code"] for rejected in account["rejected"]] == ["embedding_erased"]


async def test_resync_tells_what_changed_and_new_weights_show_it(service: LocalService) -> None:
    hotkeys = [f"hotkey-{uid}" for uid in range(N)]
    service.learner.network = MetagraphView.from_hotkeys(["newcomer", *hotkeys[1:], "eleventh"], netuid=7, block=101)
    summary = (await service.http.post("/v1/admin/resync")).json()
    assert (summary["block"], summary["n"], summary["reset"], summary["added"]) == (101, N + 1, [0], [N])
    await service.subscriber.poll_once()
    answer = (await service.post("/v1/score", scoring())).json()
    assert answer["metagraph"] == {"netuid": 7, "block": 101, "n": N + 1}
    assert answer["weights"]["version"] == summary["seq"]


async def test_what_the_learner_refuses_is_a_409_with_its_reason(service: LocalService) -> None:
    service.learner.network = MetagraphView.from_hotkeys(["someone"], netuid=7, block=1)
    document = check_problem(await service.http.post("/v1/admin/resync"), 409, "refused")
    assert "block 1 is older" in document["detail"]
    with pytest.raises(StaleViewError):
        await service.learner.resync()


async def test_a_chain_that_cannot_be_read_is_a_503_with_its_cause(
    service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(author: str) -> None:
        raise ChainUnavailableError("wss://node: no answer within 30 s")

    monkeypatch.setattr(service.learner, "resync", fail)
    response = await service.http.post("/v1/admin/resync")
    document = check_problem(response, 503, "chain_unavailable")
    assert document["detail"] == "wss://node: no answer within 30 s"
    assert int(response.headers["retry-after"]) >= 1


async def test_the_docs_page_refers_to_no_other_host(service: LocalService) -> None:
    page = await service.http.get("/docs")
    assert page.status_code == 200
    references = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", page.text)
    assert any(reference.endswith(".js") for reference in references)
    assert any(reference.endswith(".css") for reference in references)
    for reference in references:
        assert re.match(r"/(?!/)", reference), reference
        assert (await service.http.get(reference)).status_code == 200, reference
    assert not re.search(r"https?:(?!//www\.w3\.org/)|[\"'(]//", page.text)


@pytest.mark.parametrize(
    ("path", "methods"), [("/v1/admin/quarantine", "GET, POST"), ("/v1/score", "POST"), ("/healthz", "GET, HEAD")]
)
async def test_a_wrong_method_is_told_which_there_are(service: LocalService, path: str, methods: str) -> None:
    response = await service.http.delete(path)
    check_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == methods


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_load_balancers_may_ask_with_head(service: LocalService, path: str) -> None:
    response = await service.http.head(path)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", '{"messages": ["a"], "uids": [%s]}'),
        ("/v1/score", '{"messages": [%s]}'),
        ("/v1/select", '{"messages": ["a"], "uids": [%s]}'),
        ("/v1/rewards", '{"rewards": [{"decision_id": "a", "uids": [%s], "rewards": [1]}]}'),
        ("/v1/rewards", '{"rewards": [{"decision_id": "a", "uids": [1], "rewards": [%s]}]}'),
        ("/v1/rewards", '{"rewards": [%s]}'),
        ("/v1/admin/quarantine", '{"action": "drop", "seqs": [%s]}'),
    ],
)
async def test_of_a_long_list_the_first_error_is_told(service: LocalService, path: str, body: str) -> None:
    """To list all of a body that may be sent would take gigabytes, and the event loop's time."""
    with pytest.raises(ValidationError) as caught:
        BODIES[path].model_validate_json(body % ", ".join(['""'] * 2000))
    assert caught.value.error_count() < 10
    response = await service.http.post(path, content=body % ", ".join(['""'] * 2000), headers=JSON)
    check_problem(response, 422, "invalid_request")
    assert ".0: " in response.json()["detail"]


async def test_of_many_unknown_keys_their_number_is_told(service: LocalService) -> None:
    keys = {f"key{number}": number for number in range(1000)}
    response = await service.post("/v1/score", {"messages": ["why?"], **keys})
    check_problem(response, 422, "invalid_request")
    assert "1000 keys" in response.json()["detail"]
    few = await service.post("/v1/score", {"messages": ["why?"], "topk": 1})
    assert few.json()["detail"].startswith("topk: ")


async def test_the_openapi_schema_is_valid_and_documents_every_body(service: LocalService) -> None:
    schema = (await service.http.get("/openapi.json")).json()
    OpenAPI.model_validate(schema)
    references = re.findall(r'"\$ref": ?"#/([^"]+)"', json.dumps(schema))
    for reference in references:
        node = schema
        for part in reference.split("/"):
            node = node[part]
    for path, keys in (
        ("/v1/score", {"messages", "top_k", "uids", "min_version"}),
        ("/v1/select", {"messages", "k", "uids", "explore", "durable", "min_version"}),
        ("/v1/rewards", {"rewards", "wait"}),
    ):
        operation = schema["paths"][path]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["properties"]) == keys
        assert body["additionalProperties"] is False
        assert {"200", "400", "413", "415", "422", "429", "503"} <= set(operation["responses"])
    answers = schema["paths"]["/v1/score"]["post"]["responses"]
    assert set(answers["200"]["content"]) == {"application/json", "application/octet-stream"}
    assert "float32" in answers["200"]["content"]["application/octet-stream"]["schema"]["description"]
    assert "406" in answers
    reward = schema["paths"]["/v1/rewards"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "decision_id" in reward["properties"]["rewards"]["items"]["properties"]
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                kind = "application/json" if status == "200" else "application/problem+json"
                assert kind in answer["content"], (path, status)
    assert "404" in schema["paths"]["/v1/decisions/{decision_id}"]["get"]["responses"]
    assert "/" not in schema["paths"]
    assert FINGERPRINT not in json.dumps(schema)
