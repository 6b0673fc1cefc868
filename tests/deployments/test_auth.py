from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from deployments.auth import check_exposure
from deployments.config import NOT_CALLERS, ApiKeyAuthArgs, ApiKeyEntry, NoAuthArgs
from deployments.errors import ExposureError
from learner.events import ANONYMOUS
from learner.rewards import DEFAULT_AUTHOR
from learner.trust import TRUST

from .local_service import LocalService
from .test_http_io import check_problem

Start = Callable[..., Awaitable[LocalService]]

KEYS = {"scorer": ("tg_score-key", "score"), "judge": ("tg_reward-key", "reward"), "boss": ("tg_admin-key", "admin")}
AUTH = ApiKeyAuthArgs.model_validate(
    {
        "mode": "api_key",
        "keys": [
            {"id": caller, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": [scope]}
            for caller, (key, scope) in KEYS.items()
        ],
    }
)
REWARD = {"reward_id": "mine", "message": "why?", "uids": [3], "rewards": [0.5]}
ROUTES: list[tuple[str, str, object, str]] = [
    ("POST", "/v1/score", {"messages": ["why?"]}, "score"),
    ("POST", "/v1/select", {"messages": ["why?"]}, "score"),
    ("GET", "/v1/state", None, "score"),
    ("GET", "/v1/uids", None, "score"),
    ("GET", "/v1/decisions/r-1", None, "score"),
    ("POST", "/v1/rewards", {"rewards": [REWARD]}, "reward"),
    ("DELETE", "/v1/decisions/r-1", None, "admin"),
    ("POST", "/v1/admin/resync", None, "admin"),
    ("POST", "/v1/admin/checkpoint", None, "admin"),
    ("GET", "/v1/admin/checkpoints", None, "admin"),
    ("POST", "/v1/admin/freeze", None, "admin"),
    ("POST", "/v1/admin/rollback", {"version": 0}, "admin"),
    ("GET", "/v1/admin/quarantine", None, "admin"),
    ("POST", "/v1/admin/quarantine", {"action": "drop"}, "admin"),
    ("POST", "/v1/admin/promote", {"rule": "adagrad"}, "admin"),
    ("POST", "/v1/admin/handover", None, "admin"),
    ("GET", "/v1/admin/authors", None, "admin"),
    ("POST", "/v1/admin/authors", {"author": "x", "standing": "auto"}, "admin"),
    ("POST", "/v1/admin/explode", None, "admin"),
]
OPEN = ("/", "/console/main.js", "/healthz", "/readyz", "/docs", "/openapi.json")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def call(service: LocalService, method: str, path: str, body: object, headers: dict[str, str]) -> httpx.Response:
    return await service.http.request(method, path, headers=headers, **({} if body is None else {"json": body}))


def routes_of(service: LocalService) -> set[tuple[str, str]]:
    schema = service.api.openapi()
    return {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "localhost"])
def test_without_authentication_loopback_is_fine(host: str) -> None:
    check_exposure(NoAuthArgs(), host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "192.168.1.4", "gate.example", "localhost.example", "1"])
def test_without_authentication_everything_else_is_refused_by_name(host: str) -> None:
    with pytest.raises(ExposureError, match=r"set http_options\.host to 127\.0\.0\.1") as caught:
        check_exposure(NoAuthArgs(), host)
    assert f"http_options.host is {host};" in str(caught.value)


@pytest.mark.parametrize("host", [None, ""])
def test_no_host_means_every_interface_and_is_refused(host: str | None) -> None:
    with pytest.raises(ExposureError, match="not set, which means every interface"):
        check_exposure(NoAuthArgs(), host)


@pytest.mark.parametrize("host", ["0.0.0.0", None])
def test_with_authentication_any_host_is_fine(host: str | None) -> None:
    check_exposure(AUTH, host)


