"""Commands that show a running service: once, live, and as it learns."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ..exit_codes import USAGE
from .frame import DEFAULT_URL, Failure, Json, KeyEnv, Url, api_key, command, console, emit, gate_client

if TYPE_CHECKING:
    from ..client import GateClient


@command("status", "status --json", "status --url http://127.0.0.1:8000")
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it live, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="With --watch: how often.")] = 1.0,
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Show what the service says of itself."""
    from ..status import render_status

    if watch and json_output:
        raise Failure("--watch shows many states, and --json prints one; give one of them", USAGE)
    with gate_client(url, api_key_env) as client:
        if watch:
            watch_status(client, console, every_s=every)
        elif json_output:
            emit(client.state())
        else:
            console.print(render_status(client.state()))


def watch_status(
    client: GateClient, console: Console, *, every_s: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Show the state until Ctrl-C. While the service is away the last state stays, and it is said that it is old.

    Raises:
        GateError: the service refuses, or was not there at the beginning.
    """
    from ..client import GateUnavailableError
    from ..status import render_status

    shown = render_status(client.state())
    with Live(shown, console=console, screen=console.is_terminal, auto_refresh=False) as live:
        try:
            while True:
                live.refresh()
                sleep(every_s)
                try:
                    shown = render_status(client.state())
                    live.update(shown)
                except GateUnavailableError as error:
                    live.update(Group(Text(f"{error}; below is what it said last", style="bold red"), shown))
        except KeyboardInterrupt:
            return


@command("demo --limit 32", "demo --limit 32 --k 2 --json")
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
    from ..client import GateClient
    from ..demo import demo as run

    connect = partial(GateClient, api_key=api_key(api_key_env))
    raise typer.Exit(run(url, data, k, limit, seed, batch, json_output, connect=connect))
