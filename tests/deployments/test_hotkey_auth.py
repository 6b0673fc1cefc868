from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from deployments.auth import check_credentials, check_exposure
from deployments.client import GateClient
from deployments.config import HotkeyAuthArgs
from deployments.errors import CredentialsError
from gating.metagraph import MetagraphView
from learner.nonces import NonceStore
from tests.keyring import SECOND, Keyring

from .local_service import VIEW, LocalService
from .test_auth import ROUTES
from .test_http_io import check_problem

Start = Callable[..., Awaitable[LocalService]]

SCORE = json.dumps({"messages": ["why?"]}).encode()
REWARD = json.dumps({"rewards": [{"reward_id": "mine", "message": "why?", "uids": [3], "rewards": [0.5]}]}).encode()


@pytest.fixture
def auth(keyring: Keyring) -> HotkeyAuthArgs:
    """Alice may call, Boss may do everything, validators need 1,000 TAO; the others are nobody."""
    return HotkeyAuthArgs(
        mode="hotkey",
        receiver_hotkey=keyring.address("gate"),
        allowed_hotkeys=(keyring.address("alice"),),
        admin_hotkeys=(keyring.address("boss"),),
        min_stake=1000.0,
    )


@pytest.fixture
def view(keyring: Keyring) -> MetagraphView:
    """Carol: permit and stake. Dave: permit, too little stake. Erin: stake, no permit. Frank: NaN."""
    names = ("carol", "dave", "erin", "frank")
    return replace(
        VIEW,
        hotkeys=(*(keyring.address(name) for name in names), *VIEW.hotkeys[4:]),
        validator_permit=(True, True, False, True, *(False,) * 6),
        stake=(1000.0, 999.9, 5000.0, float("nan"), *(0.0,) * 6),
    )


async def send(service: LocalService, method: str, target: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return await service.http.request(method, target, content=body, headers=headers)


async def test_an_allowed_hotkey_scores_and_rewards_and_is_the_author(
    start: Start, auth: HotkeyAuthArgs, keyring: Keyring
) -> None:
    service = await start(auth=auth)
    body = json.dumps({"messages": ["why?"], "k": 1}).encode()
    answer = await send(service, "POST", "/v1/select", body, keyring.sign("alice", "POST", "/v1/select", body))
    [chosen] = answer.json()["selections"]
    item = {"decision_id": chosen["decision_id"], "uids": chosen["uids"], "rewards": [1.0]}
    body = json.dumps({"rewards": [item]}).encode()
    answer = await send(service, "POST", "/v1/rewards", body, keyring.sign("alice", "POST", "/v1/rewards", body))
    assert answer.json()["accepted"] == 1
    path = f"/v1/decisions/{chosen['decision_id']}"
    explained = await send(service, "GET", path, b"", keyring.sign("alice", "GET", path))
    assert explained.json()["authors"] == {str(chosen["uids"][0]): keyring.address("alice")}
    [[event]] = service.learner.core.log.batches(0)
    assert event.author == keyring.address("alice")  # type: ignore[union-attr]
    assert service.doorkeeper.failures == {"unauthorized": 0, "forbidden": 0}


async def test_ed25519_hotkeys_sign_too(start: Start, auth: HotkeyAuthArgs, keyring: Keyring) -> None:
    from bittensor.wallets import CRYPTO_ED25519, Keypair

    keyring.keys["other"] = Keypair.create_from_uri("//alice", crypto_type=CRYPTO_ED25519)
    allowed = auth.model_copy(update={"allowed_hotkeys": (keyring.address("other"),)})
    service = await start(auth=allowed)
    headers = keyring.sign("other", "POST", "/v1/score", SCORE)
    assert (await send(service, "POST", "/v1/score", SCORE, headers)).status_code == 200
    check_problem(
        await send(service, "POST", "/v1/score", SCORE, {**headers, "X-Bittensor-Crypto": "sr25519"}),
        401,
        "unauthorized",
    )


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES)
async def test_who_may_call_what(
    start: Start,
    auth: HotkeyAuthArgs,
    view: MetagraphView,
    keyring: Keyring,
    method: str,
    path: str,
    body: object,
    scope: str,
) -> None:
    service = await start(auth=auth, view=view)
    content = b"" if body is None else json.dumps(body).encode()
    lets_in = {"boss": True, "alice": scope != "admin", "carol": scope != "admin"}
    for name in ("boss", "alice", "carol", "dave", "erin", "frank", "stranger", "gate"):
        before = service.everything()
        response = await send(service, method, path, content, keyring.sign(name, method, path, content))
        if lets_in.get(name):
            assert response.status_code not in (401, 403), response.text
        else:
            document = check_problem(response, 403, "forbidden")
            assert document["detail"] == "these credentials do not allow this call"
            assert service.everything() == before, name
    assert service.doorkeeper.failures["unauthorized"] == 0
    # Strangers take no memory.
    assert len(service.learner.nonces) <= 3


