"""Reading a pretrained transformer, and refusing what cannot encode; where its files are is found by `model_files`.

transformers is imported when a model is loaded: it doubles the time of `import gating`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from gating.model_files import first_line, locate, not_found, weight_files

UNLIMITED_WINDOW = 2048
"""Tokens in a window when neither the tokenizer nor the model states a limit (the seed's `max_length`)."""


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
        raise not_found(model_name, [f"{folder}: {first_line(error)}"]) from error
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


def _refuse_unusable(model_name: str, folder: Path, network: Any, tokenizer: Any, missing: Iterable[str]) -> None:
    """Refuse what transformers loads but what cannot encode: random weights, decoders that want an encoder."""
    # The pooler is not used: sentence encoders are often stored without.
    random = sorted(name for name in missing if not name.startswith("pooler."))
    if random:
        raise not_found(model_name, [f"{folder}: its weights lack {len(random)} parameters, such as {random[0]}"])
    if network.config.is_encoder_decoder:
        raise not_found(model_name, [f"{folder}: an encoder-decoder; give an encoder or a causal model"])
    if not tokenizer.is_fast:
        raise not_found(model_name, [f"{folder}: no fast tokenizer (tokenizer.json) for it"])


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
