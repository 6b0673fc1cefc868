from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deployments.replica_metrics import REPLICA_TABLE
from learner.metrics import LEARNER_TABLE
from tests.alerts import RULES, hastened_rules, metrics_named, read_rules
from tests.deploy.manifests import ROOT

UNIT_TESTS = Path(__file__).parent / "alerts_test.yaml"
PAGE = ROOT / "docs" / "alerts.md"
NAMES = [rule["alert"] for rule in read_rules()]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here; on Debian and Ubuntu: apt install prometheus")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def test_promtool_has_nothing_against_the_rules() -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_rules_fire_when_they_should_and_only_then() -> None:
    tested = promtool("test", "rules", UNIT_TESTS)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_rule_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases: dict[str, set[bool]] = {}
    for test in yaml.safe_load(UNIT_TESTS.read_text("utf-8"))["tests"]:
        for one in test["alert_rule_test"]:
            cases.setdefault(one["alertname"], set()).add(bool(one["exp_alerts"]))
    assert cases == {name: {True, False} for name in NAMES}


@pytest.mark.parametrize("rule", read_rules(), ids=NAMES)
def test_each_rule_says_how_bad_it_is_and_what_to_do(rule: dict) -> None:  # type: ignore[type-arg]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"


def test_the_page_has_an_entry_for_each_alert_and_for_no_other() -> None:
    page = PAGE.read_text("utf-8")
    assert re.findall(r"^## (Tidegate\w+)$", page, re.MULTILINE) == NAMES
    for entry in page.split("\n## ")[1:]:
        for part in ("**It means**", "**Look at**", "**Do**"):
            assert part in entry, f"{entry.splitlines()[0]} has no {part}"


def test_rules_ask_for_metrics_that_there_are() -> None:
    there = {metric.scraped_name for metric in (*REPLICA_TABLE, *LEARNER_TABLE)}
    for rule in read_rules():
        assert metrics_named(rule["expr"]) <= there


def test_hastened_rules_differ_in_their_times_only() -> None:
    [group] = hastened_rules(100)["groups"]
    durations = re.compile(r"\b\d+(s|m|h|d|ms)\b")
    for slow, fast in zip(read_rules(), group["rules"], strict=True):
        assert durations.sub("", str(slow)) == durations.sub("", str(fast))
    [join] = [rule for rule in group["rules"] if rule["alert"] == "TidegateJoinRateDrop"]
    assert join["for"] == "6000ms"
    assert "[9000ms]" in join["expr"]
    assert "[864000ms] offset 9000ms" in join["expr"]


def test_the_documented_command_makes_a_prometheus_rule_of_them(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    [command] = re.findall(r"```bash\n(\(.*?PrometheusRule.*?)\n```", page, re.DOTALL)
    assert command.endswith("| kubectl apply -f -")
    made = subprocess.run(
        ["bash", "-c", command.removesuffix("| kubectl apply -f -")], cwd=ROOT, capture_output=True, check=True
    )
    resource = yaml.safe_load(made.stdout)
    assert (resource["apiVersion"], resource["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert resource["metadata"] == {"name": "tidegate", "namespace": "tidegate"}
    assert resource["spec"] == yaml.safe_load(RULES.read_text("utf-8"))