async def test_permits_and_stakes_are_those_of_the_current_metagraph(
    start: Start, auth: HotkeyAuthArgs, view: MetagraphView, keyring: Keyring
) -> None:
    service = await start(auth=auth, view=view)
    service.learner.network = replace(view, block=101, stake=(999.0, 1000.0, *view.stake[2:]))
    await service.learner.resync()
    await service.subscriber.poll_once()
    for name, status in (("carol", 403), ("dave", 200)):
        headers = keyring.sign(name, "POST", "/v1/score", SCORE)
        assert (await send(service, "POST", "/v1/score", SCORE, headers)).status_code == status


async def test_a_network_that_tells_no_permits_lets_only_listed_hotkeys_in(
    start: Start, auth: HotkeyAuthArgs, view: MetagraphView, keyring: Keyring
) -> None:
    service = await start(auth=auth, view=replace(view, validator_permit=(), stake=()))
    for name, status in (("carol", 403), ("alice", 200)):
        headers = keyring.sign(name, "POST", "/v1/score", SCORE)
        assert (await send(service, "POST", "/v1/score", SCORE, headers)).status_code == status


async def test_before_the_network_is_known_a_validator_is_asked_to_come_again(
    start: Start, auth: HotkeyAuthArgs, keyring: Keyring
) -> None:
    service = await start(auth=auth, subscribed=False)
    headers = keyring.sign("carol", "GET", "/v1/state")
    check_problem(await send(service, "GET", "/v1/state", b"", headers), 503, "no_weights")
    headers = keyring.sign("alice", "GET", "/v1/state")
    assert (await send(service, "GET", "/v1/state", b"", headers)).status_code == 200


Request = tuple[str, str, bytes, dict[str, str]]


def rewarding(
    keyring: Keyring, *, sent: str = "/v1/rewards", body: bytes = REWARD, target: str = "/v1/rewards", **signing: Any
) -> Request:
    """A report that alice signed for `target`, sent to `sent` with `body`; `X_...` exchanges a header."""
    changed = {name.replace("_", "-"): signing.pop(name) for name in list(signing) if name.startswith("X_")}
    name = signing.pop("name", "alice")
    return "POST", sent, body, {**keyring.sign(name, "POST", target, REWARD, **signing), **changed}


FORGERIES: dict[str, Callable[[Keyring], Request]] = {
    "no signature": lambda _: ("POST", "/v1/rewards", REWARD, {"Content-Type": "application/json"}),
    "a bearer key": lambda _: ("POST", "/v1/rewards", REWARD, {"Authorization": "Bearer tg_key"}),
    "a tampered body": lambda ring: rewarding(ring, body=REWARD.replace(b"0.5", b"0.6")),
    "no body": lambda ring: rewarding(ring, body=b""),
    "another path": lambda ring: rewarding(ring, target="/v1/score"),
    "the path cut short": lambda ring: rewarding(ring, target="/rewards"),
    "another query": lambda ring: rewarding(ring, target="/v1/rewards?a=1", sent="/v1/rewards?a=2"),
    "a query added": lambda ring: rewarding(ring, sent="/v1/rewards?a=1"),
    "a query taken away": lambda ring: rewarding(ring, target="/v1/rewards?a=1"),
    "another method": lambda ring: ("DELETE", "/v1/decisions/r", b"", ring.sign("boss", "GET", "/v1/decisions/r")),
    "another receiver": lambda ring: rewarding(ring, receiver="bob"),
    "the receiver exchanged": lambda ring: rewarding(ring, receiver="bob", X_Bittensor_Receiver=ring.address("gate")),
    "no receiver": lambda ring: rewarding(ring, receiver=None),
    "a stale nonce": lambda ring: rewarding(ring, age_s=11),
    "a nonce of the future": lambda ring: rewarding(ring, age_s=-9),
    "a nonce exchanged": lambda ring: rewarding(ring, X_Bittensor_Nonce=str(time.time_ns())),
    "a nonce that is none": lambda ring: rewarding(ring, X_Bittensor_Nonce="now"),
    "another's name": lambda ring: rewarding(ring, name="mallory", X_Bittensor_Hotkey=ring.address("alice")),
    "a name that is none": lambda ring: rewarding(ring, X_Bittensor_Hotkey="alice"),
    "a signature that is none": lambda ring: rewarding(ring, X_Bittensor_Signature="0xzz"),
    "an empty signature": lambda ring: rewarding(ring, X_Bittensor_Signature=""),
    "another version": lambda ring: rewarding(ring, X_Bittensor_Version="2"),
    "an unknown scheme": lambda ring: rewarding(ring, X_Bittensor_Crypto="rsa"),
}
REFUSED = {
    "type": "urn:tidegate:problem:unauthorized",
    "title": "Unauthorized",
    "status": 401,
    "detail": "the call has no valid credentials",
    "code": "unauthorized",
}


