from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

import deployments.cli as cli
from deployments.config import SelectionArgs
from deployments.errors import PlotError
from deployments.evaluate import plan_evaluation, run_evaluation, save_plot
from deployments.evaluation_plot import draw_evaluation
from deployments.serve_config import ServeConfigError
from gating.policies import Policy, Softmax, TailExploration
from learner.checkpoint import CheckpointStore
from learner.config import AdagradConfig
from learner.errors import UnknownVersionError
from tests.learner.builders import FINGERPRINT, START, Clock, build_learner, save
from tests.learner.live_gate import LiveGate
from tests.learner.logs import open_log

RULE = {"name": "adagrad", "learning_rate": 0.5}
Build = Callable[..., LiveGate]


@pytest.fixture(autouse=True)
def _threads() -> Any:
    """The command sets them for its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def write_config(folder: Path, **args: Any) -> Path:
    learner = {"log": {"url": "sqlite:///{app}/events.db"}, "checkpoints": {"url": "{app}/checkpoints"}, "rule": RULE}
    path = folder / "config.yaml"
    application = {
        "name": "app",
        "import_path": "deployments.app:build_app",
        "args": {"learner": learner, "selection": {"epsilon": 0.5, "epsilon_single": 0.5}, **args},
    }
    path.write_text(yaml.safe_dump({"applications": [application]}))
    return path


@pytest.fixture
def gate(config: Path) -> Any:
    """A gate whose log and checkpoints are where the config says."""
    (config.parent / "app").mkdir()
    logs = []

    def build(policy: Policy | None = None, **settings: Any) -> LiveGate:
        log = open_log(f"sqlite:///{config.parent}/app/events.db", fingerprint=FINGERPRINT)
        logs.append(log)
        learner = build_learner(view=START, rule_config=AdagradConfig(learning_rate=0.5), log=log, **settings)
        return LiveGate(learner, policy or TailExploration(0.5, 0.5))

    yield build
    for log in logs:
        log.close()


def plan(config: Path, **given: Any) -> Any:
    return plan_evaluation(config, None, **{"policy": None, "rule": None, **given})


def evaluated(config: Path, **given: Any) -> dict[str, Any]:
    return run_evaluation(plan(config, **given))


def run(*args: str) -> Result:
    return CliRunner().invoke(cli.app, ["evaluate", *args], env={"COLUMNS": "120"})


def test_the_configured_policy_and_rule_are_worth_what_they_earned(config: Path, gate: Build) -> None:
    live = gate()
    live.run(60, every=2)
    result = evaluated(config)
    assert (result["application"], result["log_id"]) == ("app", live.learner.log.id)
    assert result["selection"] == {
        "policy": "tail_exploration",
        "epsilon": 0.5,
        "epsilon_single": 0.5,
        "explore_slots": 1,
    }
    assert result["rule"]["learning_rate"] == 0.5
    assert (result["decisions"], result["from"], result["to"], result["refresh"]) == (60, 0, 60, 1)
    assert result["mean_weight"] == pytest.approx(1.0)
    earned = np.mean([float(d.embedding[uid % 4] > 0) for d in live.decisions for uid in d.uids])
    for name in ("logged", "ips", "snips"):
        assert result[name]["value"] == pytest.approx(earned)
    assert result["dr"]["status"] == "ok"


def test_another_policy_has_its_default_settings_unless_told(config: Path, gate: Build) -> None:
    gate().run(40)
    assert evaluated(config, policy="softmax")["selection"] == {"policy": "softmax", "temperature": 0.05}
    told = evaluated(config, policy="squarecb", settings={"gamma": 3.0, "explore_slots": 2, "epsilon": None})
    assert told["selection"] == {"policy": "squarecb", "gamma": 3.0, "explore_slots": 2}
    changed = plan(config, policy="tail_exploration", settings={"epsilon": 0.1})
    assert changed.selection == SelectionArgs(epsilon=0.1, epsilon_single=0.5)


def test_another_rule_learns_from_the_beginning(config: Path, gate: Build) -> None:
    live = gate()
    live.run(30)
    save(live.learner, CheckpointStore(str(config.parent / "app/checkpoints"), keep=5))
    live.run(10)
    result = evaluated(config, rule="softmax_mse", first=35)
    assert (result["rule"]["name"], result["decisions"], result["from"]) == ("softmax_mse", 5, 35)


@pytest.mark.parametrize("saved", [True, False])
def test_a_range_of_versions_is_judged_by_what_was_known_then(config: Path, gate: Build, saved: bool) -> None:
    live = gate(Softmax(0.3))
    live.run(20)
    if saved:
        save(live.learner, CheckpointStore(str(config.parent / "app/checkpoints"), keep=5))
    live.run(20)
    result = evaluated(config, policy="softmax", settings={"temperature": 0.3}, first=25, last=34)
    assert (result["decisions"], result["from"], result["to"]) == (10, 25, 34)
    assert result["mean_weight"] == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("held", [[], [1]], ids=["pruned", "but for a held event"])
def test_a_log_without_its_beginning_is_judged_from_the_oldest_checkpoint_on(
    config: Path, gate: Build, held: list[int]
) -> None:
    live = gate(Softmax(0.3), clock=Clock())
    live.run(20)
    save(live.learner, CheckpointStore(str(config.parent / "app/checkpoints"), keep=5))
    live.run(20)
    while live.learner.log.prune(upto=20, before_s=1.0, keep=held):
        pass
    # Pruned by time alone, so the decisions of the events that are left are there.
    result = evaluated(config, policy="softmax", settings={"temperature": 0.3})
    assert (result["from"], result["decisions"]) == (20, 20)
    assert result["mean_weight"] == pytest.approx(1.0, rel=1e-4)
    assert evaluated(config, policy="softmax", first=25)["decisions"] == 15
    with pytest.raises(UnknownVersionError, match="no checkpoint of rule softmax_mse"):
        evaluated(config, rule="softmax_mse")


def test_heads_are_taken_now_and_then_in_a_long_log(config: Path, gate: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.evaluate._MOST_HEADS", 10)
    gate().run(40)
    assert evaluated(config)["refresh"] == 4


def test_greedy_logs_give_no_number_for_what_they_never_asked(config: Path, gate: Build) -> None:
    gate(TailExploration(0.0)).run(50, k=1)
    result = evaluated(config, policy="softmax")
    assert [result[name]["status"] for name in ("logged", "ips", "snips", "dr")] == ["ok"] + ["no_support"] * 3
    assert result["ips"]["value"] is None
    assert result["unreachable"] > 0.1
    explored = json.loads(run("--config", str(config), "--policy", "softmax", "--explored", "--json").stdout)
    assert (explored["decisions"], explored["left_out"]["certain"], explored["dr"]["status"]) == (0, 50, "no_data")
    shown = run("--config", str(config), "--policy", "softmax")
    assert shown.exit_code == 0
    assert shown.stdout.count("no_support") == 3
    assert json.loads(run("--config", str(config), "--policy", "softmax", "--json").stdout)["dr"]["low"] is None


def test_the_command_shows_estimates_and_what_was_left_out(config: Path, gate: Build, tmp_path: Path) -> None:
    live = gate()
    live.run(50)
    live.decide()
    live.learner._clock.now_s = 0.0
    plot = tmp_path / "plot.svg"
    shown = run("--config", str(config), "--policy", "softmax", "--temperature", "0.5", "--k", "3", "--plot", str(plot))
    assert shown.exit_code == 0, shown.output
    assert "softmax on adagrad, k 3, 50 decisions" in shown.stdout
    assert "effective sample size" in shown.stdout
    assert "left out: 1 unrewarded" in shown.stdout
    result = json.loads(
        run("--config", str(config), "--policy", "softmax", "--temperature", "0.5", "--k", "3", "--json").stdout
    )
    assert f"{result['dr']['value']:.4f}" in shown.stdout
    assert f"{result['ips']['low']:.4f} to {result['ips']['high']:.4f}" in shown.stdout
    assert result["left_out"]["unrewarded"] == 1
    assert ET.fromstring(plot.read_text()).tag.endswith("svg")


def test_progress_is_told(config: Path, gate: Build) -> None:
    gate().run(5)
    told: list[Any] = []
    run_evaluation(plan(config), on_start=lambda *ends: told.append(ends), on_version=told.append)
    assert told == [(0, 5), 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--policy", "thompson"], "policy 'thompson': Input should be"),
        (["--policy", "softmax", "--gamma", "3"], "policy softmax has temperature, not gamma"),
        (["--epsilon", "2"], "policy 'tail_exploration': Input should be less than or equal to 1"),
        (["--rule", "nonesuch"], "there is no rule 'nonesuch'"),
        (["--app", "other"], "has the applications ['app']; name one with --app"),
        (["--plot", "plot.png"], "a plot is written as SVG, got plot.png; name a file that ends in .svg"),
        (["--plot", "/nowhere/plot.svg"], "there is no folder /nowhere; make it first"),
        ([], "there is no log at"),
    ],
)
def test_what_cannot_be_evaluated_is_a_clear_error(config: Path, args: list[str], message: str) -> None:
    result = run("--config", str(config), *args)
    assert result.exit_code == 1
    assert result.stderr.strip().startswith("tidegate evaluate: ")
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_log_in_memory_cannot_be_evaluated(tmp_path: Path) -> None:
    config = write_config(tmp_path, learner={"log": {"url": "memory"}})
    with pytest.raises(ServeConfigError, match="keeps its log in memory"):
        plan(config)


RESULT: dict[str, Any] = {
    "selection": {"policy": "softmax"},
    "rule": {"name": "a<b"},
    "k": None,
    "decisions": 12,
    "logged": {"status": "ok", "value": 0.5, "low": 0.4, "high": 0.6},
    "ips": {"status": "ok", "value": 0.7, "low": 0.6, "high": 0.8},
    "snips": {"status": "no_support", "value": None, "low": None, "high": None},
    "dr": {"status": "ok", "value": 0.75, "low": 0.7, "high": 0.8},
}


def test_the_plot_has_each_interval_in_its_place() -> None:
    root = ET.fromstring(draw_evaluation(RESULT))
    tag = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{tag}text")]
    assert texts[0] == "softmax on a<b, k as logged: 12 decisions"
    assert "no_support" in texts
    values = [float(circle.get("cx", "")) for circle in root.iter(f"{tag}circle")]
    spans = [
        (float(line.get("x1", "")), float(line.get("x2", "")))
        for line in root.iter(f"{tag}line")
        if line.get("stroke-width") == "3"
    ]
    assert len(values) == len(spans) == 3
    assert values == [pytest.approx((low + high) / 2, abs=0.2) for low, high in spans]
    assert values[0] < values[1] < values[2]
    # In proportion: 0.5, 0.7 and 0.75.
    assert (values[1] - values[0]) / (values[2] - values[0]) == pytest.approx(0.8, abs=0.01)
    # From 90 to 610, but for a margin.
    assert min(low for low, _ in spans) == pytest.approx(90 + 520 * 0.02 / 0.44, abs=0.1)
    assert max(high for _, high in spans) == pytest.approx(610 - 520 * 0.02 / 0.44, abs=0.1)


def test_a_plot_without_numbers_is_drawn_too() -> None:
    nothing = {"status": "no_data", "value": None, "low": None, "high": None}
    root = ET.fromstring(draw_evaluation({**RESULT, **dict.fromkeys(("logged", "ips", "snips", "dr"), nothing)}))
    assert not list(root.iter("{http://www.w3.org/2000/svg}circle"))


def test_a_plot_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "plot.svg").mkdir()
    with pytest.raises(PlotError, match=r"plot\.svg cannot be written: Is a directory"):
        save_plot(RESULT, tmp_path / "plot.svg")
