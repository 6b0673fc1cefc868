"""The console's files as they lie in the package, read once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

INDEX = "index.html"

# Written out: what the machine believes of file endings may differ, and with `nosniff` a script needs its type.
_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file, ready to be sent.

    Attributes:
        etag: in quotes, of the content.
    """

    content: bytes
    media_type: str
    etag: str


@cache
def console_files() -> Mapping[str, StaticFile]:
    """All files by name. A name that is not among them does not exist, so no path leads anywhere else."""
    folder = files(__package__) / "static"
    return {entry.name: _read(entry.name, entry.read_bytes()) for entry in folder.iterdir() if _is_ours(entry.name)}


def _read(name: str, content: bytes) -> StaticFile:
    digest = hashlib.sha256(content).hexdigest()[:32]
    return StaticFile(content, _MEDIA_TYPES[_ending(name)], f'"{digest}"')


def _is_ours(name: str) -> bool:
    return _ending(name) in _MEDIA_TYPES


def _ending(name: str) -> str:
    return name.rpartition(".")[2]
