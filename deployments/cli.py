"""The command line: `tidegate serve | demo | status | promote | replay | evaluate | key | down`."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from .runner import Served

app = typer.Typer(
    name="tidegate",
    help="A gate in front of a network of experts: which k of N to ask, learned online from rewards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option(help="Where the service listens.")]
KEY_VARIABLE = "TIDEGATE_API_KEY"
KeyEnv = Annotated[
    str | None,
    typer.Option("--api-key-env", metavar="NAME", help=f"The variable with the API key.  [default: {KEY_VARIABLE}]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="A Serve config.")] = Path("serve_config.yaml"),
    address: Annotated[str | None, typer.Option(help="A Ray cluster to join; by default one is started here.")] = None,
    reset: Annotated[
        bool,
        typer.Option(
            "--reset",
            help="Start with another event log than the one the checkpoints belong to: set those checkpoints aside.",
        ),
    ] = False,
) -> None:
    """Serve in the foreground until Ctrl-C, then stop everything that was started."""
    from . import local

    # Before anything imports Ray, which reads its environment then.
    local.set_ray_environment()
    from learner.errors import LearnerError

    from .errors import AuthSetupError
    from .runner import metrics_url, running_service
    from .serve_config import ServeConfigError

    try:
        with running_service(config, address=address, say=_say, reset=reset) as served:
            console.print(f"\nMetrics for Prometheus: {metrics_url()}", highlight=False, soft_wrap=True)
            _greet(served)
            threading.Event().wait()
    except KeyboardInterrupt:
        console.print("stopped")
    except (ServeConfigError, AuthSetupError, LearnerError, local.ServiceError) as error:
        errors.print(f"[red]tidegate serve:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@app.command()
def demo(
    url: Url = DEFAULT_URL,
    data: Annotated[
        Path | None, typer.Option(help="A table [{question, scores: {model: reward}}]; default: paretobandit's.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="How many experts to ask per prompt.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many prompts.")] = None,
    seed: Annotated[int, typer.Option(help="Order of the prompts.")] = 0,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Prompts per request.")] = 8,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Stream real prompts with real rewards through the service and watch it learn."""
    from .client import GateClient
    from .demo import demo as run

    connect = partial(GateClient, api_key=_api_key("demo", api_key_env))
    code = run(url, data, k, limit, seed, batch, json_output, connect=connect)
    raise typer.Exit(code)


