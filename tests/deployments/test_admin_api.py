from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.config import ApiKeyAuthArgs
from learner.checkpoint import CheckpointStore
from learner.config import AdagradConfig, RuleConfig, SoftmaxMseConfig
from learner.errors import (
    ChainUnavailableError,
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    LearnerError,
    NeedsDurableLogError,
    OverloadedError,
    RollInProgressError,
    StaleViewError,
    UnknownEventError,
    UnknownRuleError,
    UnknownVersionError,
)
from learner.events import OperatorEvent

from .local_learner import LocalLearner
from .local_service import DIM, FINGERPRINT, VIEW, LocalService
from .test_http_io import check_problem

Start = Callable[..., Awaitable[LocalService]]

KEY = "tg_admin-key"
BOSS = ApiKeyAuthArgs.model_validate(
    {
        "mode": "api_key",
        "keys": [{"id": "boss", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "scopes": ["admin", "reward"]}],
    }
)


@pytest.fixture
async def service(start: Start, tmp_path: Path) -> LocalService:
    """A replica whose learner has a place for checkpoints, called by `boss`."""
    return await _service(start, tmp_path)


@pytest.fixture
async def shadowed(start: Start, tmp_path: Path) -> LocalService:
    """The same with a shadow rule."""
    return await _service(start, tmp_path, AdagradConfig())


async def _service(start: Start, tmp_path: Path, *shadow: RuleConfig) -> LocalService:
    learner = LocalLearner(
        VIEW,
        dim=DIM,
        fingerprint=FINGERPRINT,
        rule=SoftmaxMseConfig(),
        shadow=shadow,
        checkpoints=CheckpointStore(str(tmp_path / "checkpoints"), keep=3),
    )
    service = await start(auth=BOSS, learner=learner)
    service.http.headers["Authorization"] = f"Bearer {KEY}"
    return service


async def answer(service: LocalService, method: str, path: str, body: object = None) -> Any:
    response = await service.http.request(method, f"/v1/admin/{path}", **({} if body is None else {"json": body}))
    assert response.status_code == 200, response.text
    return response.json()


async def reward(service: LocalService, name: str, value: float = 1.0) -> int:
    account = await service.reward({"reward_id": name, "message": "why?", "uids": [1, 2], "rewards": [value, 0.0]})
    version: int = account["version"]
    return version


async def weights(service: LocalService) -> Any:
    await service.subscriber.poll_once()
    current = service.subscriber.current
    assert current is not None
    return current.snapshot.weight.tolist()


def actions(service: LocalService) -> list[tuple[str, str]]:
    events = [event for batch in service.learner.core.log.batches(0) for event in batch]
    return [(event.action.value, event.author) for event in events if isinstance(event, OperatorEvent)]


async def test_a_checkpoint_is_saved_named_and_listed_newest_first(service: LocalService) -> None:
    await reward(service, "a")
    first = await answer(service, "POST", "checkpoint")
    assert set(first) == {"name", "version", "epoch", "created_at", "digest", "frozen"}
    assert (first["version"], first["epoch"], first["frozen"]) == (2, 1, False)
    second = await answer(service, "POST", "checkpoint", {})
    assert await answer(service, "GET", "checkpoints") == {"checkpoints": [second, first]}
    assert (await service.http.get("/v1/state")).status_code == 403


async def test_frozen_rewards_are_kept_apart_and_learned_after_the_thaw(service: LocalService) -> None:
    assert await answer(service, "POST", "freeze") == {"frozen": True, "version": 1}
    before = await weights(service)
    await reward(service, "a")
    assert await weights(service) == before
    page = await answer(service, "GET", "quarantine")
    assert page == {
        "quarantined": 1,
        "events": [
            {"seq": 2, "reason": "frozen", "reward_id": "a", "uids": [1, 2], "rewards": [1.0, 0.0], "author": "boss"}
        ],
    }
    assert await answer(service, "POST", "freeze", {"frozen": False}) == {"frozen": False, "version": 3}
    assert await weights(service) != before
    assert (await answer(service, "GET", "quarantine"))["quarantined"] == 0


