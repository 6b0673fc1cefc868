"""Authentication on a real service: one application asks for keys, another, under a prefix, for signatures."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from deployments.api_keys import describe_key
from deployments.client import GateClient, ProblemError, Reward
from tests.keyring import Keyring
from tests.ports import free_port

from .service import Service, serve_config, wait_for, write_roster

KEYS = {"scorer": ("tg_score", ["score"]), "judge": ("tg_judge", ["score", "reward"]), "boss": ("tg_boss", ["admin"])}


def entry(caller: str) -> str:
    return describe_key(caller, *KEYS[caller])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, keyring: Keyring) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("auth")
    roster = folder / "roster.yaml"
    write_roster(roster, [f"expert-{uid}" for uid in range(8)])
    keys_file = folder / "keys.yaml"
    keys_file.write_text(f"- {entry('judge')}\n", encoding="utf-8")
    config = serve_config(
        free_port(),
        roster,
        replica={"num_replicas": 2, "num_cpus": 0.25},
        auth={
            "mode": "api_key",
            "keys": [json.loads(entry("scorer"))],
            "keys_file": str(keys_file),
            "keys_env": "TEST_TIDEGATE_API_KEYS",
        },
    )
    signed = copy.deepcopy(config["applications"][0])
    signed |= {"name": "signed", "route_prefix": "/signed"}
    signed["args"]["auth"] = {
        "mode": "hotkey",
        "receiver_hotkey": keyring.address("gate"),
        "allowed_hotkeys": [keyring.address("alice")],
    }
    config["applications"].append(signed)
    service = Service(config, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_TIDEGATE_API_KEYS", yaml.safe_dump([json.loads(entry("boss"))]))
        service.start()
    yield service
    service.end()


def replicas(service: Service, prefix: str, count: int = 2) -> list[str]:
    """The addresses of an application's replicas, prefix included, once all of them answer."""

    def find() -> list[str]:
        found = [f"{url}{prefix}" for url in service.replica_urls()]
        answers = {url: httpx.get(f"{url}/readyz", timeout=30) for url in found}
        return [url for url, answer in answers.items() if answer.status_code == httpx.codes.OK]

    return wait_for(lambda: urls if len(urls := find()) == count else None)


def code_of(response: httpx.Response) -> tuple[int, Any]:
    return response.status_code, response.json().get("code")


def test_every_replica_refuses_callers_without_a_key_and_counts_them(service: Service) -> None:
    assert code_of(service.http.get("/v1/state")) == (401, "unauthorized")
    for url in replicas(service, ""):
        boss, score = ({"Authorization": f"Bearer {KEYS[caller][0]}"} for caller in ("boss", "scorer"))
        before = httpx.get(f"{url}/v1/state", headers=score, timeout=30).json()
        for headers in ({}, {"Authorization": "Bearer tg_guess"}):
            assert code_of(httpx.post(f"{url}/v1/rewards", headers=headers, content=b"{", timeout=30))[0] == 401
        assert code_of(httpx.get(f"{url}/v1/state", headers=boss, timeout=30)) == (403, "forbidden")
        after = httpx.get(f"{url}/v1/state", headers=score, timeout=30).json()
        assert after["auth_failures"]["unauthorized"] == before["auth_failures"]["unauthorized"] + 2
        assert after["auth_failures"]["forbidden"] == before["auth_failures"]["forbidden"] + 1
        assert after["learner"]["events_logged"] == before["learner"]["events_logged"]


def test_a_reward_is_recorded_as_the_key_s(service: Service) -> None:
    with GateClient(service.url, api_key=KEYS["judge"][0]) as gate:
        [selection] = gate.select(["Who says so?"], k=2).selections
        gate.report([Reward(selection.uids, [1.0, 0.0], decision_id=selection.decision_id)])
        explained = gate.decision(selection.decision_id)
        assert explained["authors"] == {str(uid): "judge" for uid in selection.uids}
        with pytest.raises(ProblemError, match="403 forbidden"):
            gate.resync()
    with GateClient(service.url, api_key=KEYS["boss"][0]) as gate:
        assert gate.resync()["n"] == 8


def test_a_signed_report_counts_once_over_all_replicas(service: Service, keyring: Keyring) -> None:
    first, second = replicas(service, "/signed")
    path = "/signed/v1/rewards"

    def report(reward_id: str) -> tuple[bytes, dict[str, str]]:
        item = {"reward_id": reward_id, "message": "Once?", "uids": [1], "rewards": [0.5]}
        body = json.dumps({"rewards": [item]}).encode()
        return body, keyring.sign("alice", "POST", path, body)

    def send(url: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(f"{url}/v1/rewards", content=body, headers=headers, timeout=30)

    def settled() -> httpx.Response | None:
        # Within allowed_skew_s of its start the learner asks to sign again.
        body, headers = report("mine-1")
        sent.append((body, headers))
        response = send(first, body, headers)
        return response if response.status_code == httpx.codes.OK else None

    sent: list[tuple[bytes, dict[str, str]]] = []
    assert wait_for(settled).json()["accepted"] == 1
    for url in (second, first, f"{service.url}/signed"):
        assert code_of(send(url, *sent[-1])) == (401, "unauthorized")
    body, headers = report("mine-2")
    assert code_of(send(second, body.replace(b"0.5", b"1.0"), headers)) == (401, "unauthorized")
    assert send(second, body, headers).json()["accepted"] == 1


def test_the_client_signs_through_the_proxy_and_its_hotkey_is_the_author(service: Service, keyring: Keyring) -> None:
    alice = {"wallet": keyring.key("alice"), "receiver_hotkey": keyring.address("gate")}
    with GateClient(f"{service.url}/signed", **alice) as gate:
        [selection] = gate.select(["Who signs so?"], k=1).selections
        gate.report([Reward(selection.uids, [1.0], decision_id=selection.decision_id)])
        explained = gate.decision(selection.decision_id)
        assert explained["authors"] == {str(selection.uids[0]): keyring.address("alice")}
        with pytest.raises(ProblemError, match="403 forbidden"):
            gate.erase_decision(selection.decision_id)
    stranger = {"wallet": keyring.key("stranger"), "receiver_hotkey": keyring.address("gate")}
    with GateClient(f"{service.url}/signed", **stranger) as gate, pytest.raises(ProblemError, match="403 forbidden"):
        gate.state()


def test_the_logs_of_ray_say_why_calls_were_refused_and_hold_no_key(service: Service) -> None:
    files = [path for path in service.ray_logs().rglob("*") if path.is_file()]
    logs = "".join(path.read_text(errors="replace") for path in files) + service.log
    assert "refused code=unauthorized reason=unknown_key scope=reward caller=-" in logs
    assert "refused code=forbidden reason=scope_missing scope=admin caller=judge" in logs
    assert not [key for key, _ in KEYS.values() if key in logs]
    assert "tg_guess" not in logs
