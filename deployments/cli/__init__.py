"""The command line, `tidegate`."""

from .commands import app, main

__all__ = ["app", "main"]
