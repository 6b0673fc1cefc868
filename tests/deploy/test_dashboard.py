from __future__ import annotations

import json
import runpy
from typing import Any

from deployments.replica_metrics import REPLICA_TABLE
from learner.metrics import LEARNER_TABLE
from tests.alerts import metrics_named
from tests.deploy.manifests import DEPLOY, read_documents

GRAFANA = DEPLOY / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "tidegate.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_it_is_what_its_program_writes() -> None:
    assert runpy.run_path(str(GRAFANA / "dashboard.py"))["build"]() == DASHBOARD


def test_it_asks_for_every_metric_that_there_is_and_for_no_other() -> None:
    series = {"gauge": "", "counter": "", "histogram": "_bucket"}
    there = {metric.scraped_name + series[metric.kind] for metric in (*REPLICA_TABLE, *LEARNER_TABLE)}
    asked = {name for panel in PANELS for target in panel["targets"] for name in metrics_named(target["expr"])}
    assert asked == there


def test_its_panels_lie_side_by_side() -> None:
    taken = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert all(x < 24 for x, _ in taken)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_it_asks_the_prometheus_that_compose_starts() -> None:
    [sources] = read_documents(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")
    assert {panel["datasource"]["uid"] for panel in PANELS} == {sources["datasources"][0]["uid"]}
