"""What the README shows: its curl lines against a service with the default config, its Python as written."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from typing import Any

import httpx
import pytest

import deployments.client
from deployments.client import GateClient
from deployments.local import wait_until_ended
from tests.docs.blocks import Block, blocks

from .books import tidegate
from .service import ROOT, Service

README = (ROOT / "README.md").read_text(encoding="utf-8")
CURL = re.compile(r"\$ (curl .*?)\n(\{.*?)\n```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def service(default_service: Service) -> Service:
    return default_service


class Transcript:
    """Sends the README's curl lines, with the decision and the uids of this service for those that it shows."""

    def __init__(self, service: Service) -> None:
        self.url = service.url
        self.real: dict[Any, Any] = {}

    def send(self, command: str) -> dict[str, Any]:
        _, _, url, _, header, _, body = shlex.split(command.replace("\\\n", ""))
        name, _, value = header.partition(": ")
        url = url.replace("http://127.0.0.1:8000", self.url)
        answer: dict[str, Any] = httpx.post(
            url, json=self._own(json.loads(body)), headers={name: value}, timeout=30
        ).json()
        return answer

    def learn(self, shown: dict[str, Any], answer: dict[str, Any]) -> None:
        """Take note of a selection; its last slot may have explored."""
        for before, after in zip(shown.get("selections", []), answer.get("selections", []), strict=True):
            self.real[before["decision_id"]] = after["decision_id"]
            for instead_of, uid in zip(before["uids"], after["uids"], strict=True):
                # The other way round too: if this is a uid that the README goes on to show as unknown.
                self.real.update({uid: instead_of, instead_of: uid})

    def _own(self, node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {name: self._own(value, name) for name, value in node.items()}
        if isinstance(node, list):
            return [self._own(value, key) for value in node]
        return self.real.get(node, node) if key in ("decision_id", "uids") else node


def numbers(answer: Any) -> list[float]:
    """Every number in an answer, but those that tell of time or depend on what was explored."""
    if isinstance(answer, dict):
        varying = ("epoch", "block", "age_s", "uids", "propensities")
        return [number for key, value in answer.items() if key not in varying for number in numbers(value)]
    if isinstance(answer, list):
        return [number for value in answer for number in numbers(value)]
    return [float(answer)] if isinstance(answer, int | float) else []


def test_the_worked_example_answers_what_the_readme_shows(service: Service) -> None:
    examples = CURL.findall(README)
    assert len(examples) == 3
    transcript = Transcript(service)
    for command, shown in examples:
        expected = json.loads(shown.replace("\n", ""))
        answer = transcript.send(command)
        assert answer.keys() == expected.keys()
        # Not to the last digit: the encoder runs in bf16 where the processor has it.
        assert numbers(answer) == pytest.approx(numbers(expected), abs=0.01)
        transcript.learn(expected, answer)


CLIENT_EXAMPLES = [block for block in blocks("python") if "GateClient" in block.text]


@pytest.mark.parametrize("example", CLIENT_EXAMPLES, ids=str)
def test_the_client_s_examples_run(example: Block, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    client = GateClient(service.url)
    monkeypatch.setattr(deployments.client, "GateClient", lambda *_args, **_kwargs: client)
    before = service.state()["learner"]["counters"]["rewards_accepted"]
    # What the examples leave to their reader: a prompt, experts, a judge, a wallet.
    own = {
        "prompt": "Why is the tide late?",
        "ask": lambda uid, prompt: f"{uid} answers {prompt}",
        "query_miner": lambda uid, prompt: f"{uid} answers {prompt}",
        "judge": lambda prompt, answer: len(answer) / 1000,
        "score": lambda answers: [len(answer) / 1000 for answer in answers],
    }
    monkeypatch.setattr("bittensor.Wallet", lambda **_names: None)
    exec(compile(example.text, example.page, "exec"), own)
    assert service.state()["learner"]["counters"]["rewards_accepted"] > before


def test_the_library_example_runs() -> None:
    (example,) = (code for code in PYTHON.findall(README) if "SentenceEmbedGatingModel" in code)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["scores"].shape == (3,)
    assert float(names["loss"]) >= 0


def test_the_tree_names_every_module() -> None:
    tree = README[README.index("## The tree") :]
    for package in ("gating", "learner", "deployments"):
        for module in (ROOT / package).glob("*.py"):
            shown = module.name in tree or (module.name.startswith("demo") and "demo*.py" in tree)
            assert shown or module.name == "__init__.py", f"README's tree lacks {package}/{module.name}"


def test_another_service_on_the_same_port_is_refused(service: Service) -> None:
    assert "curl -s" in service.log
    taken = tidegate("serve", "--config", str(service.config_path))
    assert taken.returncode == 1
    assert f"port {service.port}" in taken.stderr
    assert "tidegate down" in taken.stderr
    assert len(service.post("/v1/score", {"messages": ["a"]})["scores"][0]["scores"]) == 256


# The last one: it ends the service.


def test_ctrl_c_leaves_nothing(service: Service) -> None:
    processes = service.processes()
    # As a terminal does it: the signal goes to the whole foreground group, Ray's processes included.
    os.killpg(service.process.pid, signal.SIGINT)
    assert service.wait() == 0
    assert "stopped" in service.log
    assert wait_until_ended(processes, 10) == []
