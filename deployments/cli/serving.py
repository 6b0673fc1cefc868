"""Commands that start and stop a service, and make its keys."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..exit_codes import USAGE
from .frame import DEFAULT_CONFIG, Config, Failure, Json, command, console, emit, errors, say, to_plain

if TYPE_CHECKING:
    from ..runner import Served


@command("serve", "serve --config serve_config.yaml --reset", "serve --address auto")
def serve(
    config: Config = DEFAULT_CONFIG,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to join; by default one is started here.")] = None,
    reset: Annotated[
        bool,
        typer.Option(
            "--reset",
            help="Start with another event log than the one the checkpoints belong to: set those checkpoints aside.",
        ),
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Once it serves, print JSON that says where.")] = False,
) -> None:
    """Serve in the foreground until Ctrl-C, then stop everything that was started."""
    from .. import local
    from ..installed import importing_ray

    # Before anything imports Ray, which reads its environment then.
    local.set_ray_environment()
    try:
        with importing_ray():
            from gating.errors import GatingError
            from learner.errors import LearnerError

            from ..errors import AuthSetupError
            from ..runner import metrics_url, running_service
            from ..serve_config import ServeConfigError
    except local.ServiceError as error:
        raise Failure(error) from error

    # What is for people leaves standard output to the document.
    out = errors if json_output else console
    try:
        with running_service(
            config, address=address, say=lambda what: out.print(what, style="dim", soft_wrap=True), reset=reset
        ) as served:
            if json_output:
                emit({"applications": to_plain(served)})
            out.print(f"\nMetrics for Prometheus: {metrics_url()}", highlight=False, soft_wrap=True)
            _greet(served, out)
            threading.Event().wait()
    except KeyboardInterrupt:
        out.print("stopped")
    except (ServeConfigError, AuthSetupError, GatingError, LearnerError, local.ServiceError) as error:
        raise Failure(error) from error


@command("down", "down --port 8001 --json", "down --address auto")
def down(
    port: Annotated[int, typer.Option(help="The port of a service that `tidegate serve` started here.")] = 8000,
    address: Annotated[
        str | None, typer.Option(help="Remove Tidegate's applications from this Ray cluster instead.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Stop the service and everything that it started, and only that."""
    from .. import local

    if address is not None:
        from ..installed import importing_ray

        local.set_ray_environment()
        try:
            with importing_ray():
                from ..runner import take_down_cluster_apps
            names = take_down_cluster_apps(address)
        except local.ServiceError as error:
            raise Failure(error) from error
        found = f"removed {', '.join(names)}" if names else "no Tidegate application was running there"
        emit({"removed": names}) if json_output else say(found)
        return
    stopped = local.stop_service(port)
    found = f"stopped the service on port {port}" if stopped else f"nothing of Tidegate's serves on port {port}"
    emit({"port": port, "stopped": stopped}) if json_output else say(found)


@command("key judge --scope score --scope reward", "key operator --scope admin --json")
def key(
    caller: Annotated[str, typer.Argument(metavar="ID", help="The caller's name.")],
    scope: Annotated[list[str], typer.Option(help="What it allows: score, reward or admin; may be repeated.")],
    json_output: Json = False,
) -> None:
    """Make an API key: printed once, with the entry for `auth.keys` that holds only its hash."""
    import yaml

    from ..api_keys import describe_key, new_key
    from ..errors import AuthSetupError

    secret = new_key()
    try:
        entry = describe_key(caller, secret, scope)
    except AuthSetupError as error:
        raise Failure(error, USAGE) from error
    if json_output:
        emit({"key": secret, "entry": yaml.safe_load(entry)})
        return
    errors.print("The key, for the caller (it is shown only now):", highlight=False)
    say(secret)
    errors.print(
        "Its entry, for auth.keys, the file of auth.keys_file or the variable of auth.keys_env:", highlight=False
    )
    say(f"- {entry}")


def _greet(served: list[Served], out: Console) -> None:
    out.print()
    for application in served:
        url = application.url
        out.print(f"Tidegate serves on [bold]{url}[/bold]  (the API: {url}/docs)", highlight=False)
    first = served[0]
    if first.auth_mode == "hotkey":
        out.print("Callers sign with their hotkeys; see GateClient.")
    else:
        out.print("Try:\n")
        key = "" if first.auth_mode == "none" else ' -H "Authorization: Bearer $TIDEGATE_API_KEY"'
        for path, body in (
            ("score", '{"messages": ["Write a haiku about the tide."], "top_k": 3}'),
            ("select", '{"messages": ["Write a haiku about the tide."], "k": 4}'),
        ):
            line = f"curl -s {first.url}/v1/{path}{key} -H 'Content-Type: application/json' -d '{body}'"
            out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    out.print("\nor watch it learn: [bold]make demo[/bold] (or tidegate demo) in another terminal.")
    out.print("Ctrl-C stops it.\n")