async def test_a_rollback_publishes_the_old_weights_as_a_new_version_and_holds_what_came_after(
    service: LocalService,
) -> None:
    version = await reward(service, "a")
    good = await weights(service)
    for name in "bcd":
        await reward(service, name, 0.5)
    assert await answer(service, "POST", "rollback", {"version": version}) == {
        "restored": version,
        "version": 5,
        "quarantined": 3,
    }
    assert await weights(service) == good
    assert service.subscriber.current is not None
    assert service.subscriber.current.snapshot.version == 5
    page = await answer(service, "GET", "quarantine?after=2&limit=1")
    assert (page["quarantined"], [event["seq"] for event in page["events"]]) == (3, [3])
    assert page["events"][0]["reason"] == "rolled_back"
    settled = await answer(service, "POST", "quarantine", {"action": "drop", "seqs": [3]})
    assert settled == {"version": 6, "quarantined": 2}
    assert await weights(service) == good
    settled = await answer(service, "POST", "quarantine", {"action": "readmit"})
    assert settled == {"version": 7, "quarantined": 0}
    assert await weights(service) != good


async def test_a_rollback_goes_to_a_checkpoint_by_its_name(service: LocalService) -> None:
    await reward(service, "a")
    saved = await answer(service, "POST", "checkpoint")
    await reward(service, "b")
    result = await answer(service, "POST", "rollback", {"checkpoint": saved["name"]})
    assert (result["restored"], result["quarantined"]) == (saved["version"], 1)


async def test_a_shadow_is_promoted_by_its_label_and_serves_from_a_version_of_its_own(
    shadowed: LocalService,
) -> None:
    service = shadowed
    version = await reward(service, "a")
    before = await weights(service)
    promoted = await answer(service, "POST", "promote", {"rule": "adagrad"})
    assert (promoted["rule"], promoted["version"]) == ("adagrad", version + 1)
    assert {label: rule["serves"] for label, rule in promoted["rules"].items()} == {
        "adagrad": True,
        "softmax_mse": False,
    }
    assert promoted["rules"]["adagrad"]["served_since"] == version + 1
    assert await weights(service) != before
    check_problem(await service.post("/v1/admin/promote", {"rule": "adagrad"}), 404, "unknown_rule")
    await answer(service, "POST", "promote", {"rule": "softmax_mse"})
    assert await weights(service) == before
    assert actions(service) == [("shadow", "configuration"), ("promote", "boss"), ("promote", "boss")]


async def test_a_held_reward_of_a_decision_names_the_decision(start: Start) -> None:
    service = await start()
    await service.post("/v1/admin/freeze", {})
    [chosen] = await service.select(["why?"], k=1)
    await service.reward({"decision_id": chosen["decision_id"], "uids": chosen["uids"], "rewards": [0.5]})
    [event] = (await service.http.get("/v1/admin/quarantine")).json()["events"]
    assert event["decision_id"] == chosen["decision_id"]
    assert "reward_id" not in event


async def test_every_action_is_logged_with_who_asked_for_it(service: LocalService) -> None:
    version = await reward(service, "a")
    await answer(service, "POST", "resync")
    await answer(service, "POST", "checkpoint")
    await answer(service, "POST", "freeze")
    await answer(service, "POST", "freeze", {"frozen": False})
    await answer(service, "POST", "rollback", {"version": version})
    await answer(service, "POST", "quarantine", {"action": "readmit"})
    await answer(service, "POST", "quarantine", {"action": "drop"})
    names = ["resync", "checkpoint", "freeze", "thaw", "rollback", "readmit", "drop"]
    assert actions(service) == [(name, "boss") for name in names]