@app.command()
def status(url: Url = DEFAULT_URL, api_key_env: KeyEnv = None, json_output: Json = False) -> None:
    """Show what the service says of itself."""
    from .client import GateClient
    from .status import show_status

    try:
        client = GateClient(url, api_key=_api_key("status", api_key_env))
    except ValueError as error:
        errors.print(f"[red]tidegate status:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    with client:
        raise typer.Exit(show_status(client, console, json_output))


@app.command()
def promote(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="The shadow's label; by default a rule's name.")],
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Let a shadow rule serve from now on; the rule that served learns on as a shadow."""
    from .client import GateClient, GateError

    try:
        with GateClient(url, api_key=_api_key("promote", api_key_env)) as client:
            version = client.promote(rule)
    except (ValueError, GateError) as error:
        errors.print(f"[red]tidegate promote:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if json_output:
        console.print_json(data={"rule": rule, "version": version})
    else:
        console.print(f"{rule} serves from version {version} on", highlight=False, markup=False, soft_wrap=True)


@app.command()
def replay(
    config: Annotated[Path, typer.Option(help="A Serve config.")] = Path("serve_config.yaml"),
    app_name: Annotated[
        str | None, typer.Option("--app", help="Which of its applications; default: the only one.")
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="Another rule than the configured one, with its default settings.")
    ] = None,
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

    from .replay import plan_replay, replay_with_progress
    from .serve_config import ServeConfigError

    try:
        plan = plan_replay(config, app_name, rule, start, to)
        result = replay_with_progress(plan, errors, write_checkpoint=write_checkpoint)
    except (ServeConfigError, LearnerError) as error:
        errors.print(f"[red]tidegate replay:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if json_output:
        console.print_json(data=result)
    else:
        for name, value in result.items():
            console.print(f"{name:14} {value}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def evaluate(
    config: Annotated[Path, typer.Option(help="A Serve config.")] = Path("serve_config.yaml"),
    app_name: Annotated[
        str | None, typer.Option("--app", help="Which of its applications; default: the only one.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="greedy, tail_exploration, squarecb or softmax, with default settings; default: configured."),
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="Another rule than the configured one, with its default settings.")
    ] = None,
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

    from .errors import PlotError
    from .evaluate import check_plot, evaluate_with_progress, plan_evaluation, save_plot, show_evaluation
    from .serve_config import ServeConfigError

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
        errors.print(f"[red]tidegate evaluate:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if json_output:
        console.print_json(data=result)
    else:
        show_evaluation(result, console)


@app.command()
def key(
    caller: Annotated[str, typer.Argument(metavar="ID", help="The caller's name.")],
    scope: Annotated[list[str], typer.Option(help="What it allows: score, reward or admin; may be repeated.")],
) -> None:
    """Make an API key: printed once, with the entry for `auth.keys` that holds only its hash."""
    from .api_keys import describe_key, new_key
    from .errors import AuthSetupError

    secret = new_key()
    try:
        entry = describe_key(caller, secret, scope)
    except AuthSetupError as error:
        errors.print(f"[red]tidegate key:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    errors.print("The key, for the caller (it is shown only now):", highlight=False)
    console.print(secret, highlight=False, markup=False, soft_wrap=True)
    errors.print(
        "Its entry, for auth.keys, the file of auth.keys_file or the variable of auth.keys_env:", highlight=False
    )
    console.print(f"- {entry}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def down(
    port: Annotated[int, typer.Option(help="The port of a service that `tidegate serve` started here.")] = 8000,
    address: Annotated[
        str | None, typer.Option(help="Remove Tidegate's applications from this Ray cluster instead.")
    ] = None,
) -> None:
    """Stop the service and everything that it started, and only that."""
    from . import local

    if address is not None:
        local.set_ray_environment()
        from .runner import take_down_cluster_apps

        names = take_down_cluster_apps(address)
        console.print(f"removed {', '.join(names)}" if names else "no Tidegate application was running there")
        return
    if local.stop_service(port):
        console.print(f"stopped the service on port {port}")
    else:
        console.print(f"nothing of Tidegate's serves on port {port}")


def main() -> None:
    """The console script."""
    app()


def _api_key(command: str, variable: str | None) -> str | None:
    """The API key from the environment; the variable must be there only if it was named."""
    found = os.environ.get(variable or KEY_VARIABLE)
    if variable is not None and not found:
        errors.print(f"[red]tidegate {command}:[/red] the variable {escape(variable)} is not set", highlight=False)
        raise typer.Exit(2)
    return found or None


def _say(what: str) -> None:
    console.print(f"{what} ...", style="dim")


def _greet(served: list[Served]) -> None:
    console.print()
    for application in served:
        url = application.url
        console.print(f"Tidegate serves on [bold]{url}[/bold]  (the API: {url}/docs)", highlight=False)
    first = served[0]
    if first.auth_mode == "hotkey":
        console.print("Callers sign with their hotkeys; see GateClient.")
    else:
        console.print("Try:\n")
        key = "" if first.auth_mode == "none" else ' -H "Authorization: Bearer $TIDEGATE_API_KEY"'
        for path, body in (
            ("score", '{"messages": ["Write a haiku about the tide."], "top_k": 3}'),
            ("select", '{"messages": ["Write a haiku about the tide."], "k": 4}'),
        ):
            command = f"curl -s {first.url}/v1/{path}{key} -H 'Content-Type: application/json' -d '{body}'"
            console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
    console.print("\nor watch it learn: [bold]make demo[/bold] (or tidegate demo) in another terminal.")
    console.print("Ctrl-C stops it.\n")


if __name__ == "__main__":
    main()
