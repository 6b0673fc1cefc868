"""Whether this Python has what serving needs, told in words rather than by a traceback. Nothing large is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from .local import ServiceError

RAY = "2.60"
"""The version of Ray that Tidegate goes with; pyproject.toml says the same."""


@contextmanager
def importing_ray() -> Iterator[None]:
    """For imports of what needs Ray.

    Raises:
        ServiceError: Ray, or something else that they need, is missing or of another version.
    """
    check_ray()
    try:
        yield
    except ImportError as error:
        raise ServiceError(f"{error}: the environment of {sys.executable} is not complete; {_remedy()}") from error


def check_ray() -> None:
    """Find out whether Ray is there, without importing it.

    Raises:
        ServiceError: it is not, or it is of another version.
    """
    try:
        found = metadata.version("ray")
    except metadata.PackageNotFoundError as error:
        raise ServiceError(f"Ray is not installed for {sys.executable}; Tidegate needs {RAY}: {_remedy()}") from error
    if found.split(".")[:2] != RAY.split("."):
        raise ServiceError(f"Ray {found} is installed for {sys.executable}; Tidegate needs {RAY}: {_remedy()}")


def _remedy() -> str:
    major, minor = RAY.split(".")
    return (
        "in a checkout run `make setup` and call .venv/bin/tidegate; elsewhere "
        f"`pip install 'ray[serve]>={RAY},<{major}.{int(minor) + 1}' tidegate`"
    )
