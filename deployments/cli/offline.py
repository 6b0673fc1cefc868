"""Commands that work on a log, with or without a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .frame import DEFAULT_CONFIG, Config, Failure, Json, command, console, emit, errors, say

App = Annotated[str | None, typer.Option("--app", help="Which of its applications; default: the only one.")]
Rule = Annotated[str | None, typer.Option(help="Another rule than the configured one, with its default settings.")]


@command("replay", "replay --rule softmax_mse --json", "replay --to 0")
def replay(
    config: Config = DEFAULT_CONFIG,
    app_name: App = None,
    rule: Rule = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="CHECKPOINT", help="Begin there; default: the beginning of the log.")
    ] = None,
    to: Annotated[int | None, typer.Option(min=0, metavar="VERSION", help="End there; default: the end.")] = None,
    write_checkpoint: Annotated[
        bool, typer.Option("--write-checkpoint", help="Save the result; the learner, stopped now, will start from it.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Rebuild the weights from the event log, offline. The same log, rule and settings give the same digest."""
    from learner.errors import LearnerError

    from ..replay import plan_replay, replay_with_progress
    from ..serve_config import ServeConfigError

    try:
        plan = plan_replay(config, app_name, rule, start, to)
        result = replay_with_progress(plan, errors, write_checkpoint=write_checkpoint)
    except (ServeConfigError, LearnerError) as error:
        raise Failure(error) from error
    if json_output:
        emit(result)
    else:
        for name, value in result.items():
            say(f"{name:14} {value}")


@command("evaluate", "evaluate --policy greedy --k 1 --json", "evaluate --explored --plot estimates.svg")
def evaluate(
    config: Config = DEFAULT_CONFIG,
    app_name: App = None,
    policy: Annotated[
        str | None,
        typer.Option(help="greedy, tail_exploration, squarecb or softmax, with default settings; default: configured."),
    ] = None,
    rule: Rule = None,
    k: Annotated[int | None, typer.Option(min=1, help="How many to ask; default: as each decision did.")] = None,
    start: Annotated[
        int | None, typer.Option("--from", min=0, metavar="VERSION", help="Only decisions by this version or later.")
    ] = None,
    to: Annotated[int | None, typer.Option(min=0, metavar="VERSION", help="Only decisions up to this version.")] = None,
    explored: Annotated[
        bool, typer.Option("--explored", help="Only decisions in which something was left to chance.")
    ] = False,
    epsilon: Annotated[float | None, typer.Option(help="Of tail_exploration.")] = None,
    epsilon_single: Annotated[float | None, typer.Option(help="Of tail_exploration, at k = 1.")] = None,
    explore_slots: Annotated[int | None, typer.Option(help="Of tail_exploration and squarecb.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Of squarecb.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of softmax.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Also draw the estimates.")] = None,
    json_output: Json = False,
) -> None:
    """Estimate from the event log what another policy or rule would have earned, offline. See docs/evaluation.md."""
    from learner.errors import LearnerError

    from ..errors import PlotError
    from ..evaluate import check_plot, evaluate_with_progress, plan_evaluation, save_plot, show_evaluation
    from ..serve_config import ServeConfigError

    settings = {
        "epsilon": epsilon,
        "epsilon_single": epsilon_single,
        "explore_slots": explore_slots,
        "gamma": gamma,
        "temperature": temperature,
    }
    try:
        plan = plan_evaluation(
            config,
            app_name,
            policy=policy,
            rule=rule,
            k=k,
            first=start,
            last=to,
            explored_only=explored,
            settings=settings,
        )
        if plot is not None:
            check_plot(plot)
        result = evaluate_with_progress(plan, errors)
        if plot is not None:
            save_plot(result, plot)
    except (ServeConfigError, LearnerError, PlotError) as error:
        raise Failure(error) from error
    if json_output:
        emit(result)
    else:
        show_evaluation(result, console)
