"""One forward pass over packed texts, as functions in the part of Python that TorchScript compiles.

Compiled, a pass is one call, which does not hold Python's lock. Called one by one, its some 150 operations let the lock
go and take it again as often, and wait for it each time if another thread, such as an event loop, wants it too.
TorchScript is deprecated, but nothing else in torch does that without a C++ compiler at hand; where it fails the same
functions run as they are.

`no_type_check` is for jaxtyping, whose checks would hide a function's source from TorchScript.
"""

# TorchScript reads annotations as they stand: typing's List and Optional, Tensor without axes, nothing postponed.
# ruff: noqa: UP006, UP007, UP035, UP045

import functools
import logging
import warnings
from collections.abc import Callable
from typing import List, NamedTuple, Optional, Tuple, Union, cast, no_type_check

import torch
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
"""The activations that a pass knows, by transformers' names."""
MAX_SCORES = 2**18
"""How many attention scores `matmul` holds at once: 1 MiB of fp32, what a core's L2 cache holds."""
SHORT = 48
"""Texts of so many tokens are attended by torch's own kernel even where `matmul` is chosen: one call is the faster."""


class Bert(NamedTuple):
    """A network as a pass takes it.

    Attributes:
        words: embeddings, [vocabulary, hidden].
        positions: embeddings, [position, hidden].
        kind: the embedding of the only token type there is, [hidden].
        linears: weight and bias of four products a layer: query, key and value in one; attention's output; the two of
            the feed-forward network.
        norms: gain and shift of the LayerNorm of the embeddings, then of two a layer.
        epsilon: every LayerNorm's.
        heads: of attention.
        activation: one of `ACTIVATIONS`.
        is_laid_out: whether the linears' weights are in oneDNN's own layout.
        attention: "sdpa" for torch's kernel, length by length; "matmul" for matrix products with a softmax in fp32
            between them, which in bf16 on a CPU without AMX takes half the time at the lengths of prompts; "flash" for
            one kernel over all texts, on CUDA in half precision, and not compiled.
        max_scores: as `MAX_SCORES`.
        short: as `SHORT`.
    """

    words: Tensor
    positions: Tensor
    kind: Tensor
    linears: List[Tuple[Tensor, Tensor]]
    norms: List[Tuple[Tensor, Tensor]]
    epsilon: float
    heads: int
    activation: str
    is_laid_out: bool
    attention: str
    max_scores: int = MAX_SCORES
    short: int = SHORT


RunPass = Callable[[Bert, Tensor, int, List[Tuple[int, int]]], Tensor]


