"""What all commands share: the application that they join, their examples, options, output and ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from ..exit_codes import FAILED, UNREACHABLE, USAGE

if TYPE_CHECKING:
    from ..client import GateClient

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "TIDEGATE_API_KEY"

app = typer.Typer(
    name="tidegate",
    help="A gate in front of a network of experts: which k of N to ask, learned online from rewards.",
    epilog="Exit codes: 0 done; 1 failed or refused; 2 wrong arguments; 3 no service answers; 130 interrupted. "
    "With --json, standard output holds one JSON document and nothing else.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()
errors = Console(stderr=True)

Url = Annotated[str, typer.Option(help="Where the service listens.")]
KeyEnv = Annotated[
    str | None,
    typer.Option("--api-key-env", metavar="NAME", help=f"The variable with the API key; default: {KEY_VARIABLE}."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Config = Annotated[Path, typer.Option(help="A Serve config.")]
DEFAULT_CONFIG = Path("serve_config.yaml")


class Failure(Exception):
    """What ends a command.

    Args:
        message: for people: what was wrong, and the remedy.
        code: the exit code.
    """

    def __init__(self, message: object, code: int = FAILED) -> None:
        super().__init__(str(message))
        self.code = code


def command(*examples: str) -> Callable[[F], F]:
    """Makes a function a command of its name, whose help ends with these examples. A test runs them."""
    lines = "\n".join(f"$ tidegate {example}" for example in examples)

    def register(function: F) -> F:
        @wraps(function)
        def run(*args: Any, **options: Any) -> None:
            try:
                function(*args, **options)
            except Failure as failure:
                line = Text.assemble((f"tidegate {function.__name__}: ", "red"), str(failure))
                errors.print(line, highlight=False, soft_wrap=True)
                raise typer.Exit(failure.code) from failure

        app.command(epilog=escape(f"Examples:\n{lines}"))(run)
        return function

    return register


@contextmanager
def gate_client(url: str, api_key_env: str | None, *, timeout_s: float = 30.0) -> Iterator[GateClient]:
    """A client for the body, whose errors end the command with a message and the right code."""
    from ..client import GateClient, GateError, GateUnavailableError

    key = api_key(api_key_env)
    try:
        with GateClient(url, api_key=key, timeout_s=timeout_s) as client:
            yield client
    except GateUnavailableError as error:
        raise Failure(f"{_absence(error, url)}\n{how_to_start()}", UNREACHABLE) from error
    except GateError as error:
        raise Failure(f"{error}{_remedy(error, key)}") from error
    except ValueError as error:
        raise Failure(error, USAGE) from error


def how_to_start() -> str:
    """The remedy where nothing answers."""
    return "Is the service running? Start it with `tidegate serve`, or name another with --url."


def api_key(variable: str | None) -> str | None:
    """The API key from the environment; the variable must be there only if it was named."""
    found = os.environ.get(variable or KEY_VARIABLE)
    if variable is not None and not found:
        raise Failure(f"the variable {variable} is not set", USAGE)
    return found or None


def say(line: str) -> None:
    """Print a line as it is, however long."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def emit(result: Any) -> None:
    """Print a result as one JSON document."""
    console.print_json(data=to_plain(result))


def to_plain(result: Any) -> Any:
    """A result of the client as JSON has it."""
    if isinstance(result, list):
        return [to_plain(item) for item in result]
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else result


def _absence(error: Exception, url: str) -> str:
    refused = type(error.__cause__).__name__ == "ConnectError"
    return f"nothing listens on {url} ({error})" if refused else str(error)


def _remedy(error: Exception, key: str | None) -> str:
    status = getattr(error, "status", None)
    if status == 401 and key is None:
        return f"\nGive an API key in {KEY_VARIABLE}, or in a variable that --api-key-env names."
    return ""
