"""`GET /v1/state` for people: the learner, the network and the replicas at a glance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .status_nodes import render_engines, render_nodes, runs_on
from .status_text import mapping, mappings, plain

LEARNER_ROWS = (
    ("rule", "rule"),
    ("epoch", "epoch"),
    ("version", "version"),
    ("published version", "published_version"),
    ("events logged", "events_logged"),
    ("events applied", "events_applied"),
    ("decisions", "decisions"),
    ("join rate", "join_rate"),
    ("moving reward", "moving_reward"),
    ("moving loss", "moving_loss"),
    ("last seen, s ago", "last_seen_s"),
    ("reason", "reason"),
    ("encoder", "fingerprint"),
    ("hand-over due", "handover"),
    ("runs on", "runs_on"),
)
DURABILITY_ROWS = (
    ("durable", "durable"),
    ("log", "log_id"),
    ("log error", "log_error"),
    ("frozen", "frozen"),
    ("quarantined", "quarantine"),
)
TRUST_ROWS = (
    ("on", "on"),
    ("active authors", "active_authors"),
    ("quarantined authors", "quarantined"),
    ("distrusted authors", "distrusted"),
    ("trusted authors", "trusted"),
)
CHECKPOINT_ROWS = (
    ("checkpoint", "name"),
    ("its version", "version"),
    ("saved, s ago", "age_s"),
    ("checkpoint error", "last_error"),
    ("pruned rows", "pruned_rows"),
)
METAGRAPH_ROWS = (
    ("source", "source"),
    ("netuid", "netuid"),
    ("block", "block"),
    ("uids", "n"),
    ("available", "available"),
    ("network", "network"),
    ("endpoint", "endpoint"),
    ("read, s ago", "block_age_s"),
    ("last error", "last_error"),
    ("failed reads", "failures"),
    ("stale views", "stale_views"),
)
REPLICA_COLUMNS = (
    ("replica", "id"),
    ("version", "version"),
    ("age, s", "age_s"),
    ("queued", "queued_texts"),
    ("texts", "texts"),
    ("chosen", "issued"),
    ("waiting", "buffered_decisions"),
    ("polled, s", "last_poll_s"),
)


def render_status(state: Mapping[str, Any]) -> RenderableType:
    """The state as tables for 80 columns. What is null is shown as a dash; what is missing is passed over."""
    learner = mapping(state.get("learner"))
    counters = tuple((name.replace("_", " "), name) for name in mapping(learner.get("counters")))
    metagraph = _pairs("metagraph", METAGRAPH_ROWS, mapping(state.get("metagraph")))
    parts: list[RenderableType] = [
        _headline(state, learner),
        _pairs("learner", LEARNER_ROWS, {**learner, **runs_on(learner)}),
        *_rules(learner),
        *_durability(learner),
        *_trust(learner),
        metagraph,
        _replicas(state.get("replicas")),
        *render_engines(state),
        *render_nodes(state),
    ]
    if counters:
        parts.insert(parts.index(metagraph), _pairs("counted", counters, mapping(learner.get("counters"))))
    return Group(*parts)


def _headline(state: Mapping[str, Any], learner: Mapping[str, Any]) -> Text:
    status = learner.get("status")
    headline = Text("learner ")
    headline.append(plain(status), style="green" if status == "running" else "bold red")
    weights = mapping(state.get("weights"))
    version, age_s = plain(weights.get("version")), plain(weights.get("age_s"))
    headline.append(f"   weights version {version}, confirmed {age_s} s ago   ")
    degraded = state.get("degraded")
    if degraded is not None:
        headline.append(*(("degraded", "bold red") if degraded else ("fresh", "green")))
    return headline


def _durability(learner: Mapping[str, Any]) -> list[RenderableType]:
    """Whether what was acknowledged is safe. A learner that is away tells nothing of it."""
    if "durable" not in learner:
        return []
    checkpoint = learner.get("checkpoint")
    table = _table("durability")
    _add_rows(table, DURABILITY_ROWS, learner)
    # With a log in memory nothing is saved.
    if learner["durable"] and isinstance(checkpoint, Mapping):
        _add_rows(table, CHECKPOINT_ROWS, checkpoint)
    return [table]


def _trust(learner: Mapping[str, Any]) -> list[RenderableType]:
    """Whom the learner does not believe."""
    return [_pairs("reward trust", TRUST_ROWS, mapping(learner["trust"]))] if "trust" in learner else []


def _pairs(title: str, rows: tuple[tuple[str, str], ...], values: Mapping[str, Any]) -> RenderableType:
    table = _table(title)
    _add_rows(table, rows, values)
    return table if table.row_count else Text(f"{title}: not known")


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _rules(learner: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The rules side by side, where there are shadows, and an alarm that is on."""
    drift = mapping(learner.get("drift"))
    if drift.get("active"):
        rise = f"from {plain(drift.get('loss_before'))} to {plain(drift.get('loss_after'))}"
        yield Text(f"drift: the loss rose {rise} at version {plain(drift.get('last_version'))}", style="bold red")
    rules = mapping(learner.get("rules"))
    if len(rules) < 2:
        return
    table = Table(title="rules: what each would have earned", title_justify="left", padding=0)
    for heading in ("rule", "serves", "loss", "reward", "95% interval", "better by", "of decisions"):
        table.add_column(heading, justify="left" if heading == "rule" else "right", overflow="fold")
    for label, rule in rules.items():
        table.add_row(label, *map(Text, _rule_cells(mapping(rule))))
    yield table


def _rule_cells(rule: Mapping[str, Any]) -> tuple[str, ...]:
    earns = mapping(rule.get("would_earn"))
    better = mapping(earns.get("better_by"))
    return (
        plain(rule.get("serves")),
        plain(rule.get("moving_loss")),
        plain(earns.get("value")) if earns.get("status") == "ok" else plain(earns.get("status")),
        _interval(earns),
        f"{plain(better.get('value'))} ({_interval(better)})" if better.get("status") == "ok" else "-",
        plain(earns.get("decisions")),
    )


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate.get("status") != "ok":
        return "-"
    return f"{plain(estimate.get('low'))} to {plain(estimate.get('high'))}"


def _add_rows(table: Table, rows: tuple[tuple[str, str], ...], values: Mapping[str, Any]) -> None:
    for label, key in rows:
        if key in values:
            table.add_row(Text(label), Text(plain(values[key])))


def _replicas(replicas: object) -> RenderableType:
    table = Table(title="replicas", title_justify="left", padding=0)
    for label, _ in REPLICA_COLUMNS:
        # A long name may be broken; a number must not be.
        is_name = label == "replica"
        table.add_column(label, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    for replica in mappings(replicas):
        table.add_row(*(Text(plain(replica.get(key))) for _, key in REPLICA_COLUMNS))
    return table if table.row_count else Text("replicas: none known")
