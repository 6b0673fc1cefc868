"""Which token sequences share a forward pass."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], *, max_tokens: int, max_padding: int | None = None) -> list[list[int]]:
    """Group sequences of like length into batches of bounded size.

    Args:
        lengths: tokens of each sequence.
        max_tokens: bound on a batch's padded size, its longest length times its number of sequences. A
            sequence longer than that goes alone.
        max_padding: bound on a batch's padding tokens: what a forward pass costs before its first token, in
            tokens. Beyond it two passes are cheaper than one. None for no bound.

    Returns:
        Batches of indices into `lengths`, shortest first; every index is in exactly one.

    Raises:
        ValueError: `max_tokens` is below 1, or `max_padding` or a length is negative.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; give at least 1")
    if max_padding is not None and max_padding < 0:
        raise ValueError(f"max_padding is {max_padding}; give at least 0, or None for no bound")
    if min(lengths, default=0) < 0:
        raise ValueError(f"a length is {min(lengths)}; lengths must not be negative")
    batches: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        padded = length * (len(batches[-1]) + 1) if batches else 0
        is_full = padded > max_tokens or (max_padding is not None and padded - tokens - length > max_padding)
        if not batches or is_full:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += length
    return batches


def plan_packs(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Group sequences of like length into packs, which hold no padding, of bounded size.

    Args:
        lengths: tokens of each sequence.
        max_tokens: bound on the tokens of a pack. A sequence longer than that goes alone.

    Returns:
        Packs of indices into `lengths`, shortest first; every index is in exactly one.

    Raises:
        ValueError: `max_tokens` is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; give at least 1")
    packs: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not packs or tokens + lengths[index] > max_tokens:
            packs.append([])
            tokens = 0
        packs[-1].append(index)
        tokens += lengths[index]
    return packs
