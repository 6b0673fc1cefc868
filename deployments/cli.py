"""The command line: `tidegate serve | demo | status | down`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

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
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="A Serve config.")] = Path("serve_config.yaml"),
    address: Annotated[str | None, typer.Option(help="A Ray cluster to join; by default one is started here.")] = None,
) -> None:
    """Serve in the foreground until Ctrl-C, then stop everything that was started."""
    from . import local

    # Before anything imports Ray, which reads its environment then.
    local.set_ray_environment()
    from learner.errors import LearnerError

    from .auth import ExposureError
    from .runner import running_service
    from .serve_config import ServeConfigError

    try:
        with running_service(config, address=address, say=_say) as urls:
            _greet(urls)
            threading.Event().wait()
    except KeyboardInterrupt:
        console.print("stopped")
    except (ServeConfigError, ExposureError, LearnerError, local.ServiceError) as error:
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
    json_output: Json = False,
) -> None:
    """Stream real prompts with real rewards through the service and watch it learn."""
    from .demo import demo as run

    raise typer.Exit(run(url=url, data=data, k=k, limit=limit, seed=seed, batch=batch, json_output=json_output))


@app.command()
def status(url: Url = DEFAULT_URL, json_output: Json = False) -> None:
    """Show what the service says of itself."""
    from .client import GateClient
    from .status import show_status

    try:
        client = GateClient(url)
    except ValueError as error:
        errors.print(f"[red]tidegate status:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    with client:
        raise typer.Exit(show_status(client, console, json_output))


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


def _say(what: str) -> None:
    console.print(f"{what} ...", style="dim")


def _greet(urls: list[str]) -> None:
    console.print()
    for url in urls:
        console.print(f"Tidegate serves on [bold]{url}[/bold]  (the API: {url}/docs)", highlight=False)
    console.print("Try:\n")
    for path, body in (
        ("score", '{"messages": ["Write a haiku about the tide."], "top_k": 3}'),
        ("select", '{"messages": ["Write a haiku about the tide."], "k": 4}'),
    ):
        command = f"curl -s {urls[0]}/v1/{path} -H 'Content-Type: application/json' -d '{body}'"
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
    console.print("\nor watch it learn: [bold]make demo[/bold] (or tidegate demo) in another terminal.")
    console.print("Ctrl-C stops it.\n")


if __name__ == "__main__":
    main()
