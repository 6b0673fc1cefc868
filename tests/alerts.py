"""The alert rules as they are deployed, and the same rules with all their times made shorter."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).resolve().parents[1] / "deploy" / "prometheus" / "alerts.yaml"
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_RANGE = re.compile(r"(\[|offset )(\d+)([smhd])\b")


def read_rules() -> list[dict[str, Any]]:
    """The rules, in the order of the file."""
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def hastened_rules(times: float) -> dict[str, Any]:
    """The rules' file with every `for`, range and offset so many times shorter. Nothing else is changed.

    A day becomes a quarter of an hour at 100, and what has to hold for five minutes has to for three seconds.
    """
    document: dict[str, Any] = copy.deepcopy(yaml.safe_load(RULES.read_text(encoding="utf-8")))
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["for"] = _shorter(*_split(rule["for"]), times)
            rule["expr"] = _RANGE.sub(lambda found: found[1] + _shorter(int(found[2]), found[3], times), rule["expr"])
    return document


def metrics_named(text: str) -> set[str]:
    """The names of Tidegate's metrics in a PromQL expression."""
    return set(re.findall(r"\bray_tidegate_\w+", text))


def _split(duration: str) -> tuple[int, str]:
    found = re.fullmatch(r"(\d+)([smhd])", duration)
    assert found is not None, f"{duration} is none of the durations that this knows"
    return int(found[1]), found[2]


def _shorter(number: int, unit: str, times: float) -> str:
    return f"{round(number * _UNITS_MS[unit] / times)}ms"
