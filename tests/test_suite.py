"""`make test` runs every test that is not long, and what needs no Ray can be tested without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "mark." + "integration"
LONG_ONLY = {"tests/cluster", "tests/soak"}
WITHOUT_RAY = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name.partition(".")[0] == "ray" else find_spec(name, *args)
"""


def test_integration_tests_are_where_make_test_looks_for_them() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [folders] = re.findall(r"^INTEGRATION := (.*)$", makefile, re.MULTILINE)
    marked = {
        path.parent.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if MARK in path.read_text(encoding="utf-8")
    }
    assert marked - LONG_ONLY == set(folders.split())


def test_the_tests_of_gating_are_collected_where_ray_is_not_installed(tmp_path: Path) -> None:
    # A machine that is there for its GPU: `pytest -m gpu` has to find them.
    (tmp_path / "without_ray.py").write_text(WITHOUT_RAY, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "without_ray", "-m", "gpu", "--collect-only", "-q"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    collected = [line for line in run.stdout.splitlines() if "::" in line]
    assert collected
    assert all(line.startswith("tests/gating/") for line in collected)