async def test_an_erasure_is_logged_with_who_asked_for_it(start: Start) -> None:
    service = await start()
    [chosen] = await service.select(["why?"], k=1)
    assert (await service.http.delete(f"/v1/decisions/{chosen['decision_id']}")).status_code == 200
    assert actions(service) == [("erase", "anonymous")]


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("checkpoint", {"name": "mine"}, "name"),
        ("checkpoint", [], "body"),
        ("promote", {"rule": ""}, "rule"),
        ("promote", {"rule": 3}, "rule"),
        ("promote", {}, "rule"),
        ("promote", {"rule": "adagrad", "now": True}, "now"),
        ("freeze", {"frozen": 1}, "frozen"),
        ("freeze", {"frozen": "yes"}, "frozen"),
        ("freeze", {"frozen": None}, "frozen"),
        ("freeze", {"thaw": True}, "thaw"),
        ("rollback", {}, "give either version or checkpoint"),
        ("rollback", {"version": 1, "checkpoint": "c"}, "give either version or checkpoint"),
        ("rollback", {"version": -1}, "version"),
        ("rollback", {"version": "1"}, "version"),
        ("rollback", {"version": True}, "version"),
        ("rollback", {"checkpoint": ""}, "checkpoint"),
        ("rollback", {"checkpoint": 7}, "checkpoint"),
        ("rollback", {"version": 1, "dry": True}, "dry"),
        ("quarantine", {}, "action"),
        ("quarantine", {"action": "forget"}, "action"),
        ("quarantine", {"action": "drop", "seqs": []}, "seqs"),
        ("quarantine", {"action": "drop", "seqs": [0]}, "seqs.0"),
        ("quarantine", {"action": "drop", "seqs": ["1"]}, "seqs.0"),
        ("quarantine", {"action": "drop", "seqs": 1}, "seqs"),
        ("quarantine", {"action": "drop", "all": True}, "all"),
        ("authors", {"author": "x"}, "standing"),
        ("authors", {"standing": "auto"}, "author"),
        ("authors", {"author": "", "standing": "auto"}, "author"),
        ("authors", {"author": "x", "standing": "quarantined"}, "standing"),
        ("authors", {"author": "x" * 201, "standing": "auto"}, "author"),
    ],
)
async def test_a_malformed_action_is_a_422_that_names_the_place_and_does_nothing(
    service: LocalService, path: str, body: object, place: str
) -> None:
    before = service.everything()
    response = await service.post(f"/v1/admin/{path}", body)
    assert place in check_problem(response, 422, "invalid_request")["detail"]
    assert service.everything() == before


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("after=-1", "after"),
        ("after=x", "after"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=", "limit"),
        ("before=3", "before"),
    ],
)
async def test_a_malformed_page_of_the_quarantine_is_a_422_that_names_the_place(
    service: LocalService, query: str, place: str
) -> None:
    response = await service.http.get(f"/v1/admin/quarantine?{query}")
    assert check_problem(response, 422, "invalid_request")["detail"].startswith(f"{place}:")


@pytest.mark.parametrize("path", ["rollback", "quarantine", "authors"])
async def test_a_body_that_must_say_something_must_be_there(service: LocalService, path: str) -> None:
    check_problem(await service.http.post(f"/v1/admin/{path}"), 415, "unsupported_media_type")
    json = {"Content-Type": "application/json"}
    check_problem(await service.http.post(f"/v1/admin/{path}", content=b"", headers=json), 400, "malformed_json")


@pytest.mark.parametrize("path", ["checkpoint", "freeze"])
async def test_a_body_where_everything_is_optional_may_be_absent_but_not_malformed(
    service: LocalService, path: str
) -> None:
    json = {"Content-Type": "application/json"}
    for content, headers in ((b"", {}), (b"", json), (b" \n", json), (b"{}", json)):
        response = await service.http.post(f"/v1/admin/{path}", content=content, headers=headers)
        assert response.status_code == 200, response.text
    check_problem(await service.http.post(f"/v1/admin/{path}", content=b"{", headers=json), 400, "malformed_json")
    response = await service.http.post(f"/v1/admin/{path}", content=b"{}", headers={"Content-Type": "text/plain"})
    check_problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("error", "status", "code", "retries"),
    [
        (NeedsDurableLogError("in memory"), 501, "not_available", False),
        (UnknownVersionError("no version 7"), 404, "unknown_version", False),
        (UnknownEventError("no event 7"), 404, "unknown_event", False),
        (UnknownRuleError("no rule"), 404, "unknown_rule", False),
        (CheckpointError("disk full"), 503, "checkpoint_failed", True),
        (CheckpointCorruptError("altered"), 503, "checkpoint_failed", True),
        (ChainUnavailableError("no node"), 503, "chain_unavailable", True),
        (OverloadedError("later"), 429, "overloaded", True),
        (RollInProgressError("two kinds of replicas"), 409, "roll_in_progress", True),
        (CheckpointMismatchError("of another rule"), 409, "refused", False),
        (StaleViewError("older"), 409, "refused", False),
        (LearnerError("no"), 409, "refused", False),
    ],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("resync", None),
        ("checkpoint", None),
        ("handover", None),
        ("freeze", None),
        ("rollback", {"version": 0}),
        ("quarantine", {"action": "drop"}),
        ("promote", {"rule": "adagrad"}),
        ("authors", {"author": "x", "standing": "auto"}),
    ],
)
async def test_what_the_learner_refuses_becomes_its_problem_with_the_reason(
    service: LocalService, path: str, body: object, error: LearnerError, status: int, code: str, retries: bool
) -> None:
    service.learner.refuses = error
    response = await service.http.post(f"/v1/admin/{path}", **({} if body is None else {"json": body}))
    assert check_problem(response, status, code)["detail"] == str(error)
    assert ("retry-after" in response.headers) == retries


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("rollback", {"version": 999}, "unknown_version"),
        ("quarantine", {"action": "drop", "seqs": [999]}, "unknown_event"),
        ("promote", {"rule": "rule-999"}, "unknown_rule"),
    ],
)
async def test_what_is_not_there_is_a_404(service: LocalService, path: str, body: object, code: str) -> None:
    assert "999" in check_problem(await service.post(f"/v1/admin/{path}", body), 404, code)["detail"]


