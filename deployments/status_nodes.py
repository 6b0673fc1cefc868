"""Where things run and how the engines do, for `tidegate status`: tables of what `/v1/state` says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .status_text import mapping, mappings, number, plain

_SHORT_ID = 8
_LENGTHS = ("short", "medium", "long")
_GIB = 2**30


def runs_on(process: Mapping[str, Any]) -> dict[str, str]:
    """The row that says where a learner runs, if it says so itself."""
    node = mapping(process.get("node"))
    return {"runs_on": f"{plain(node.get('hostname'))} ({plain(node.get('ip'))})"} if node else {}


def render_engines(state: Mapping[str, Any]) -> Iterator[RenderableType]:
    """One row a replica: its node, and how its engine does."""
    replicas = [replica for replica in mappings(state.get("replicas")) if "latency_ms" in replica]
    if not replicas:
        return
    table = _table("engines: tokens, and ms a text took (p50/p99) by its length")
    _add_columns(table, ("replica", "node"), ("queued", "per s", "cached", *_LENGTHS))
    for replica in replicas:
        latencies = mapping(replica.get("latency_ms"))
        cells = (
            plain(replica.get("id")),
            _short(mapping(replica.get("node")).get("id")),
            plain(replica.get("queued_tokens")),
            plain(replica.get("tokens_per_s")),
            _hit_rate(mapping(replica.get("embedding_cache"))),
            *(_latency(mapping(latencies.get(length))) for length in _LENGTHS),
        )
        table.add_row(*map(Text, cells))
    yield table


def render_nodes(state: Mapping[str, Any]) -> Iterator[RenderableType]:
    """One row a node: who it is, what it has, and what of the service runs there."""
    nodes = mappings(state.get("nodes"))
    if not nodes:
        return
    table = _table(f"nodes, as of {plain(state.get('nodes_age_s'))} s ago")
    _add_columns(table, ("node", "host", "address"), ("CPUs", "GPUs", "GiB"), ("runs",))
    for node in nodes:
        resources = mapping(node.get("resources"))
        memory = number(resources.get("memory"))
        cells = (
            _short(node.get("id")),
            plain(node.get("hostname")),
            plain(node.get("ip")),
            plain(resources.get("CPU", 0)),
            plain(resources.get("GPU", 0)),
            "-" if memory is None else plain(round(memory / _GIB, 1)),
            _runs_there(state, node),
        )
        table.add_row(*map(Text, cells))
    yield table


def _runs_there(state: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    def is_there(process: Mapping[str, Any]) -> bool:
        return bool(node.get("id")) and mapping(process.get("node")).get("id") == node.get("id")

    replicas = sum(map(is_there, mappings(state.get("replicas"))))
    told = ["head"] if node.get("is_head") else []
    told += ["learner"] if is_there(mapping(state.get("learner"))) else []
    told += [f"{replicas} replica{'s' if replicas > 1 else ''}"] if replicas else []
    return ", ".join(told) or "-"


def _hit_rate(cache: Mapping[str, Any]) -> str:
    """How many of the texts skipped the engine: they were known, or another request had them computed just then."""
    counts = [number(cache.get(name)) or 0.0 for name in ("hits", "shared", "misses")]
    return f"{sum(counts[:2]) / sum(counts):.0%}" if sum(counts) > 0 else "-"


def _latency(length: Mapping[str, Any]) -> str:
    p50, p99 = number(length.get("p50")), number(length.get("p99"))
    return "-" if p50 is None or p99 is None else f"{p50:.0f}/{p99:.0f}"


def _short(node_id: object) -> str:
    return plain(node_id)[:_SHORT_ID]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", padding=0)


def _add_columns(table: Table, names: tuple[str, ...], figures: tuple[str, ...], others: tuple[str, ...] = ()) -> None:
    for label in (*names, *figures, *others):
        is_figure = label in figures
        # A long name may be broken; a number must not be.
        table.add_column(label, justify="right" if is_figure else "left", no_wrap=is_figure, overflow="fold")
