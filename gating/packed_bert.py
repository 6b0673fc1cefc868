"""A BERT's forward pass without padding: the tokens of all texts in one matrix.

All but attention treats each token for itself, and so works on the matrix as it is. In attention texts of one length
go together and need no mask; CUDA has a kernel for texts of any lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, groupby
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gating.packing import plan_packs

ARCHITECTURES = ("BertModel", "RobertaModel", "XLMRobertaModel")
MAX_SCORES = 2**18
"""How many attention scores `attend_by_matmul` holds at once: 1 MiB of fp32, what a core's L2 cache holds."""


@dataclass(frozen=True)
class Pack:
    """The texts of one pass, in order of length.

    Attributes:
        ids: token ids, text after text.
        positions: each token's row among the position embeddings.
        lengths: tokens of each text.
        groups: (texts, tokens of each) for every length that occurs.
    """

    ids: Int[Tensor, " token"]
    positions: Int[Tensor, " token"]
    lengths: Int[Tensor, " batch"]
    groups: tuple[tuple[int, int], ...]


Attention = Callable[[Float[Tensor, "token 3 _ _"], Pack], Float[Tensor, "token hidden"]]
"""Of each token's query, key and value ([token, 3, heads, head's size]) what its text's attention gives."""


@dataclass(frozen=True)
class _Layer:
    qkv: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    attention_norm: torch.nn.Module
    expand: Callable[[Tensor], Tensor]
    activate: Callable[[Tensor], Tensor]
    contract: Callable[[Tensor], Tensor]
    norm: torch.nn.Module


def is_packable(network: torch.nn.Module) -> bool:
    """Whether `PackedBert` computes what this transformers network does."""
    config: Any = network.config
    is_known = type(network).__module__.startswith("transformers.") and type(network).__name__ in ARCHITECTURES
    has_absolute_positions = getattr(config, "position_embedding_type", "absolute") == "absolute"
    return is_known and has_absolute_positions and not config.is_decoder and not config.add_cross_attention


class PackedBert:
    """Mean-pooled, L2-normalised embeddings by a BERT-like network, over the network's own weights."""

    def __init__(self, network: torch.nn.Module, attention: Attention | None = None) -> None:
        """Take the weights from a network for which `is_packable` holds, where they are.

        Args:
            network: shares its weights, but for those that are joined (query, key and value) or
                laid out anew (see `_linear`).
            attention: how to attend; by default what is the fastest on the weights' device and in their precision.
        """
        config: Any = network.config
        embeddings: Any = network.embeddings
        self._words = embeddings.word_embeddings
        self._positions = embeddings.position_embeddings
        self._type = embeddings.token_type_embeddings.weight[0]
        self._norm = embeddings.LayerNorm
        layers: Any = network.encoder
        self._layers = [_join_qkv(layer) for layer in layers.layer]
        self._heads = config.num_attention_heads
        self._device = self._type.device
        self._attend = attention or choose_attention(self._device, self._type.dtype)
        self._uploads = _side_stream(self._device)

    @torch.no_grad()
    def embed(self, chunks: Sequence[tuple[int, ...]], *, max_tokens: int) -> Float[Tensor, "batch hidden"]:
        """fp32 embeddings of sequences of token ids, in the order given.

        Args:
            chunks: at least one sequence, none empty.
            max_tokens: bound on the tokens of one pass; a longer sequence goes alone.
        """
        packs = plan_packs([len(chunk) for chunk in chunks], max_tokens=max_tokens)
        pooled = [self._pool(self._pack([chunks[index] for index in pack])) for pack in packs]
        order = np.argsort(np.fromiter(chain.from_iterable(packs), np.int64, count=len(chunks)))
        return torch.cat(pooled)[self._to_device(torch.from_numpy(order))]

    def _pack(self, chunks: list[tuple[int, ...]]) -> Pack:
        lengths = np.array([len(chunk) for chunk in chunks])
        ids = np.fromiter(chain.from_iterable(chunks), np.int64, count=lengths.sum())
        # One copy to the device rather than three.
        numbers = self._to_device(torch.from_numpy(np.concatenate([ids, self._number(ids, lengths), lengths])))
        lengths_ = numbers[2 * len(ids) :]
        groups = tuple((len(list(group)), int(length)) for length, group in groupby(lengths))
        return Pack(numbers[: len(ids)], numbers[len(ids) : 2 * len(ids)], lengths_, groups)

    def _number(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Positions from 0 on in each text; RoBERTa counts from behind the padding's, and passes over padding."""
        padding = self._positions.padding_idx
        counted = np.ones_like(ids) if padding is None else (ids != padding).astype(np.int64)
        before = np.cumsum(counted) - counted
        numbers: np.ndarray = before - np.repeat(before[np.cumsum(lengths) - lengths], lengths)
        return numbers if padding is None else (numbers + 1) * counted + padding

    def _pool(self, pack: Pack) -> Float[Tensor, "batch hidden"]:
        # Unsafe: without a look at the lengths, for which a GPU would have to come to a halt.
        mean = torch.segment_reduce(self._states(pack).float(), "mean", lengths=pack.lengths, unsafe=True)
        return functional.normalize(mean, p=2, dim=1)

    def _states(self, pack: Pack) -> Float[Tensor, "token hidden"]:
        states: Tensor = self._norm(self._words(pack.ids) + self._type + self._positions(pack.positions))
        for layer in self._layers:
            qkv = layer.qkv(states).view(len(states), 3, self._heads, -1)
            states = layer.attention_norm(layer.project(self._attend(qkv, pack)).add_(states))
            states = layer.norm(layer.contract(layer.activate(layer.expand(states))).add_(states))
        return states

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


def _join_qkv(layer: Any) -> _Layer:
    """A transformers layer's parts, its query, key and value as one."""
    attention = layer.attention.self
    parts = (attention.query, attention.key, attention.value)
    return _Layer(
        qkv=_linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])),
        project=_linear(layer.attention.output.dense.weight, layer.attention.output.dense.bias),
        attention_norm=layer.attention.output.LayerNorm,
        expand=_linear(layer.intermediate.dense.weight, layer.intermediate.dense.bias),
        activate=layer.intermediate.intermediate_act_fn,
        contract=_linear(layer.output.dense.weight, layer.output.dense.bias),
        norm=layer.output.LayerNorm,
    )


