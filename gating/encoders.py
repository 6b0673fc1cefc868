"""Frozen text encoders: texts -> embeddings, and the choice of device and precision for them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gating.model_source import PretrainedModel, load_pretrained
from gating.packed_bert import PackedBert, is_packable
from gating.packing import plan_batches
from gating.pooling import last_token, mean_over_chunks, mean_pooling

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_TOKENS = 8192
"""Default bound on the tokens of one forward pass, padding included where there is some."""
CPU_PACK_TOKENS = 1024
"""Bound on the tokens of a packed pass on a CPU: the states of more leave its caches (measured with MiniLM-L6)."""
CPU_MAX_PADDING = 64
"""On a CPU a forward pass costs about as much as this many tokens before its first one (measured with MiniLM-L6:
twice the texts a second of unbounded padding). An accelerator is the better for fewer, larger passes."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text as its encoder reads it.

    Attributes:
        chunks: token ids of each window-sized piece, special tokens included; at least one, none empty.
    """

    chunks: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.chunks or not all(self.chunks):
            raise ValueError("a tokenized text needs at least one chunk, and a token in each; see Encoder.tokenize")

    @property
    def num_tokens(self) -> int:
        """Tokens over all chunks: what encoding the text costs."""
        return sum(len(chunk) for chunk in self.chunks)


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into embeddings; the same text gives the same embedding in whatever batch it comes."""

    @property
    def dim(self) -> int:
        """Size of an embedding."""
        ...

    @property
    def window(self) -> int:
        """Tokens in one forward pass of one text, special tokens included."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of what decides the embeddings: kind, window, tokenizer and weights, not the precision."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Token ids of each text; may run in another thread than `embed`."""
        ...

    def embed(self, tokenized: Sequence[TokenizedText]) -> Float[Tensor, "batch hidden"]:
        """fp32 embeddings without gradient, in the order given."""
        ...

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "batch hidden"]:
        """`embed(tokenize(texts))`."""
        ...


