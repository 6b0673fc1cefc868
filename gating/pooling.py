"""From token states to one embedding a text."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def mean_pooling(model_output: Any, attention_mask: Shaped[Tensor, "batch token"]) -> Float[Tensor, "batch hidden"]:
    """Mean of the real tokens' states, in fp32 or wider: sum(state * mask) / clamp(sum(mask), min=1e-9).

    Args:
        model_output: a Hugging Face model output or tuple; its first element holds the token states,
            [batch, token, hidden].
        attention_mask: 1 for a real token, 0 for padding.
    """
    token_embeddings = model_output[0]
    mask = attention_mask.unsqueeze(-1).expand(token_embeddings.size()).float()
    return torch.sum(token_embeddings * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)


def last_token(
    states: Float[Tensor, "batch token hidden"], attention_mask: Shaped[Tensor, "batch token"]
) -> Float[Tensor, "batch hidden"]:
    """State of each text's last real token, whichever side the padding is on."""
    positions = torch.arange(states.shape[1], device=states.device)
    last = (attention_mask.long() * positions).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]


def mean_over_chunks(chunks: Float[Tensor, "_ hidden"], counts: list[int]) -> Float[Tensor, "batch hidden"]:
    """Mean of each text's chunk embeddings, not normalised again (the seed's formula).

    Args:
        chunks: the embeddings of every text's chunks, text after text.
        counts: how many of them each text has, at least 1; they sum to the number of chunks.
    """
    if len(counts) == len(chunks):  # a chunk each
        return chunks
    lengths = torch.tensor(counts, dtype=torch.long, device=chunks.device)
    return torch.segment_reduce(chunks, "mean", lengths=lengths)