@pytest.mark.parametrize("what", FORGERIES)
async def test_what_was_not_signed_as_sent_is_a_401_that_reveals_nothing_and_changes_nothing(
    start: Start, auth: HotkeyAuthArgs, keyring: Keyring, what: str
) -> None:
    service = await start(auth=auth)
    before = service.everything()
    response = await send(service, *FORGERIES[what](keyring))
    check_problem(response, 401, "unauthorized")
    assert response.json() == REFUSED
    assert response.headers["www-authenticate"].startswith("Btauth ")
    assert service.everything() == before
    assert len(service.learner.nonces) == 0
    assert service.doorkeeper.failures == {"unauthorized": 1, "forbidden": 0}
    # Nothing of it was held against alice.
    headers = keyring.sign("alice", "POST", "/v1/rewards", REWARD)
    assert (await send(service, "POST", "/v1/rewards", REWARD, headers)).json()["accepted"] == 1


@pytest.mark.parametrize(
    ("name", "method", "target", "body"),
    [("alice", "POST", "/v1/rewards", REWARD), ("boss", "POST", "/v1/admin/resync", b"")],
)
async def test_a_replay_is_refused_on_the_same_and_on_another_replica(
    start: Start, auth: HotkeyAuthArgs, keyring: Keyring, name: str, method: str, target: str, body: bytes
) -> None:
    first = await start(auth=auth)
    second = await start(auth=auth, learner=first.learner, name="replica-b")
    headers = keyring.sign(name, method, target, body)
    assert (await send(first, method, target, body, headers)).status_code == 200
    before = first.everything(), second.everything()
    for service in (first, second, first):
        response = await send(service, method, target, body, headers)
        check_problem(response, 401, "unauthorized")
        assert response.json() == REFUSED
    assert (first.everything(), second.everything()) == before
    again = keyring.sign(name, method, target, body)
    assert (await send(second, method, target, body, again)).status_code == 200


async def test_a_replayed_score_is_refused_where_it_was_seen(
    start: Start, auth: HotkeyAuthArgs, keyring: Keyring
) -> None:
    service = await start(auth=auth)
    headers = keyring.sign("alice", "POST", "/v1/score", SCORE)
    assert (await send(service, "POST", "/v1/score", SCORE, headers)).status_code == 200
    check_problem(await send(service, "POST", "/v1/score", SCORE, headers), 401, "unauthorized")


async def test_a_call_signed_before_the_learner_s_start_is_refused(
    start: Start, auth: HotkeyAuthArgs, keyring: Keyring
) -> None:
    service = await start(auth=auth)
    headers = keyring.sign("alice", "POST", "/v1/rewards", REWARD)
    # It was answered once; the learner that knew it is gone.
    assert (await send(service, "POST", "/v1/rewards", REWARD, headers)).status_code == 200
    service.learner.nonces = NonceStore(clock_ns=time.time_ns, started_ns=time.time_ns())
    before = service.everything()
    response = await send(service, "POST", "/v1/rewards", REWARD, headers)
    check_problem(response, 401, "unauthorized")
    assert response.json() == REFUSED
    assert service.everything() == before


async def test_just_after_the_learner_s_start_callers_are_asked_to_sign_again(
    start: Start, auth: HotkeyAuthArgs, keyring: Keyring
) -> None:
    service = await start(auth=auth)
    headers = keyring.sign("alice", "POST", "/v1/rewards", REWARD)
    # The clock of a caller may be 2 s ahead, so the learner before this one may have taken this already.
    started_ns = int(headers["X-Bittensor-Nonce"]) - SECOND
    service.learner.nonces = NonceStore(clock_ns=time.time_ns, started_ns=started_ns)
    before = service.everything()
    response = await send(service, "POST", "/v1/rewards", REWARD, headers)
    check_problem(response, 503, "learner_starting")
    assert response.headers["retry-after"] == "1"
    assert service.everything() == before
    assert service.doorkeeper.failures == {"unauthorized": 0, "forbidden": 0}


