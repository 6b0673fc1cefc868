"""`tidegate evaluate`: what another policy or rule would have earned, estimated from the log, without a service."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from learner.config import LearnerConfig, RuleConfig, settings_of
from learner.errors import UnknownVersionError
from learner.evaluation import evaluate
from learner.log_check import log_url
from learner.prequential import Target, collect_evidence, gather
from learner.restore import Restored, Restorer
from learner.rules import build_rule
from learner.sql import SqlEventLog, read_sql_log
from learner.storage import open_checkpoints

from .config import SelectionArgs
from .errors import PlotError
from .evaluation_plot import draw_evaluation
from .progress import OnStart, OnVersion, replay_progress
from .replay import expected_of, find_application, find_rule
from .serve_config import ServeConfigError

_MOST_HEADS = 500
ESTIMATES = ("logged", "ips", "snips", "dr")


@dataclass(frozen=True, slots=True)
class Evaluate:
    """What to evaluate.

    Attributes:
        application: whose log.
        config: of its learner, with absolute paths.
        rule: that scores.
        selection: how uids are chosen by the scores.
        k: how many; None: as many as each decision did.
        first: the first version whose decisions count; None: the first that can be rebuilt.
        last: the last one; None: the end of the log.
        explored_only: only decisions in which chance had a part.
    """

    application: str
    config: LearnerConfig
    rule: RuleConfig
    selection: SelectionArgs
    k: int | None = None
    first: int | None = None
    last: int | None = None
    explored_only: bool = False


def plan_evaluation(
    config: Path,
    app: str | None,
    *,
    policy: str | None,
    rule: str | None,
    k: int | None = None,
    first: int | None = None,
    last: int | None = None,
    explored_only: bool = False,
    settings: Mapping[str, float | None] | None = None,
) -> Evaluate:
    """Find the application in a Serve config, and the rule and the policy by their names.

    Args:
        config: the Serve config.
        app: the application; None: the only one.
        policy: the policy; None: the configured one. Another one has its default settings.
        rule: the rule, likewise.
        k: see `Evaluate`, as for the next three.
        first: the first version.
        last: the last version.
        explored_only: whether chance must have had a part.
        settings: of the policy, in place of those; None is none.

    Raises:
        ServeConfigError: the config cannot be used, or there is no such application, rule, policy or setting.
    """
    name, args = find_application(config, app)
    configured = args.selection.model_dump(exclude_unset=True)
    kept = configured if policy is None or policy == args.selection.policy else {"policy": policy}
    given = {setting: value for setting, value in (settings or {}).items() if value is not None}
    try:
        selection = SelectionArgs.model_validate({**kept, **given})
    except ValidationError as error:
        raise ServeConfigError(f"policy {policy or args.selection.policy!r}: {error.errors()[0]['msg']}") from error
    return Evaluate(name, args.learner, find_rule(rule, args.learner.rule), selection, k, first, last, explored_only)


def run_evaluation(
    plan: Evaluate, *, on_start: OnStart | None = None, on_version: OnVersion | None = None
) -> dict[str, Any]:
    """Estimate, from a log that its learner may go on writing meanwhile.

    Args:
        plan: what.
        on_start: see `OnStart`.
        on_version: told each version that was replayed.

    Raises:
        LearnerError: the log or a checkpoint cannot be used.
    """
    torch.set_num_threads(1)
    log = read_sql_log(log_url(plan.config, plan.application))
    try:
        return _evaluate(plan, log, on_start, on_version)
    finally:
        log.close()


def evaluate_with_progress(plan: Evaluate, console: Console) -> dict[str, Any]:
    """`run_evaluation` behind a progress bar."""
    with replay_progress(console) as (on_start, on_version):
        return run_evaluation(plan, on_start=on_start, on_version=on_version)


def show_evaluation(result: Mapping[str, Any], console: Console) -> None:
    """Print it for people."""
    decisions, out = result["decisions"], {why: n for why, n in result["left_out"].items() if n}
    k = "as logged" if result["k"] is None else result["k"]
    table = Table(title=f"{result['selection']['policy']} on {result['rule']['name']}, k {k}, {decisions} decisions")
    for heading in ("", "mean reward", "95% interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name in ESTIMATES:
        estimate = result[name]
        if estimate["status"] == "ok":
            table.add_row(name, f"{estimate['value']:.4f}", f"{estimate['low']:.4f} to {estimate['high']:.4f}")
        else:
            table.add_row(name, estimate["status"], "")
    console.print(table)
    if result["mean_weight"] is not None:
        console.print(
            f"effective sample size {result['effective_sample_size']:.0f}, mean weight {result['mean_weight']:.3f}, "
            f"out of the log's reach {100 * result['unreachable']:.1f}% of the choices",
            highlight=False,
            soft_wrap=True,
        )
    if out:
        console.print("left out: " + ", ".join(f"{n} {why}" for why, n in out.items()), highlight=False, soft_wrap=True)


def check_plot(path: Path) -> None:
    """Find out before anything is computed whether a plot can be written there.

    Raises:
        PlotError: it is to be no SVG, or there is no such folder.
    """
    if path.suffix.lower() != ".svg":
        raise PlotError(f"a plot is written as SVG, got {path}; name a file that ends in .svg")
    if not path.absolute().parent.is_dir():
        raise PlotError(f"{path} cannot be written: there is no folder {path.absolute().parent}; make it first")


def save_plot(result: Mapping[str, Any], path: Path) -> None:
    """Draw the estimates into an SVG file.

    Raises:
        PlotError: it cannot be written.
    """
    try:
        path.write_text(draw_evaluation(result), encoding="utf-8")
    except OSError as error:
        raise PlotError(f"{path} cannot be written: {error.strerror}") from error


def _evaluate(
    plan: Evaluate, log: SqlEventLog, on_start: OnStart | None, on_version: OnVersion | None
) -> dict[str, Any]:
    started_s = time.monotonic()
    restorer, base = _base(plan, log)
    first = base.state.version if plan.first is None else plan.first
    last = log.last_seq if plan.last is None else min(plan.last, log.last_seq)
    if on_start is not None:
        on_start(base.state.version, last)
    usable = gather(
        log,
        first=first,
        last=last,
        now_s=max(log.last_time_s, time.time()),
        window_s=plan.config.reward_window_s,
        explored_only=plan.explored_only,
    )
    refresh = max(1, (last - first) // _MOST_HEADS)
    target = Target(plan.selection.build(), plan.k)
    evidence = collect_evidence(restorer, base, usable, target, last=last, refresh=refresh, on_version=on_version)
    return {
        "application": plan.application,
        "log_id": log.id,
        "selection": plan.selection.model_dump(),
        "rule": settings_of(plan.rule),
        "k": plan.k,
        "from": first,
        "to": last,
        "explored_only": plan.explored_only,
        "refresh": refresh,
        **asdict(evaluate(evidence)),
        "left_out": dict(sorted(usable.left_out.items())),
        "took_s": round(time.monotonic() - started_s, 3),
    }


def _base(plan: Evaluate, log: SqlEventLog) -> tuple[Restorer, Restored]:
    """The state to begin with: as late as the first version allows."""
    expected = expected_of(plan.application, plan.rule, log)
    # A checkpoint of another rule knows nothing of this one.
    store = open_checkpoints(plan.config, plan.application) if plan.rule == plan.config.rule else None
    restorer = Restorer(log, build_rule(plan.rule), expected, store, only_this_rule=True)
    if plan.first is not None:
        return restorer, restorer.at(plan.first)
    is_whole = log.is_whole()
    oldest = None if is_whole or store is None else store.oldest()
    if not is_whole and oldest is None:
        raise UnknownVersionError(
            f"the log's first events were pruned, and there is no checkpoint of rule {plan.rule.name} to go on from: "
            "what this rule would have known at a decision cannot be rebuilt"
        )
    return restorer, restorer.at(0 if oldest is None else oldest.version)
