"""Folders of files that appear at once or not at all: on a disk by renaming, in an object store by a last file."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from .errors import CheckpointError

ASIDE = ".tmp-"
"""How the names of folders begin that are being written or deleted."""


@runtime_checkable
class Folders(Protocol):
    """Folders under one root. Every method raises CheckpointError where the storage fails."""

    def names(self) -> list[str]:
        """The folders that there are, in any order; none where there is no root."""
        ...

    def size(self, name: str, file: str) -> int | None:
        """A file's size in bytes, None if it is not there."""
        ...

    def read(self, name: str, file: str) -> bytes | None:
        """A file's content, None if it is not there."""
        ...

    def write(self, name: str, files: dict[str, bytes]) -> None:
        """Make a new folder. It does not count until the last of `files` is in it."""
        ...

    def remove(self, name: str, last: str) -> None:
        """Delete a folder. The file `last`, which makes it count, goes first."""
        ...

    def move(self, name: str, into: str, last: str) -> None:
        """Put a folder into another folder of the root."""
        ...


def shown(url: str) -> str:
    """The URL without what may be a password in it."""
    return re.sub(r"://.*@", "://***@", url.partition("?")[0] if "://" in url else url)


def open_folders(url: str) -> Folders:
    """The folders at a path or at any URL that fsspec knows.

    Raises:
        CheckpointError: nothing is known of such URLs, or the package for them is not installed.
    """
    protocol = url.partition("://")[0].rpartition("::")[2]
    try:
        file_system, root = url_to_fs(url)
    except ImportError:
        package = str(known_implementations.get(protocol, {}).get("class", protocol)).partition(".")[0]
        # Without the cause: its traceback would show the URL as it is.
        raise CheckpointError(
            f"checkpoints at {shown(url)} need the package {package}; install it with `pip install {package}`"
        ) from None
    except ValueError:
        raise CheckpointError(
            f"checkpoints.url {shown(url)} is neither a path nor a URL that fsspec knows (file, s3, gs, ...)"
        ) from None
    if isinstance(file_system, LocalFileSystem):
        return LocalFolders(Path(root))
    return ObjectFolders(file_system, str(root), url)


class LocalFolders:
    """On a disk: written aside, flushed to the medium, then renamed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """See `Folders`."""
        with self._failing("list"):
            try:
                return [entry.name for entry in os.scandir(self._root) if entry.is_dir()]
            except FileNotFoundError:
                return []

    def size(self, name: str, file: str) -> int | None:
        """See `Folders`."""
        with self._failing("read"):
            try:
                return (self._root / name / file).stat().st_size
            except FileNotFoundError:
                return None

    def read(self, name: str, file: str) -> bytes | None:
        """See `Folders`."""
        with self._failing("read"):
            try:
                return (self._root / name / file).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, files: dict[str, bytes]) -> None:
        """See `Folders`."""
        aside = self._root / f"{ASIDE}{uuid.uuid4().hex}"
        with self._failing("write"):
            aside.mkdir(parents=True)
            try:
                for file, content in files.items():
                    _write_through(aside / file, content)
                _flush_folder(aside)
                # The system refuses this where the target is a folder with something in it.
                os.rename(aside, self._root / name)
            except OSError:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            _flush_folder(self._root)

    def remove(self, name: str, last: str) -> None:
        """See `Folders`."""
        with self._failing("delete"):
            # Renamed first, so that half of it is never taken for a checkpoint.
            aside = self._root / f"{ASIDE}{uuid.uuid4().hex}"
            os.rename(self._root / name, aside)
            shutil.rmtree(aside)

    def move(self, name: str, into: str, last: str) -> None:
        """See `Folders`."""
        with self._failing("move"):
            (self._root / into).mkdir(exist_ok=True)
            os.rename(self._root / name, self._root / into / name)
            _flush_folder(self._root / into)
            _flush_folder(self._root)

    @contextmanager
    def _failing(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"cannot {action} checkpoints in {self._root}: {error}") from error


class ObjectFolders:
    """In an object store, which has no renaming: the last file makes the folder count."""

    def __init__(self, file_system: Any, root: str, url: str) -> None:
        self._fs = file_system
        self._root = root.rstrip("/")
        self._shown = shown(url)
        self._secret = self._shown != url

    def names(self) -> list[str]:
        """See `Folders`."""
        with self._failing("list"):
            # Others write here too.
            self._fs.invalidate_cache()
            try:
                found: list[str] = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
            return [path.rstrip("/").rpartition("/")[2] for path in found]

    def size(self, name: str, file: str) -> int | None:
        """See `Folders`."""
        with self._failing("read"):
            try:
                return int(self._fs.size(self._path(name, file)))
            except FileNotFoundError:
                return None

    def read(self, name: str, file: str) -> bytes | None:
        """See `Folders`."""
        with self._failing("read"):
            try:
                return bytes(self._fs.cat_file(self._path(name, file)))
            except FileNotFoundError:
                return None

    def write(self, name: str, files: dict[str, bytes]) -> None:
        """See `Folders`."""
        with self._failing("write"):
            for file, content in files.items():
                self._fs.pipe_file(self._path(name, file), content, mode="create")

    def remove(self, name: str, last: str) -> None:
        """See `Folders`."""
        with self._failing("delete"):
            for path in sorted(self._files(name), key=lambda path: not path.endswith(f"/{last}")):
                self._fs.rm_file(path)

    def move(self, name: str, into: str, last: str) -> None:
        """See `Folders`."""
        with self._failing("move"):
            for path in sorted(self._files(name), key=lambda path: path.endswith(f"/{last}")):
                self._fs.cp_file(path, self._path(into, name, path.rpartition("/")[2]))
        self.remove(name, last)

    def _files(self, name: str) -> list[str]:
        self._fs.invalidate_cache()
        return [str(path) for path in self._fs.find(self._path(name))]

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    @contextmanager
    def _failing(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Storage packages raise whatever their SDKs do, and may quote a URL that has a password in it.
            failed = f"cannot {action} checkpoints at {self._shown}: {type(error).__name__}"
            if self._secret:
                raise CheckpointError(failed) from None
            raise CheckpointError(f"{failed}: {error}") from error


def _write_through(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
