"""A PostgreSQL server of the tests' own, from the system's package: to talk to, to stop and to kill."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil
import psycopg
import pytest

from .ports import free_port

PACKAGE = "postgresql"
_INITDB = ("--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
_SETTINGS = ("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=60", "-c", "shared_buffers=16MB")
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def _binaries() -> Path | None:
    """The folder of the newest server that is installed."""
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "postgres").exists()]
    if versions:
        return max(versions, key=lambda path: int(path.parent.name))
    found = shutil.which("postgres")
    return Path(found).resolve().parent if found else None


def _account() -> str | None:
    """Whom to run the server as: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class PostgresServer:
    """A server on a port of 127.0.0.1, with its data in a temporary folder.

    Args:
        binaries: the folder of `initdb` and `postgres`.
    """

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._account = _account()
        self._folder = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
        if self._account:
            shutil.chown(self._folder, self._account)
        self.port = free_port()
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [binaries / "initdb", "--pgdata", self._data, "--username", "tidegate", *_INITDB],
            check=True,
            user=self._account,
            cwd=self._folder,
            capture_output=True,
        )

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def pid(self) -> int:
        """The process of the running server."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str) -> str:
        """Where a client finds the database."""
        return f"postgresql://tidegate@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement outside any transaction, and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str) -> str:
        """Make an empty database; returns its URL."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def create_schema(self) -> str:
        """Make an empty schema, which takes less time than a database; returns a URL that leads into it."""
        name = f"schema_{next(self._numbers)}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}?options=-csearch_path%3D{name}"

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        log = (self._folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, "-p", str(self.port), "-k", self._folder, *_SETTINGS],
                user=self._account,
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        for _ in range(600):
            ready = subprocess.run(
                [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"], check=False
            )
            if ready.returncode == 0:
                return
            try:
                self._process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            break
        raise RuntimeError(f"the server does not start:\n{(self._folder / 'server.log').read_text()}")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Shut the server down: when its clients are gone, in order but at once, or without a checkpoint."""
        if self._process is not None:
            self._process.send_signal(_SIGNALS[mode])
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """Let the server die, with all of its processes, as when the machine fails."""
        processes = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)
        assert self._process is not None
        self._process.wait(30)
        self._process = None

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self.stop()
        shutil.rmtree(self._folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server. Without the package, the tests that need it are skipped."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip(f"no PostgreSQL server here; on Debian and Ubuntu: apt install {PACKAGE}")
    server = PostgresServer(binaries)
    try:
        server.start()
        yield server
    finally:
        server.remove()
