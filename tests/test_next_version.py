"""The changes that make a later version for `tests/integration/test_upgrades.py`, which is among the long tests."""

import ast

from .integration.next_version import NEXT_VERSION, write_next_version


def test_the_later_version_can_be_made_of_this_one(tmp_path):
    folder = write_next_version(tmp_path)
    for name in NEXT_VERSION:
        ast.parse((folder / name).read_text(encoding="utf-8"))