class _TransformerEncoder(ABC):
    """What both encoders share: tokens in, states of right-padded batches of bounded size, one vector a chunk."""

    kind: ClassVar[str]
    max_chunks: ClassVar[int | None]
    """How many chunks of a text are read; None for all."""
    is_mean: ClassVar[bool]
    """Whether a chunk's vector is the mean of its tokens' states, which needs no padding."""

    def __init__(
        self,
        *,
        model: PretrainedModel,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Take over a model.

        Args:
            model: what to encode with; its network is moved to the device.
            device: where to compute.
            batch_tokens: bound on the tokens of one forward pass, padding included; at least 1.

        Raises:
            ValueError: `batch_tokens` is below 1.
        """
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens is {batch_tokens}; give at least 1")
        self.dim = model.dim
        self.window = model.window
        self.device = device
        self.batch_tokens = batch_tokens
        self._max_padding = CPU_MAX_PADDING if device.type == "cpu" else None
        self.fingerprint = hashlib.sha256(f"{self.kind}\n{model.digest}".encode()).hexdigest()
        self.network = model.network.to(device)
        self._tokenizer = model.tokenizer
        self._empty = (model.empty_id,)
        self._packed = PackedBert(self.network) if self.is_mean and is_packable(self.network) else None
        self._pack_tokens = min(batch_tokens, CPU_PACK_TOKENS) if device.type == "cpu" else batch_tokens

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Token ids of each text, cut into windows. Lone surrogates, which no tokenizer takes, become "?".

        Raises:
            TypeError: `texts` is one string, or holds something else than strings.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one str; give a sequence of them, [text]")
        wrong = [type(text).__name__ for text in texts if not isinstance(text, str)]
        if wrong:
            raise TypeError(f"texts holds a {wrong[0]}; give only str")
        valid = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        tokenized = []
        for encoding in self._tokenizer.encode_batch_fast(valid):
            pieces = [encoding, *encoding.overflowing][: self.max_chunks]
            tokenized.append(TokenizedText(tuple(tuple(piece.ids) or self._empty for piece in pieces)))
        return tokenized

    @abstractmethod
    def embed(self, tokenized: Sequence[TokenizedText]) -> Float[Tensor, "batch hidden"]:
        """fp32 embeddings without gradient, in the order given, on `device`."""

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "batch hidden"]:
        """`embed(tokenize(texts))`."""
        return self.embed(self.tokenize(texts))

    @abstractmethod
    def _pool(
        self, states: Float[Tensor, "batch token hidden"], mask: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch hidden"]:
        """One fp32 vector a chunk."""

    @torch.no_grad()
    def _encode_chunks(self, chunks: Sequence[tuple[int, ...]]) -> Float[Tensor, "batch hidden"]:
        pooled = torch.empty(len(chunks), self.dim, device=self.device)
        lengths = [len(chunk) for chunk in chunks]
        for indices in plan_batches(lengths, max_tokens=self.batch_tokens, max_padding=self._max_padding):
            ids, mask = _pad([chunks[index] for index in indices])
            ids, mask = ids.to(self.device), mask.to(self.device)
            states = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled[torch.tensor(indices, device=self.device)] = self._pool(states, mask)
        return pooled


class SentenceEncoder(_TransformerEncoder):
    """Every chunk of a text mean-pooled and L2-normalised, then the mean over its chunks.

    BERT and its like are computed without padding, see `gating.packed_bert`.
    """

    kind = "sentence"
    max_chunks = None
    is_mean = True

    def embed(self, tokenized: Sequence[TokenizedText]) -> Float[Tensor, "batch hidden"]:
        """fp32 embeddings without gradient; those of texts of one chunk have length 1."""
        if not tokenized:
            return torch.empty(0, self.dim, device=self.device)
        chunks = [chunk for text in tokenized for chunk in text.chunks]
        if self._packed is None:
            embeddings = self._encode_chunks(chunks)
        else:
            embeddings = self._packed.embed(chunks, max_tokens=self._pack_tokens)
        return mean_over_chunks(embeddings, [len(text.chunks) for text in tokenized])

    def _pool(
        self, states: Float[Tensor, "batch token hidden"], mask: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch hidden"]:
        return torch.nn.functional.normalize(mean_pooling((states,), mask), p=2, dim=1)


class CausalEncoder(_TransformerEncoder):
    """The last real token's state of a text's first chunk."""

    kind = "causal"
    max_chunks = 1
    is_mean = False

    def embed(self, tokenized: Sequence[TokenizedText]) -> Float[Tensor, "batch hidden"]:
        """fp32 embeddings without gradient."""
        return self._encode_chunks([text.chunks[0] for text in tokenized])

    def _pool(
        self, states: Float[Tensor, "batch token hidden"], mask: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch hidden"]:
        return last_token(states, mask).float()


def build_encoder(
    kind: Literal["sentence", "causal"],
    model_name: str,
    *,
    device: str = "auto",
    dtype: str = "fp32",
    batch_tokens: int = BATCH_TOKENS,
) -> Encoder:
    """Load a pretrained model as an encoder.

    Args:
        kind: "sentence" (mean-pooled) or "causal" (last token).
        model_name: a Hugging Face name, a local folder, or `package:NAME` for weights inside a Python package.
        device: "auto" or the name of a torch device.
        dtype: "fp32", "bf16", "fp16" or "auto".
        batch_tokens: bound on the tokens of one forward pass, padding included.

    Raises:
        ValueError: an unknown kind, device or dtype.
        ModelNotFoundError: no model could be loaded under that name.
    """
    encoders: dict[str, type[_TransformerEncoder]] = {"sentence": SentenceEncoder, "causal": CausalEncoder}
    if kind not in encoders:
        raise ValueError(f'kind is {kind!r}; give "sentence" or "causal"')
    where = resolve_device(device)
    model = load_pretrained(model_name, dtype=resolve_dtype(dtype, where))
    return encoders[kind](model=model, device=where, batch_tokens=batch_tokens)


def resolve_device(name: str) -> torch.device:
    """The device of that name; for "auto" this machine's accelerator, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    count = torch.accelerator.device_count() if accelerator else 0
    here = ["cpu"] + ([accelerator.type] if accelerator else []) + [f"{accelerator}:{index}" for index in range(count)]
    if name not in here:
        raise ValueError(f'device is {name!r}; give "auto" or one that this machine has: {", ".join(here)}')
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of that name; for "auto" bf16 where the processor has it, else fp32 on a CPU, fp16 elsewhere.

    Raises:
        ValueError: no such precision.
    """
    if name == "auto":
        if _has_bf16(device):
            return torch.bfloat16
        return torch.float32 if device.type == "cpu" else torch.float16
    if name not in DTYPES:
        raise ValueError(f'dtype is {name!r}; give "auto" or one of {", ".join(DTYPES)}')
    return DTYPES[name]


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    # torch 2.9 has no public question.
    return bool(torch.cpu._is_avx512_bf16_supported())


def _pad(chunks: Sequence[tuple[int, ...]]) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"]]:
    """Token ids and attention mask, padded on the right with id 0, which every vocabulary has."""
    longest = max(len(chunk) for chunk in chunks)
    ids = torch.tensor([chunk + (0,) * (longest - len(chunk)) for chunk in chunks])
    lengths = torch.tensor([len(chunk) for chunk in chunks])
    return ids, (torch.arange(longest) < lengths.unsqueeze(1)).long()
