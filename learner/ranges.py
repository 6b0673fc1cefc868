"""Sets of sequence numbers, written as ranges: they come in long runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def to_ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Numbers as ascending [first, last] pairs, both ends included."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def from_ranges(ranges: Iterable[Sequence[int]]) -> list[int]:
    """The numbers that the pairs stand for, in their order."""
    return [number for first, last in ranges for number in range(first, last + 1)]
