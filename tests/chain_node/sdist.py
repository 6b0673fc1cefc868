"""Real runtime metadata, from the fixtures in bittensor's own source distribution."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "bittensor-sdist"


class NoSdistError(Exception):
    """The source distribution cannot be fetched."""


def read_golden() -> dict[str, Any]:
    """`tests/fixtures/golden.json` of the installed bittensor's release; fetched once, then kept in `.cache/`.

    Raises:
        NoSdistError: it is not there and cannot be fetched.
    """
    release = version("bittensor")
    kept = FOLDER / f"golden-{release}.json"
    if not kept.exists():
        content = _fetch(release)
        FOLDER.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(content)
        unfinished.replace(kept)
    golden: dict[str, Any] = json.loads(kept.read_bytes())
    return golden


def _fetch(release: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command = [*download, "--no-binary", "bittensor", "--dest", folder, f"bittensor=={release}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            raise NoSdistError(f"pip cannot fetch bittensor {release}: {done.stderr.strip()[-300:]}")
        (archive,) = Path(folder).glob("bittensor-*.tar.gz")
        with tarfile.open(archive) as files:
            member = files.extractfile(f"bittensor-{release}/tests/fixtures/golden.json")
            assert member is not None
            return member.read()
