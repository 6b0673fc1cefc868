"""What the README and the docs show could be typed: settings are settings, commands have these options, bodies parse.

The Python is run in `tests/integration/test_readme.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.cli import app
from deployments.config import ServeArgs
from deployments.schemas import RewardsRequest, ScoreRequest, SelectRequest
from deployments.serve_config import check_serve_config
from learner.roster import RosterSource

from .blocks import ROOT, Block, blocks, command_lines

ADDRESS = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
BODIES = {"/v1/score": ScoreRequest, "/v1/select": SelectRequest, "/v1/rewards": RewardsRequest}
SHELL = [*blocks("bash"), *blocks("console")]
COMMANDS = [(str(block), line) for block in SHELL for line in command_lines(block)]


def those_that_begin_with(*words: str) -> list[Any]:
    own = re.compile(rf"^(?:\.venv/bin/)?(?:{'|'.join(words)})(?:\s|$)")
    return [pytest.param(line, id=f"{place}: {line[:40]}") for place, line in COMMANDS if own.match(line)]


def arguments(line: str) -> list[str]:
    return shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_settings_are_taken(block: Block, tmp_path: Path) -> None:
    settings = yaml.safe_load(re.sub(r"\b5\w\.\.\.", ADDRESS, block.text))
    if "experts" in settings:
        roster = tmp_path / "roster.yaml"
        roster.write_text(block.text, encoding="utf-8")
        assert RosterSource(roster).fetch_view().n == len(settings["experts"])
    elif "applications" in settings:
        for application in settings["applications"]:
            ServeArgs.model_validate(application["args"])
    elif settings.keys() & ServeDeploySchema.model_fields.keys():
        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
        check_serve_config(config | settings)
    else:
        # As in a Serve config, where a list is a list.
        ServeArgs.model_validate_json(json.dumps(settings.get("args", settings)))


@pytest.mark.parametrize("line", those_that_begin_with("tidegate"))
def test_tidegate_has_this_command_and_these_options(line: str) -> None:
    group: Any = typer.main.get_command(app)
    name, *options = arguments(line)
    command = group.commands[name]
    with contextlib.suppress(typer.Exit):  # which asking for help ends with
        command.make_context(name, options)


@pytest.mark.parametrize("line", those_that_begin_with("make"))
def test_make_has_this_target(line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in arguments(line) if "=" not in word]
    assert [target for target in targets if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("line", those_that_begin_with("python -m benchmarks", "python -m benchmarks.\\w+"))
def test_a_benchmark_has_these_options(line: str) -> None:
    _, module, *options = arguments(line)
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no {module}"
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    assert [option for option in options if option.startswith("--") and f'"{option}"' not in source] == []


@pytest.mark.parametrize("line", those_that_begin_with("curl"))
def test_the_service_takes_this_body(line: str) -> None:
    words = shlex.split(line)
    path = next(path for path in BODIES if any(word.endswith(path) for word in words))
    BODIES[path].model_validate(json.loads(words[words.index("-d") + 1]))


def test_no_kind_of_block_is_left_out() -> None:
    assert blocks("yaml")
    assert all(those_that_begin_with(word) for word in ("tidegate", "make", "curl"))
    assert those_that_begin_with("python -m benchmarks", "python -m benchmarks.\\w+")
