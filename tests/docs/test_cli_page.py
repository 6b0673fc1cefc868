"""What docs/cli.md shows is what the commands print, of the answers that the README shows."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest

from tests.deployments.cli.terminal import let_answer_with, run

from .blocks import ROOT, blocks


def readme_answer(path: str) -> dict[str, Any]:
    """What the README shows of a call; `tests/integration/test_readme.py` compares it with a real service."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [shown] = re.findall(rf"^\$ curl -s \S+{path} .*?\n(\{{.*?)\n```", readme, re.DOTALL | re.MULTILINE)
    answer: dict[str, Any] = json.loads(shown.replace("\n", ""))
    return answer


def test_the_transcript_is_what_the_commands_print(monkeypatch: pytest.MonkeyPatch) -> None:
    selected, reported = readme_answer("/v1/select"), readme_answer("/v1/rewards")
    [selection] = selected["selections"]
    # The README asks three, the page two: the last one is the one that may have been explored.
    for name in ("uids", "scores"):
        selection[name] = selection[name][:2]
    selection["propensities"] = [selection["propensities"][0], selection["propensities"][-1]]
    reported["accepted"] = 2
    sent = let_answer_with(monkeypatch, {"/v1/select": selected, "/v1/rewards": reported})
    [block] = [block for block in blocks("console") if block.page == "cli.md"]
    transcript = re.findall(r"^\$ tidegate (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)
    assert [shlex.split(command)[0] for command, _ in transcript] == ["select", "reward"]
    for command, shown in transcript:
        result = run(*shlex.split(command))
        assert result.exit_code == 0
        printed = [line.rstrip() for line in result.stdout.splitlines()]
        assert printed == shown.splitlines()
    assert sent[0][2]["k"] == 2
    assert sent[1][2]["rewards"][0]["decision_id"] == selection["decision_id"]
