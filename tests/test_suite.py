"""`make test` runs every test that is not long."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "mark." + "integration"
LONG_ONLY = {"tests/cluster", "tests/soak"}


def test_integration_tests_are_where_make_test_looks_for_them() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [folders] = re.findall(r"^INTEGRATION := (.*)$", makefile, re.MULTILINE)
    marked = {
        path.parent.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if MARK in path.read_text(encoding="utf-8")
    }
    assert marked - LONG_ONLY == set(folders.split())
