"""The command line, `tidegate`: one module a group of commands, which join the application in `frame`."""

from . import serving, asking, watching, operating, offline  # noqa: I001 - in the order of `tidegate --help`
from .frame import app

__all__ = ["app", "asking", "main", "offline", "operating", "serving", "watching"]


def main() -> None:
    """The console script."""
    app()
