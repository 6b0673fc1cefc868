from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.client import GateClient, ProblemError, Reward
from deployments.client.auth import HotkeyAuth
from tests.keyring import Keyring

from .conftest import Connect
from .scripted import REPORT, ScriptedServer, answer, problem, proxy_error


def test_a_client_without_credentials_sends_none() -> None:
    server = ScriptedServer([answer({})])
    server.client().state()
    assert not [name for name in server.requests[0].headers if name == "authorization" or name.startswith("x-")]


def test_the_key_goes_with_every_call_and_every_attempt(connect: Connect) -> None:
    server = ScriptedServer([proxy_error(502), answer(REPORT)])
    connect(server, api_key="tg_key").report([Reward([4], [1.0], decision_id="r-1")])
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer tg_key"] * 2


def test_ready_sends_the_key_too() -> None:
    server = ScriptedServer([answer({})])
    assert server.client(api_key="tg_key").ready()
    assert server.requests[0].headers["authorization"] == "Bearer tg_key"


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel", "tab\t"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match="a header cannot carry") as caught:
        GateClient(api_key=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "given", [{"api_key": "k", "wallet": "w", "receiver_hotkey": "r"}, {"wallet": "w"}, {"receiver_hotkey": "r"}]
)
def test_credentials_that_do_not_go_together_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"one of them|go together"):
        GateClient(**given)


@pytest.mark.parametrize(("status", "code"), [(401, "unauthorized"), (403, "forbidden")])
def test_a_refusal_is_a_problem_at_once(status: int, code: str) -> None:
    server = ScriptedServer([problem(status, code)])
    with pytest.raises(ProblemError) as caught:
        server.client(api_key="tg_key").state()
    assert (caught.value.status, caught.value.code, len(server.requests)) == (status, code, 1)


def test_every_attempt_is_signed_anew_over_the_bytes_that_are_sent(connect: Connect, keyring: Keyring) -> None:
    from bittensor import http_auth

    server = ScriptedServer([problem(503, "learner_starting"), httpx.ReadError("cut"), answer(REPORT)])
    client = connect(
        server, url="http://gate/sn1", wallet=keyring.key("alice"), receiver_hotkey=keyring.address("gate")
    )
    client.report([Reward([4], [1.0], reward_id="mine", message="Où est la marée ?")])
    nonces = set()
    for request in server.requests:
        caller = http_auth.verify(
            request.headers,
            request.content,
            method="POST",
            path="/sn1/v1/rewards",
            self_hotkey_ss58=keyring.address("gate"),
            nonce_store=http_auth.InMemoryNonceStore(),
        )
        assert caller.hotkey_ss58 == keyring.address("alice")
        nonces.add(caller.nonce_ns)
    assert len(nonces) == len(server.requests) == 3


def test_path_and_query_are_signed_as_they_are_sent(keyring: Keyring) -> None:
    from bittensor import http_auth

    server = ScriptedServer([answer({})])
    client = server.client(wallet=keyring.key("alice"), receiver_hotkey=keyring.address("gate"))
    client.decision("a b/c?d")
    [request] = server.requests
    assert request.url.raw_path == b"/v1/decisions/a%20b%2Fc%3Fd"
    http_auth.verify(
        request.headers,
        b"",
        method="GET",
        path="/v1/decisions/a%20b%2Fc%3Fd",
        self_hotkey_ss58=keyring.address("gate"),
        nonce_store=http_auth.InMemoryNonceStore(),
    )


@pytest.mark.parametrize("clock", [lambda: 5, itertools.count(9, -1).__next__], ids=["stands", "goes back"])
def test_nonces_never_repeat_also_when_the_clock_stands_or_goes_back(
    keyring: Keyring, clock: Callable[[], int]
) -> None:
    auth = HotkeyAuth(keyring.key("alice"), keyring.address("gate"), now_ns=clock)
    requests = [next(auth.auth_flow(httpx.Request("GET", "http://gate/v1/state"))) for _ in range(5)]
    nonces = [int(request.headers["X-Bittensor-Nonce"]) for request in requests]
    assert nonces == sorted(set(nonces))


def test_bittensor_is_imported_for_a_wallet_only() -> None:
    program = (
        "import sys; from deployments.client import GateClient; GateClient(api_key='k'); "
        "print([name for name in ('bittensor', 'ray', 'torch', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_wallet_on_disk_signs_with_its_hotkey(keyring: Keyring, tmp_path: Path) -> None:
    from bittensor import http_auth
    from bittensor.wallets import Wallet, new_hotkey

    new_hotkey("cold", "hot", path=str(tmp_path), overwrite=False)
    wallet = Wallet(name="cold", hotkey="hot", path=str(tmp_path))
    server = ScriptedServer([answer({})])
    server.client(wallet=wallet, receiver_hotkey=keyring.address("gate")).state()
    [request] = server.requests
    caller = http_auth.verify(
        request.headers, b"", method="GET", path="/v1/state", self_hotkey_ss58=keyring.address("gate")
    )
    assert caller.hotkey_ss58 == wallet.hotkey.ss58_address
