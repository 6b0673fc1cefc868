"""A later version of this code, for upgrades from one to the other."""

from __future__ import annotations

import shutil
from pathlib import Path

from .service import ROOT

NEXT_VERSION = {
    "learner/state.py": [
        ("SNAPSHOT_FORMATS = (1,)", "SNAPSHOT_FORMATS = (1, 2)"),
        (
            "    format: int = SNAPSHOT_FORMATS[-1]\n",
            '    format: int = SNAPSHOT_FORMATS[-1]\n    colour: str = "green"\n',
        ),
    ],
    "learner/protocol.py": [
        ('    learner: str = ""\n', '    learner: str = ""\n    colour: str = "green"\n'),
        ("    candidates_digest: tuple[str, ...]\n", "    candidates_digest: tuple[str, ...]\n    colour: int = 7\n"),
        ("    refs: list[Any]\n", "    refs: list[Any]\n    colour: int = 7\n"),
        (
            "    seq: int = 0\n\n\n@message\nclass Node",
            "    seq: int = 0\n    colour: int = 7\n\n\n@message\nclass Node",
        ),
    ],
}


def write_next_version(folder: Path) -> Path:
    """This code, changed as a later version might be."""
    for package in ("gating", "learner", "deployments"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in NEXT_VERSION.items():
        text = (folder / name).read_text(encoding="utf-8")
        for old, new in changes:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")
    return folder
