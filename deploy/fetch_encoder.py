"""Fetches an encoder's weights while an image is built: fetch_encoder.py FOLDER NAME REVISION."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from huggingface_hub import snapshot_download

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")


def fetch(folder: Path, name: str, revision: str) -> None:
    """Fetch what an encoder needs into the folder, which stays empty without a name.

    Raises:
        ValueError: the revision is no commit; a branch is another model tomorrow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not name:
        return
    if not _COMMIT.fullmatch(revision):
        raise ValueError(f"ENCODER_REVISION must be a commit of {name} (40 hex digits), got {revision!r}")
    snapshot_download(name, revision=revision, local_dir=folder, allow_patterns=list(_PATTERNS))


if __name__ == "__main__":
    fetch(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