def test_every_route_is_either_tried_here_or_open_on_purpose(service: LocalService) -> None:
    templates = {"/v1/decisions/r-1": "/v1/decisions/{decision_id}"}
    tried = {(method, templates.get(path, path)) for method, path, _, _ in ROUTES}
    assert {route for route in routes_of(service) - tried if route[1] not in OPEN} == set()


@pytest.mark.parametrize("path", OPEN)
async def test_health_documentation_and_the_console_s_page_are_open(start: Start, path: str) -> None:
    service = await start(auth=AUTH)
    assert (await service.http.get(path)).status_code == 200


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES)
async def test_a_key_opens_exactly_the_routes_of_its_scope(
    start: Start, method: str, path: str, body: object, scope: str
) -> None:
    service = await start(auth=AUTH)
    for key, own in KEYS.values():
        before = service.everything()
        response = await call(service, method, path, body, bearer(key))
        if own == scope:
            assert response.status_code not in (401, 403), response.text
        else:
            document = check_problem(response, 403, "forbidden")
            assert document["detail"] == "these credentials do not allow this call"
            assert service.everything() == before
    assert service.doorkeeper.failures == {"unauthorized": 0, "forbidden": 2}


WRONG: dict[str, dict[str, str]] = {
    "nothing": {},
    "an unknown key": bearer("tg_other-key"),
    "no key": bearer(""),
    "a key cut short": bearer("tg_score-ke"),
    "a longer key": bearer("tg_score-keyy"),
    "another case": bearer("TG_SCORE-KEY"),
    "two keys": bearer("tg_score-key tg_score-key"),
    "the hash": bearer(hashlib.sha256(b"tg_score-key").hexdigest()),
    "a caller's name": bearer("scorer"),
    "another scheme": {"Authorization": "Basic tg_score-key"},
    "no scheme": {"Authorization": "tg_score-key"},
    "another header": {"X-Api-Key": "tg_score-key"},
    "signed, not a key": {"X-Bittensor-Version": "1", "X-Bittensor-Hotkey": "scorer"},
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
async def test_without_a_valid_key_every_route_is_a_401_that_reveals_nothing_and_changes_nothing(
    start: Start, headers: dict[str, str]
) -> None:
    service = await start(auth=AUTH)
    before = service.everything()
    for method, path, body, _ in ROUTES:
        response = await call(service, method, path, body, headers)
        document = check_problem(response, 401, "unauthorized")
        assert document["detail"] == "the call has no valid credentials"
        assert response.headers["www-authenticate"] == 'Bearer realm="tidegate"'
    assert service.everything() == before
    assert service.engine.batches == []
    assert service.doorkeeper.failures == {"unauthorized": len(ROUTES), "forbidden": 0}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_s_case_does_not_matter(start: Start, scheme: str) -> None:
    service = await start(auth=AUTH)
    headers = {"Authorization": f"{scheme} tg_score-key"}
    assert (await call(service, "GET", "/v1/state", None, headers)).status_code == 200


async def test_credentials_are_asked_for_before_the_body_is_looked_at(start: Start) -> None:
    service = await start(auth=AUTH)
    check_problem(await service.http.post("/v1/rewards", content=b"{"), 401, "unauthorized")
    check_problem(
        await service.http.post("/v1/rewards", content=b"{", headers=bearer("tg_score-key")), 403, "forbidden"
    )
    document = await service.http.post("/v1/rewards", content=b"{", headers=bearer("tg_reward-key"))
    check_problem(document, 415, "unsupported_media_type")
    large = {"Content-Length": str(2**30)}
    check_problem(await service.http.post("/v1/rewards", content=b"{", headers=large), 401, "unauthorized")
    large |= bearer("tg_reward-key")
    check_problem(await service.http.post("/v1/rewards", content=b"{", headers=large), 413, "body_too_large")


async def test_state_counts_the_calls_that_were_refused(start: Start) -> None:
    service = await start(auth=AUTH)
    for headers in ({}, bearer("tg_other"), bearer("tg_reward-key")):
        await call(service, "GET", "/v1/uids", None, headers)
    state = (await call(service, "GET", "/v1/state", None, bearer("tg_score-key"))).json()
    assert state["auth_failures"] == {"unauthorized": 2, "forbidden": 1}


async def test_the_log_says_why_and_who_and_never_the_key(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = await start(auth=AUTH)
    with caplog.at_level(logging.DEBUG):
        responses = [
            await call(service, "GET", "/v1/uids", None, headers)
            for headers in (
                {},
                {"Authorization": "Basic tg_score-key"},
                bearer("tg_guessed-key"),
                bearer("tg_reward-key"),
                bearer("tg_score-key"),
            )
        ]
    told = [record.getMessage() for record in caplog.records if record.name == "deployments.auth"]
    assert told == [
        "refused code=unauthorized reason=no_credentials scope=score caller=- count=1",
        "refused code=unauthorized reason=other_scheme scope=score caller=- count=1",
        "refused code=unauthorized reason=unknown_key scope=score caller=- count=1",
        "refused code=forbidden reason=scope_missing scope=score caller=judge count=1",
    ]
    assert {record.levelname for record in caplog.records if record.name == "deployments.auth"} == {"WARNING"}
    shown = caplog.text + "".join(response.text + str(response.headers) for response in responses)
    for secret in ("tg_", *(hashlib.sha256(key.encode()).hexdigest() for key, _ in KEYS.values())):
        assert secret not in shown


async def test_who_is_not_let_in_is_not_read(start: Start) -> None:
    service = await start(auth=AUTH)

    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    for headers in ({}, bearer("tg_guessed-key")):
        check_problem(await service.http.post("/v1/score", content=body(), headers=headers), 401, "unauthorized")


async def test_a_flood_of_wrong_keys_is_a_line_a_second(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = await start(auth=AUTH)
    for _ in range(50):
        await call(service, "GET", "/v1/uids", None, bearer("tg_guessed-key"))
    assert len([record for record in caplog.records if record.name == "deployments.auth"]) < 10
    state = (await call(service, "GET", "/v1/state", None, bearer("tg_score-key"))).json()
    assert state["auth_failures"]["unauthorized"] == 50


def test_a_key_is_not_called_as_what_no_caller_did() -> None:
    assert {ANONYMOUS, DEFAULT_AUTHOR, TRUST} < NOT_CALLERS
    for name in NOT_CALLERS:
        with pytest.raises(ValidationError, match="choose another id"):
            ApiKeyEntry(id=name, sha256="0" * 64, scopes=frozenset({"score"}))


async def explained_after_a_reward(service: LocalService, **headers: dict[str, str]) -> dict[str, Any]:
    body = {"messages": ["why?"], "k": 2}
    [chosen] = (await call(service, "POST", "/v1/select", body, headers["score"])).json()["selections"]
    item = {"decision_id": chosen["decision_id"], "uids": chosen["uids"][:1], "rewards": [1.0]}
    answer = await call(service, "POST", "/v1/rewards", {"rewards": [item]}, headers["reward"])
    assert answer.json()["accepted"] == 1
    explained: dict[str, Any] = (
        await call(service, "GET", f"/v1/decisions/{chosen['decision_id']}", None, headers["score"])
    ).json()
    assert explained["rewards"].keys() == explained["authors"].keys() == {str(chosen["uids"][0])}
    return explained


async def test_a_reward_carries_the_id_of_the_key_that_reported_it(start: Start) -> None:
    service = await start(auth=AUTH)
    headers = {scope: bearer(key) for key, scope in KEYS.values()}
    explained = await explained_after_a_reward(service, **headers)
    assert list(explained["authors"].values()) == ["judge"]
    [[event]] = service.learner.core.log.batches(0)
    assert event.author == "judge"  # type: ignore[union-attr]


async def test_without_authentication_a_reward_is_by_anonymous(service: LocalService) -> None:
    explained = await explained_after_a_reward(service, score={}, reward={})
    assert list(explained["authors"].values()) == ["anonymous"]
