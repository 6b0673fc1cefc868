"""A BERT's forward pass without padding: the tokens of all texts in one matrix.

All but attention treats each token for itself, and so works on the matrix as it is. In attention texts of one length
go together and need no mask; CUDA has a kernel for texts of any lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain, groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gating.packed_pass import ACTIVATIONS, Bert, compile_pass, run_pass
from gating.packing import plan_packs

ARCHITECTURES = ("BertModel", "RobertaModel", "XLMRobertaModel")


def is_packable(network: torch.nn.Module) -> bool:
    """Whether `PackedBert` computes what this transformers network does."""
    if not type(network).__module__.startswith("transformers.") or type(network).__name__ not in ARCHITECTURES:
        return False
    config: Any = network.config
    has_absolute_positions = getattr(config, "position_embedding_type", "absolute") == "absolute"
    is_plain = has_absolute_positions and not config.is_decoder and not config.add_cross_attention
    return is_plain and config.hidden_act in ACTIVATIONS


class PackedBert:
    """Mean-pooled, L2-normalised embeddings by a BERT-like network, over the network's own weights."""

    def __init__(self, network: torch.nn.Module, attention: str | None = None) -> None:
        """Take the weights from a network for which `is_packable` holds, where they are.

        Args:
            network: shares its weights, but for those that are joined (query, key and value) or
                laid out anew (see `_lay_out`).
            attention: how to attend, see `Bert`; by default what is the fastest on the weights' device and in their
                precision.
        """
        embeddings: Any = network.embeddings
        self._network = network
        self._device = embeddings.word_embeddings.weight.device
        self._padding: int | None = embeddings.position_embeddings.padding_idx
        self._bert = _take_weights(network, attention)
        self._uploads = _side_stream(self._device)

    def __reduce__(self) -> tuple[type[PackedBert], tuple[torch.nn.Module, str]]:
        """A copy takes the weights anew: in oneDNN's layout they can be neither copied nor pickled."""
        return PackedBert, (self._network, self._bert.attention)

    @torch.no_grad()
    def embed(self, chunks: Sequence[tuple[int, ...]], *, max_tokens: int) -> Float[Tensor, "batch hidden"]:
        """fp32 embeddings of sequences of token ids, in the order given.

        Args:
            chunks: at least one sequence, none empty.
            max_tokens: bound on the tokens of one pass; a longer sequence goes alone.
        """
        packs = plan_packs([len(chunk) for chunk in chunks], max_tokens=max_tokens)
        pooled = [self._embed_pack([chunks[index] for index in pack]) for pack in packs]
        order = np.argsort(np.fromiter(chain.from_iterable(packs), np.int64, count=len(chunks)))
        return torch.cat(pooled)[self._to_device(torch.from_numpy(order))]

    def _embed_pack(self, chunks: list[tuple[int, ...]]) -> Float[Tensor, "batch hidden"]:
        """One pass, over chunks in order of length."""
        lengths = np.array([len(chunk) for chunk in chunks])
        ids = np.fromiter(chain.from_iterable(chunks), np.int64, count=lengths.sum())
        # One copy to the device rather than three.
        numbers = self._to_device(torch.from_numpy(np.concatenate([ids, self._number(ids, lengths), lengths])))
        groups = [(len(list(group)), int(length)) for length, group in groupby(lengths)]
        run = compile_pass() if self._device.type == "cpu" else run_pass
        return run(self._bert, numbers, len(ids), groups)

    def _number(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Positions from 0 on in each text; RoBERTa counts from behind the padding's, and passes over padding."""
        padding = self._padding
        counted = np.ones_like(ids) if padding is None else (ids != padding).astype(np.int64)
        before = np.cumsum(counted) - counted
        numbers: np.ndarray = before - np.repeat(before[np.cumsum(lengths) - lengths], lengths)
        return numbers if padding is None else (numbers + 1) * counted + padding

    def _to_device(self, tensor: Tensor) -> Tensor:
        """A copy where the weights are; on CUDA it runs beside the passes before, on a stream of its own."""
        if self._uploads is None:
            return tensor.to(self._device)
        with torch.cuda.stream(self._uploads):
            copy = tensor.pin_memory().to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._uploads)
        # The allocator must not give the copy's memory to the next upload while a pass still reads it.
        copy.record_stream(current)
        return copy


def _side_stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


def _take_weights(network: torch.nn.Module, attention: str | None) -> Bert:
    config: Any = network.config
    embeddings: Any = network.embeddings
    encoder: Any = network.encoder
    words = embeddings.word_embeddings.weight.detach()
    is_laid_out = words.device.type == "cpu" and words.dtype == torch.bfloat16 and _has_onednn_bf16()
    linears, norms = [], [_parameters(embeddings.LayerNorm)]
    for layer in encoder.layer:
        own = layer.attention.self
        parts = [_parameters(part) for part in (own.query, own.key, own.value)]
        joined = torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])
        others = (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense)
        linears += [joined, *(_parameters(linear) for linear in others)]
        norms += [_parameters(norm) for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm)]
    return Bert(
        words=words,
        positions=embeddings.position_embeddings.weight.detach(),
        kind=embeddings.token_type_embeddings.weight[0].detach(),
        linears=[(_lay_out(weight), bias) for weight, bias in linears] if is_laid_out else linears,
        norms=norms,
        epsilon=config.layer_norm_eps,
        heads=config.num_attention_heads,
        activation=config.hidden_act,
        is_laid_out=is_laid_out,
        attention=attention or choose_attention(words.device, words.dtype, len(words[0]) // config.num_attention_heads),
    )


def _parameters(module: Any) -> tuple[Tensor, Tensor]:
    return module.weight.detach(), module.bias.detach()


def _lay_out(weight: Tensor) -> Tensor:
    """A copy in oneDNN's own layout, with which products are a tenth faster in bf16 on a CPU.

    torch has no public function for that: this is the operator that its compiler freezes weights with.
    """
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return laid_out


def _has_onednn_bf16() -> bool:
    operators = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    return all(hasattr(operators, name) for name in names) and bool(operators._is_mkldnn_bf16_supported())


def choose_attention(device: torch.device, dtype: torch.dtype, head_size: int) -> str:
    """The fastest attention for a device, a precision and the numbers of a head, see `Bert`."""
    is_half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda":
        # The kernel refuses heads of other sizes, such as TinyBERT's 26.
        has_flash = is_half and head_size % 8 == 0 and head_size <= 256
        has_flash = has_flash and find_spec("torch.nn.attention.varlen") is not None  # torch 2.9 has not
        return "flash" if has_flash and torch.cuda.get_device_capability(device) >= (8, 0) else "sdpa"
    return "matmul" if is_half and device.type == "cpu" else "sdpa"
