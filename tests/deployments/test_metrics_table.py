"""The table in docs/metrics.md and the metrics in the code: each in both, and the same said of it."""

from __future__ import annotations

import re
from pathlib import Path

from deployments.replica_metrics import REPLICA_TABLE
from learner.metrics import LEARNER_TABLE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(ray_tidegate_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", re.MULTILINE)


def test_the_page_has_every_metric_once_with_its_kind_and_its_labels() -> None:
    written = [
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in ROW.findall(PAGE.read_text("utf-8"))
    ]
    assert written == [(metric.scraped_name, metric.kind, metric.tags) for metric in (*REPLICA_TABLE, *LEARNER_TABLE)]


def test_no_page_names_a_metric_that_there_is_not() -> None:
    there = {metric.scraped_name for metric in (*REPLICA_TABLE, *LEARNER_TABLE)}
    for page in (*PAGE.parent.glob("*.md"), PAGE.parents[1] / "README.md"):
        assert set(re.findall(r"\bray_tidegate_\w+", page.read_text("utf-8"))) <= there, page.name