@no_type_check
def run_pass(bert: Bert, numbers: Tensor, tokens: int, groups: List[Tuple[int, int]]) -> Tensor:
    """Mean-pooled, L2-normalised embeddings of the texts of one pass.

    Args:
        bert: the network.
        numbers: the tokens' ids, then their rows among the position embeddings, then the texts' lengths, in one tensor.
        tokens: of all texts.
        groups: (texts, tokens of each) for every length that occurs, in the texts' order.

    Returns:
        fp32, [text, hidden].
    """
    ids, positions, lengths = numbers[:tokens], numbers[tokens : 2 * tokens], numbers[2 * tokens :]
    states = functional.embedding(ids, bert.words) + bert.kind + functional.embedding(positions, bert.positions)
    states = _norm(bert, 0, states)
    for layer in range(len(bert.linears) // 4):
        attended = _attend(bert, _linear(bert, 4 * layer, states, "none"), lengths, groups)
        states = _norm(bert, 2 * layer + 1, _linear(bert, 4 * layer + 1, attended, "none").add_(states))
        inner = _linear(bert, 4 * layer + 2, states, bert.activation)
        states = _norm(bert, 2 * layer + 2, _linear(bert, 4 * layer + 3, inner, "none").add_(states))
    # Unsafe: without a look at the lengths, for which a GPU would have to come to a halt.
    mean = torch.segment_reduce(states.float(), "mean", lengths=lengths, unsafe=True)
    return functional.normalize(mean, p=2.0, dim=1)


@no_type_check
def _norm(bert: Bert, index: int, states: Tensor) -> Tensor:
    gain, shift = bert.norms[index]
    return torch.layer_norm(states, [states.size(1)], gain, shift, bert.epsilon)


@no_type_check
def _linear(bert: Bert, index: int, states: Tensor, activation: str) -> Tensor:
    """A product; its activation is part of oneDNN's kernel where that has it."""
    weight, bias = bert.linears[index]
    if bert.is_laid_out:
        scalars: List[Optional[Union[int, float, complex]]] = []
        fused = activation if activation in ("gelu", "relu") else "none"
        product = torch.ops.mkldnn._linear_pointwise(states, weight, bias, fused, scalars, "none")
        return product if fused == activation else functional.gelu(product, approximate="tanh")
    product = functional.linear(states, weight, bias)
    if activation == "none":
        return product
    if activation == "relu":
        return functional.relu(product)
    return functional.gelu(product, approximate="none" if activation == "gelu" else "tanh")


@no_type_check
def _attend(bert: Bert, joined: Tensor, lengths: Tensor, groups: List[Tuple[int, int]]) -> Tensor:
    """What each token's text gives it; from query, key and value, [token, 3 hidden], to [token, hidden]."""
    heads, size = bert.heads, joined.size(1) // (3 * bert.heads)
    if not torch.jit.is_scripting():  # noqa: SIM102 (in one condition TorchScript would compile what is in it)
        if bert.attention == "flash":
            return _attend_by_flash(joined.view(-1, 3, heads, size), lengths, groups[-1][1])
    attended = torch.empty([len(joined), heads * size], dtype=joined.dtype, device=joined.device)
    start = 0
    for texts, length in groups:
        end = start + texts * length
        query, key, value = joined[start:end].view(texts, length, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        if bert.attention == "matmul" and length > bert.short:
            part = _attend_in_slices(query, key, value, bert.max_scores)
        else:
            part = functional.scaled_dot_product_attention(query, key, value)
        attended[start:end].view(texts, length, heads, size).copy_(part.transpose(1, 2))
        start = end
    return attended


@no_type_check
def _attend_in_slices(query: Tensor, key: Tensor, value: Tensor, max_scores: int) -> Tensor:
    """Attention over [text, head, token, head's size], some heads at a time, so that their scores stay in cache."""
    texts, heads, length, size = value.size(0), value.size(1), value.size(2), value.size(3)
    query, key, value = query.reshape(-1, length, size), key.reshape(-1, length, size), value.reshape(-1, length, size)
    ignored = query.new_zeros([1, 1, 1])
    attended = torch.empty_like(value)
    count = max(1, max_scores // (length * length))
    for start in range(0, texts * heads, count):
        end = min(start + count, texts * heads)
        scores = torch.baddbmm(ignored, query[start:end], key[start:end].transpose(1, 2), beta=0, alpha=size**-0.5)
        # In fp32: in bf16 torch's softmax is several times slower for most numbers of keys.
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        torch.bmm(weights, value[start:end], out=attended[start:end])
    return attended.view(texts, heads, length, size)


@no_type_check
def _attend_by_flash(qkv: Tensor, lengths: Tensor, longest: int) -> Tensor:
    # Importing this takes more than a second, which a process that does without it need not spend.
    from torch.nn.attention.varlen import varlen_attn

    ends = functional.pad(lengths.cumsum(0), (1, 0)).int()
    query, key, value = qkv.unbind(1)
    return varlen_attn(query, key, value, ends, ends, longest, longest).flatten(1)


@functools.cache
def compile_pass() -> RunPass:
    """`run_pass`, compiled if that can be done."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is", DeprecationWarning)
        try:
            return cast(RunPass, torch.jit.script(run_pass))
        except Exception as error:  # noqa: BLE001 (whatever it is, the functions run as they are)
            logger.warning("pass_not_compiled because=%r", str(error).strip().partition("\n")[0])
            return cast(RunPass, run_pass)