async def test_rewards_wait_for_a_learner_that_is_away_and_scores_do_not(
    start: Start, auth: HotkeyAuthArgs, keyring: Keyring
) -> None:
    service = await start(auth=auth)
    service.learner.away = True
    headers = keyring.sign("alice", "POST", "/v1/rewards", REWARD)
    check_problem(await send(service, "POST", "/v1/rewards", REWARD, headers), 503, "learner_away")
    headers = keyring.sign("alice", "POST", "/v1/score", SCORE)
    assert (await send(service, "POST", "/v1/score", SCORE, headers)).status_code == 200
    # Whoever is not let in is told so without the learner.
    headers = keyring.sign("stranger", "POST", "/v1/rewards", REWARD)
    check_problem(await send(service, "POST", "/v1/rewards", REWARD, headers), 403, "forbidden")


async def test_the_signed_path_is_the_one_outside_with_its_prefix_as_it_was_written(
    start: Start, auth: HotkeyAuthArgs, keyring: Keyring
) -> None:
    service = await start(auth=auth)
    # As Serve does it: the path keeps the application's prefix, and root_path says how much of it that is.
    transport = httpx.ASGITransport(service.api, root_path="/sn1")
    async with httpx.AsyncClient(transport=transport, base_url="http://gate") as http:
        for target, status in (("/sn1/v1/score?x=a%20b", 200), ("/v1/score?x=a%20b", 401), ("/sn1/v1/score", 401)):
            headers = keyring.sign("alice", "POST", target, SCORE)
            response = await http.post("/sn1/v1/score?x=a%20b", content=SCORE, headers=headers)
            assert response.status_code == status, target
        path = "/sn1/v1/decisions/a%2Db"
        response = await http.get(path, headers=keyring.sign("alice", "GET", path))
        check_problem(response, 404, "unknown_decision")


async def test_the_log_says_why_and_never_what_was_signed(
    start: Start, auth: HotkeyAuthArgs, keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    service = await start(auth=auth)
    headers = keyring.sign("stranger", "POST", "/v1/rewards", REWARD)
    replayed = keyring.sign("alice", "POST", "/v1/score", SCORE)
    with caplog.at_level(logging.DEBUG):
        await send(service, *FORGERIES["a tampered body"](keyring))
        await send(service, *FORGERIES["a stale nonce"](keyring))
        await send(service, "POST", "/v1/rewards", REWARD, headers)
        await send(service, "POST", "/v1/score", SCORE, replayed)
        await send(service, "POST", "/v1/score", SCORE, replayed)
    told = [record.getMessage() for record in caplog.records if record.name == "deployments.auth"]
    assert told == [
        "refused code=unauthorized reason=BadSignature scope=reward caller=- count=1",
        "refused code=unauthorized reason=StaleRequest scope=reward caller=- count=1",
        f"refused code=forbidden reason=no_permit scope=reward caller={keyring.address('stranger')} count=1",
        "refused code=unauthorized reason=nonce_seen scope=score caller=- count=1",
    ]
    for secret in (headers["X-Bittensor-Signature"], replayed["X-Bittensor-Signature"], "why?"):
        assert secret not in caplog.text


def test_with_hotkeys_any_host_is_fine(auth: HotkeyAuthArgs) -> None:
    check_exposure(auth, "0.0.0.0")


@pytest.mark.parametrize("field", ["receiver_hotkey", "allowed_hotkeys", "admin_hotkeys"])
def test_an_address_with_a_typing_error_is_refused_at_start(auth: HotkeyAuthArgs, keyring: Keyring, field: str) -> None:
    check_credentials(auth)
    address = keyring.address("alice")
    wrong = address[:-1] + ("1" if address[-1] != "1" else "2")
    value: Any = wrong if field == "receiver_hotkey" else (wrong,)
    with pytest.raises(CredentialsError, match=f"{wrong}.*not a valid SS58 address"):
        check_credentials(auth.model_copy(update={field: value}))


def test_the_client_is_understood(auth: HotkeyAuthArgs, keyring: Keyring) -> None:
    """Each attempt of GateClient verifies on its own; see tests/deployments/client/test_auth.py for what it sends."""
    from bittensor import http_auth

    verified: list[http_auth.Caller] = []

    def gate(request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode()
        verified.append(
            http_auth.verify(
                request.headers,
                request.content,
                method=request.method,
                path=target,
                self_hotkey_ss58=auth.receiver_hotkey,
                nonce_store=http_auth.InMemoryNonceStore(),
            )
        )
        if len(verified) < 3:
            return httpx.Response(503, headers={"retry-after": "0"})
        return httpx.Response(200, json={})

    client = GateClient(
        "http://gate/sn1",
        wallet=keyring.key("alice"),
        receiver_hotkey=auth.receiver_hotkey,
        transport=httpx.MockTransport(gate),
        sleep=lambda _: None,
    )
    assert client.resync() == {}
    assert [caller.hotkey_ss58 for caller in verified] == [keyring.address("alice")] * 3
    assert len({caller.nonce_ns for caller in verified}) == 3