@pytest.mark.parametrize("path", ["resync", "checkpoint", "handover", "freeze"])
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"json": {"foo": 1}}, 422, "invalid_request"),
        ({"json": []}, 422, "invalid_request"),
        ({"content": "{bad", "headers": {"Content-Type": "application/json"}}, 400, "malformed_json"),
        ({"content": "x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
    ],
)
async def test_a_body_that_may_be_left_out_has_to_be_right_all_the_same(
    service: LocalService, path: str, sent: dict[str, Any], status: int, code: str
) -> None:
    before = service.everything()
    check_problem(await service.http.post(f"/v1/admin/{path}", **sent), status, code)
    assert service.everything() == before


async def test_the_openapi_schema_documents_every_action(service: LocalService) -> None:
    paths = service.api.openapi()["paths"]
    bodies = {
        "resync": (set(), False),
        "checkpoint": (set(), False),
        "handover": (set(), False),
        "freeze": ({"frozen"}, False),
    }
    bodies |= {"rollback": ({"version", "checkpoint"}, True), "quarantine": ({"action", "seqs"}, True)}
    bodies |= {"promote": ({"rule"}, True)}
    bodies |= {"authors": ({"author", "standing"}, True)}
    for path, (keys, required) in bodies.items():
        operation = paths[f"/v1/admin/{path}"]["post"]
        body = operation["requestBody"]
        schema = body["content"]["application/json"]["schema"]
        assert (set(schema["properties"]), schema["additionalProperties"]) == (keys, False)
        assert body["required"] is required
        assert {"200", "409", "422", "503"} <= set(operation["responses"])
    page = paths["/v1/admin/quarantine"]["get"]
    assert {parameter["name"]: parameter["schema"].get("maximum") for parameter in page["parameters"]} == {
        "after": None,
        "limit": 1000,
    }
    assert "requestBody" not in page
    assert "501" in paths["/v1/admin/checkpoint"]["post"]["responses"]
    assert "404" in paths["/v1/admin/rollback"]["post"]["responses"]
    assert "/v1/admin/checkpoints" in paths
    assert "/v1/admin/{action}" not in paths


async def test_an_author_is_distrusted_seen_and_left_to_itself_again(service: LocalService) -> None:
    await reward(service, "m-1")
    before = await weights(service)
    assert await answer(service, "POST", "authors", {"author": "boss", "standing": "distrusted"}) == {
        "author": "boss",
        "standing": "distrusted",
        "seq": 2,
    }
    await reward(service, "m-2")
    assert await weights(service) == before
    [author] = (await answer(service, "GET", "authors"))["authors"]
    assert (author["author"], author["standing"], author["weight"]) == ("boss", "distrusted", 0.0)
    assert author["recent_rewards"] == pytest.approx(4.0)
    held = await answer(service, "GET", "quarantine")
    assert [(event["seq"], event["reason"], event["author"]) for event in held["events"]] == [(3, "author", "boss")]
    state = (await service.learner.describe())["learner"]
    assert state["trust"]["distrusted"] == ["boss"]
    assert state["quarantine"]["author"] == 1
    assert state["counters"]["rewards_quarantined"] == 2
    await answer(service, "POST", "authors", {"author": "boss", "standing": "auto"})
    await answer(service, "POST", "quarantine", {"action": "readmit"})
    await reward(service, "m-3")
    assert await weights(service) != before
    assert (await answer(service, "GET", "quarantine"))["quarantined"] == 0
    assert actions(service) == [("standing", "boss"), ("standing", "boss"), ("readmit", "boss")]
