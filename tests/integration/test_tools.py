"""What is in front of a service: the OpenAI example, and every example of `tidegate --help`; then it is killed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from deployments.cli import app
from deployments.client import GateClient
from deployments.local import wait_until_ended
from tests.ports import free_port

from .openai_server import QUESTIONS, SUBJECTS, OpenAIServer, openai_server
from .service import ROOT, TIDEGATE, Service, wait_for

# The models of the OpenAI server; `broken` comes first, and so is the first to be tried.
NAMES = ["broken", *SUBJECTS]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# They would stop or start something; what they do is tested in test_readme, test_durability, test_upgrades and below.
ONLY_PARSED = {"serve", "down", "handover"}


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service]) -> Service:
    return start_service(NAMES, learner={"shadow": [{"name": "softmax_mse"}]})


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[GateClient]:
    with GateClient(service.url) as client:
        yield client


# The OpenAI example, in a process of its own.


@pytest.fixture(scope="module")
def upstream() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(service: Service, upstream: OpenAIServer) -> Iterator[httpx.Client]:
    port = free_port()
    options = ["--upstream", upstream.url, "--judge", "judge", "--gate", service.url, "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "examples/route_openai.py", *options],
        cwd=ROOT,
        env=os.environ | {"OPENAI_API_KEY": "upstream-key", "PYTHONPATH": str(ROOT)},
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=30) as http:
            wait_for(lambda: http.post("/chat/completions", json={}).status_code == httpx.codes.BAD_REQUEST)
            yield http
    finally:
        process.terminate()
        process.wait(timeout=30)


def rewards_of(client: GateClient, decision_id: str, uids: set[int]) -> dict[int, float]:
    """What was reported on a decision, once it was for these uids."""

    def reported() -> dict[int, float] | None:
        rewards = {int(uid): reward for uid, reward in client.decision(decision_id)["rewards"].items()}
        return rewards if rewards.keys() >= uids else None

    return wait_for(reported, every_s=0.01)


def ask(http: httpx.Client, subject: str, number: int) -> httpx.Response:
    message = {"role": "user", "content": QUESTIONS[subject].format(number)}
    return http.post("/chat/completions", json={"model": "any", "messages": [message], "temperature": 0.5})


def test_a_model_that_fails_earns_nothing_and_another_answers(
    proxy: httpx.Client, upstream: OpenAIServer, client: GateClient
) -> None:
    answer = ask(proxy, "french", 0)
    assert answer.status_code == httpx.codes.OK
    asked = [request["model"] for request in upstream.asked if request["model"] != "judge"]
    assert asked[0] == "broken"
    assert answer.json()["model"] == asked[1]
    decision_id = answer.headers["x-tidegate-decision"]
    uid = NAMES.index(asked[1])
    assert rewards_of(client, decision_id, {0, uid}) == {0: 0.0, uid: 0.95 if asked[1] == "french" else 0.1}
    assert upstream.keys == {"Bearer upstream-key"}
    assert upstream.asked[0]["temperature"] == 0.5


def test_the_judge_s_scores_teach_the_gate_whom_to_ask(proxy: httpx.Client, client: GateClient) -> None:
    models = []
    for number in range(60):
        answer = ask(proxy, SUBJECTS[number % 2], number)
        models.append(answer.json()["model"])
        asked = NAMES.index(models[-1])
        rewards_of(client, answer.headers["x-tidegate-decision"], {asked})
    right = [model == SUBJECTS[number % 2] for number, model in enumerate(models)]
    assert sum(right[-10:]) >= 9, models


def test_what_is_wrong_with_a_request_is_said_and_costs_no_model_anything(
    proxy: httpx.Client, upstream: OpenAIServer, client: GateClient
) -> None:
    question = {"messages": [{"role": "user", "content": "Why?"}]}
    before = len(upstream.asked)
    for body in ({"messages": []}, {"messages": "why?"}, question | {"stream": True}):
        refused = proxy.post("/chat/completions", json=body)
        assert refused.status_code == httpx.codes.BAD_REQUEST
        assert refused.json()["error"]["message"]
    assert len(upstream.asked) == before
    hot = proxy.post("/chat/completions", json=question | {"temperature": 9})
    assert (hot.status_code, hot.json()["error"]["message"]) == (400, "temperature is above 2")
    assert client.decision(hot.headers["x-tidegate-decision"])["rewards"] == {}


# Every example of `tidegate COMMAND --help`.


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, arguments)


def examples() -> list[list[str]]:
    found: list[list[str]] = []
    for command in COMMANDS:
        shown = re.findall(r"^ *\$ tidegate (.*?) *$", run(command, "--help").output, re.MULTILINE)
        assert shown, f"tidegate {command} --help shows no example"
        found += [shlex.split(example) for example in shown]
    return found


class RealNames:
    """What the examples name, in this service: a decision, a checkpoint, events that are held."""

    def __init__(self, client: GateClient) -> None:
        self._client = client

    def put_into(self, example: list[str]) -> list[str]:
        names = {
            "2624675ba58c-1": self._decision,
            "00000001-v7": lambda: self._client.checkpoints()[0].name,
            "12": lambda: self._held(0),
            "13": lambda: self._held(1),
        }
        return [names[word]() if word in names else word for word in example]

    def _decision(self) -> str:
        return self._client.select(["Why is the sky blue?"], k=2, uids=[0, 1], durable=True).selections[0].decision_id

    def _held(self, place: int) -> str:
        return str(self._client.quarantine().events[place].seq)


@pytest.fixture
def _threads() -> Iterator[None]:
    """Replay and evaluate set them for their process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_every_example_of_the_help_works(service: Service, client: GateClient, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the config is, and where nothing minds a plot.
    monkeypatch.chdir(service.config_path.parent)
    ran = set()
    for example in examples():
        command, *arguments = example
        if command in ONLY_PARSED:
            COMMANDS[command].make_context(command, arguments)
            continue
        wanted = RealNames(client).put_into(example)
        asks_the_service = any("--url" in option.opts for option in COMMANDS[command].params)
        if asks_the_service:
            wanted = [word for word in wanted if word not in ("--url", "http://127.0.0.1:8000")]
            wanted += ["--url", service.url]
        result = run(*wanted)
        assert result.exit_code == 0, f"tidegate {shlex.join(wanted)}\n{result.output}"
        assert result.stdout
        ran.add(command)
    assert ran == set(COMMANDS) - ONLY_PARSED
    assert Path("estimates.svg").read_text(encoding="utf-8").startswith("<svg")


def test_what_commands_do_is_in_the_service_s_books(service: Service, client: GateClient) -> None:
    def books() -> dict[str, Any]:
        learner: dict[str, Any] = service.state()["learner"]
        return learner

    assert run("freeze", "--url", service.url).exit_code == 0
    assert books()["frozen"]
    assert run("thaw", "--url", service.url).exit_code == 0
    assert not books()["frozen"]
    reward = ["reward", "--message", "Why?", "--reward-id", "mine", "1=0.5", "--wait", "applied", "--url", service.url]
    before = books()["counters"]["rewards_accepted"]
    assert "1 accepted" in run(*reward).stdout
    assert "0 accepted under mine, 1 duplicates" in run(*reward).stdout
    assert books()["counters"]["rewards_accepted"] == before + 1
    assert run("reward", "--decision", "no-such", "1=0.5", "--url", service.url).exit_code == 1


# The last one: it ends the service.


def test_down_cleans_up_after_a_service_that_was_killed(service: Service) -> None:
    processes = service.processes()
    service.process.kill()
    service.wait()
    subprocess.run([*TIDEGATE, "down", "--port", str(service.port)], cwd=ROOT, timeout=120, check=True)
    assert wait_until_ended(processes, 10) == []
