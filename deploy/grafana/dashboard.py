"""Writes dashboards/tidegate.json: `python deploy/grafana/dashboard.py`, after a change here.

A section is a row of panels; a panel is a title, a unit, and its queries with their legends. `$app` stands for the
applications that were chosen above.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "dashboards" / "tidegate.json"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
ACROSS, WIDTH, HEIGHT = 3, 8, 7
A = 'application=~"$app"'

Panel = tuple[str, str, list[tuple[str, str]]]


def rate(name: str, by: str, only: str = A) -> str:
    """How much a counter rises a second."""
    return f"sum by ({by}) (rate(ray_tidegate_{name}_total{{{only}}}[$__rate_interval]))"


def rise(name: str, over: str = "$__rate_interval") -> str:
    """How much a counter has risen."""
    return f"sum by (application) (increase(ray_tidegate_{name}_total{{{A}}}[{over}]))"


def latest(name: str, by: str = "application") -> str:
    """Where a gauge is; of two processes that told of the same, as around a restart, the greater."""
    return f"max by ({by}) (ray_tidegate_{name}{{{A}}})"


def quantile(share: float, name: str, by: str) -> str:
    """A quantile of a histogram."""
    buckets = f"sum by (le, {by}) (rate(ray_tidegate_{name}_bucket{{{A}}}[$__rate_interval]))"
    return f"histogram_quantile({share}, {buckets})"


def share(part: str, rest: str) -> str:
    """A part of the whole."""
    return f"{rate(part, 'application')} / ({rate(part, 'application')} + {rate(rest, 'application')})"


APP, REPLICA = "{{application}}", "{{application}} {{replica}}"
JOINED = f"{rate('decisions_joined', 'application')} / {rate('decisions', 'application')}"
KEPT = share("embedding_cache_hits", "embedding_cache_misses")
BUSY = rate("engine_busy_seconds", "application, replica")
SECTIONS: list[tuple[str, list[Panel]]] = [
    (
        "Learning",
        [
            (
                "Moving reward, and what random and the best fixed choice would have earned",
                "short",
                [
                    (latest("moving_reward"), f"reward {APP}"),
                    (latest("earned_reward"), f"reward, longer window {APP}"),
                    (latest("baseline_reward", "application, baseline"), APP + " {{baseline}}"),
                ],
            ),
            (
                "What each rule would have earned",
                "short",
                [(latest("rule_would_earn", "application, rule"), APP + " {{rule}}")],
            ),
            ("Moving loss by rule", "short", [(latest("rule_moving_loss", "application, rule"), APP + " {{rule}}")]),
            ("Moving loss of the rule that serves", "short", [(latest("moving_loss"), APP)]),
            (
                "Drift",
                "short",
                [
                    (latest("drift_active"), f"active {APP}"),
                    (
                        rise("drift_alarms", "1h"),
                        f"alarms in 1 h {APP}",
                    ),
                ],
            ),
            (
                "Logged and not learned yet; published",
                "short",
                [
                    (latest("learner_lag_events"), f"lag {APP}"),
                    (latest("learner_version") + " - " + latest("published_version"), f"unpublished {APP}"),
                ],
            ),
            (
                "Publishing a version, p50 and p99",
                "s",
                [
                    (quantile(q, "publish_duration_seconds", "application"), f"p{q * 100:.0f} {APP}")
                    for q in (0.5, 0.99)
                ],
            ),
        ],
    ),
    (
        "Decisions and rewards",
        [
            (
                "Decisions a second",
                "ops",
                [
                    (rate("decisions", "application"), f"logged {APP}"),
                    (rate("decisions_issued", "application, replica"), f"made {REPLICA}"),
                ],
            ),
            ("Decisions that earn rewards", "percentunit", [(JOINED, APP)]),
            ("Rewards a second by outcome", "ops", [(rate("rewards", "application, outcome"), APP + " {{outcome}}")]),
            (
                "Held rewards",
                "short",
                [
                    (latest("quarantined_events", "application, reason"), APP + " {{reason}}"),
                    (latest("quarantined_authors"), f"authors {APP}"),
                ],
            ),
            ("Frozen by an operator", "bool", [(latest("learner_frozen"), APP)]),
            (
                "Decisions that the learner has not taken",
                "short",
                [(latest("decisions_buffered", "application, replica"), REPLICA)],
            ),
        ],
    ),
    (
        "Requests",
        [
            (
                "Requests a second by route",
                "reqps",
                [(rate("http_requests", "application, route"), APP + " {{route}}")],
            ),
            (
                "Answers that are no success, by status",
                "reqps",
                [
                    (
                        rate("http_requests", "application, status", A + ',status!~"2.."'),
                        APP + " {{status}}",
                    )
                ],
            ),
            (
                "Time to answer by route, p99",
                "s",
                [(quantile(0.99, "http_request_duration_seconds", "route"), "{{route}}")],
            ),
            (
                "Refused because too much waits",
                "reqps",
                [(rate("admission_refusals", "application, limit"), APP + " {{limit}}")],
            ),
            (
                "Calls not let in, by reason",
                "reqps",
                [(rate("auth_failures", "application, reason"), APP + " {{reason}}")],
            ),
            (
                "Delay of the queue, and its limit",
                "s",
                [
                    (latest("queue_delay_seconds", "application, replica"), REPLICA),
                    (latest("queue_delay_limit_seconds"), f"limit {APP}"),
                ],
            ),
        ],
    ),
    (
        "Engine",
        [
            (
                "Latency of a text by length, p50 and p99",
                "s",
                [
                    (quantile(q, "text_latency_seconds", "length"), f"p{q * 100:.0f} {{{{length}}}}")
                    for q in (0.5, 0.99)
                ],
            ),
            (
                "Of that waiting, p50 and p99",
                "s",
                [(quantile(q, "text_wait_seconds", "length"), f"p{q * 100:.0f} {{{{length}}}}") for q in (0.5, 0.99)],
            ),
            (
                "Texts a second",
                "ops",
                [
                    (rate("texts_encoded", "application, replica"), f"computed {REPLICA}"),
                    (rate("embedding_cache_hits", "application"), f"kept {APP}"),
                    (rate("embedding_cache_shared", "application"), f"shared {APP}"),
                ],
            ),
            ("Texts whose embedding was kept", "percentunit", [(KEPT, APP)]),
            (
                "Memory of kept embeddings",
                "bytes",
                [(latest("embedding_cache_bytes", "application, replica"), REPLICA)],
            ),
            (
                "What waits",
                "short",
                [
                    (latest("queue_tokens", "application, replica"), f"tokens {REPLICA}"),
                    (latest("queue_texts", "application, replica"), f"texts {REPLICA}"),
                ],
            ),
            (
                "Speed under load, tokens a second",
                "short",
                [(latest("engine_tokens_per_second", "application, replica"), REPLICA)],
            ),
            ("Engine threads that compute", "short", [(BUSY, REPLICA)]),
            (
                "Tokens in a batch, p50 and p99",
                "short",
                [(quantile(q, "batch_tokens", "application"), f"p{q * 100:.0f} {APP}") for q in (0.5, 0.99)],
            ),
            (
                "Time of a batch, p50 and p99",
                "s",
                [(quantile(q, "batch_duration_seconds", "application"), f"p{q * 100:.0f} {APP}") for q in (0.5, 0.99)],
            ),
        ],
    ),
    (
        "Weights and replicas",
        [
            ("Age of the weights", "s", [(latest("weights_age_seconds", "application, replica"), REPLICA)]),
            (
                "Version in use",
                "short",
                [
                    (latest("weights_version", "application, replica"), REPLICA),
                    (latest("learner_version"), f"learner {APP}"),
                ],
            ),
            ("Versions between the newest and the oldest replica", "short", [(latest("version_skew_events"), APP)]),
            (
                "Replicas: all, degraded, without the learner",
                "short",
                [
                    (latest("replicas"), f"all {APP}"),
                    (f"sum by (application) (ray_tidegate_weights_degraded{{{A}}})", f"degraded {APP}"),
                    (f"sum by (application) (1 - ray_tidegate_learner_reachable{{{A}}})", f"without the learner {APP}"),
                ],
            ),
            (
                "Epoch: the learner's and the replicas'",
                "short",
                [
                    (latest("learner_epoch"), f"learner {APP}"),
                    (latest("weights_epoch", "application, replica"), REPLICA),
                ],
            ),
        ],
    ),
    (
        "Network",
        [
            (
                "Age of the view, and what is usual at most",
                "s",
                [(latest("chain_view_age_seconds"), APP), (latest("chain_view_age_limit_seconds"), f"usual {APP}")],
            ),
            (
                "The chain cannot be read",
                "short",
                [
                    (latest("chain_read_failing", "application, cause"), APP + " {{cause}}"),
                    (
                        rise("chain_read_failures"),
                        f"failures {APP}",
                    ),
                ],
            ),
            ("Block in use", "none", [(latest("chain_block"), APP)]),
            (
                "Uids",
                "short",
                [(latest("network_uids"), f"all {APP}"), (latest("network_available_uids"), f"available {APP}")],
            ),
            (
                "Resyncs, and rows that they reset",
                "short",
                [
                    (
                        rise(name),
                        f"{name} {APP}",
                    )
                    for name in ("resyncs", "rows_reset")
                ],
            ),
        ],
    ),
    (
        "Log and checkpoints",
        [
            ("Size of the log", "bytes", [(latest("log_bytes"), APP)]),
            (
                "Rows of the log",
                "short",
                [
                    (latest("log_rows", "application, table"), APP + " {{table}}"),
                    (
                        rise("log_pruned_rows"),
                        f"pruned {APP}",
                    ),
                ],
            ),
            (
                "Cannot be written: log, checkpoint",
                "bool",
                [(latest("log_failing"), f"log {APP}"), (latest("checkpoint_failing"), f"checkpoint {APP}")],
            ),
            (
                "Age of the last checkpoint, and the interval",
                "s",
                [(latest("checkpoint_age_seconds"), APP), (latest("checkpoint_interval_seconds"), f"interval {APP}")],
            ),
            ("Learned since the last checkpoint", "short", [(latest("checkpoint_unsaved_events"), APP)]),
        ],
    ),
]


def build() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, section in SECTIONS:
        panels.append(_placed({"type": "row", "title": title, "collapsed": False, "panels": []}, panels, 0, y, 24, 1))
        y += 1
        for place, (name, unit, queries) in enumerate(section):
            x, line = WIDTH * (place % ACROSS), y + HEIGHT * (place // ACROSS)
            panels.append(_placed(_time_series(name, unit, queries), panels, x, line, WIDTH, HEIGHT))
        y += HEIGHT * -(-len(section) // ACROSS)
    applications = {
        "name": "app",
        "label": "application",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(ray_tidegate_weights_degraded, application)", "refId": "app"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }
    return {
        "uid": "tidegate",
        "title": "Tidegate",
        "schemaVersion": 41,
        "version": 2,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "15s",
        "templating": {"list": [applications]},
        "panels": panels,
    }


def _placed(panel: dict[str, Any], before: list[dict[str, Any]], x: int, y: int, w: int, h: int) -> dict[str, Any]:
    return {"id": len(before) + 1, **panel, "gridPos": {"x": x, "y": y, "w": w, "h": h}}


def _time_series(title: str, unit: str, queries: list[tuple[str, str]]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend}
        for place, (query, legend) in enumerate(queries)
    ]
    return {
        "title": title,
        "type": "timeseries",
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": targets,
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(build(), indent=2) + "\n", encoding="utf-8")