def _linear(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """A linear layer; in bf16 on a CPU its weight is a copy in oneDNN's own layout, a tenth faster.

    torch has no public function for that: these are the operators that its compiler freezes weights with.
    """
    operators = torch.ops.mkldnn
    is_known = hasattr(operators, "_reorder_linear_weight") and hasattr(operators, "_linear_pointwise")
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not is_known or not _has_onednn_bf16():
        return lambda states: functional.linear(states, weight, bias)
    laid_out = operators._reorder_linear_weight(weight, None)
    return lambda states: cast(Tensor, operators._linear_pointwise(states, laid_out, bias, "none", [], ""))


def _has_onednn_bf16() -> bool:
    operators = torch.ops.mkldnn
    return hasattr(operators, "_is_mkldnn_bf16_supported") and bool(operators._is_mkldnn_bf16_supported())


def choose_attention(device: torch.device, dtype: torch.dtype) -> Attention:
    """The fastest attention for a device and a precision."""
    is_half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda":
        has_flash = find_spec("torch.nn.attention.varlen") is not None  # torch 2.9 has not
        has_flash = has_flash and torch.cuda.get_device_capability(device) >= (8, 0)
        return attend_by_flash if is_half and has_flash else attend_by_sdpa
    return attend_by_matmul if is_half and device.type == "cpu" else attend_by_sdpa


def attend_by_flash(qkv: Float[Tensor, "token 3 _ _"], pack: Pack) -> Float[Tensor, "token hidden"]:
    """One kernel over all texts; on CUDA, in half precision."""
    # Importing this takes more than a second, which a process that does without it need not spend.
    from torch.nn.attention.varlen import varlen_attn

    ends = functional.pad(pack.lengths.cumsum(0), (1, 0)).int()
    longest = pack.groups[-1][1]
    query, key, value = qkv.unbind(1)
    attended = varlen_attn(query, key, value, ends, ends, longest, longest)
    assert isinstance(attended, Tensor)  # a tuple only if asked for more
    return attended.flatten(1)


def attend_by_sdpa(qkv: Float[Tensor, "token 3 _ _"], pack: Pack) -> Float[Tensor, "token hidden"]:
    """torch's attention, length by length."""
    return _attend_by_length(qkv, pack, functional.scaled_dot_product_attention)


def attend_by_matmul(qkv: Float[Tensor, "token 3 _ _"], pack: Pack) -> Float[Tensor, "token hidden"]:
    """Matrix products with a softmax in fp32 between them, length by length.

    In bf16 on a CPU without AMX it takes half the time of torch's kernel at the lengths of prompts.
    """
    return _attend_by_length(qkv, pack, _attend_in_slices)


def _attend_by_length(
    qkv: Float[Tensor, "token 3 _ _"], pack: Pack, attend: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Float[Tensor, "token hidden"]:
    """`attend` takes and gives [text, head, token, head's size]."""
    attended = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
    start = 0
    for texts, length in pack.groups:
        rows = slice(start, start + texts * length)
        query, key, value = qkv[rows].view(texts, length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
        attended[rows].view(texts, length, *attended.shape[1:]).copy_(attend(query, key, value).transpose(1, 2))
        start = rows.stop
    return attended.flatten(1)


def _attend_in_slices(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention over [text, head, token, head's size], some heads at a time, so that their scores stay in cache."""
    shape = value.shape
    query, key, value = (heads.reshape(-1, *shape[2:]) for heads in (query, key, value))
    ignored = query.new_zeros(1, 1, 1)
    attended = torch.empty_like(value)
    count = max(1, MAX_SCORES // shape[2] ** 2)
    for start in range(0, len(value), count):
        part = slice(start, start + count)
        scores = torch.baddbmm(ignored, query[part], key[part].transpose(1, 2), beta=0, alpha=float(shape[-1] ** -0.5))
        # In fp32: in bf16 torch's softmax is several times slower for most numbers of keys.
        weights: Tensor = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        torch.bmm(weights, value[part], out=attended[part])
    return attended.view(shape)
