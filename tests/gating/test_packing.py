from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gating import plan_batches
from gating.packing import plan_packs

lengths_of_texts = st.lists(st.integers(0, 300), max_size=80)
budgets = st.integers(1, 2000)
paddings = st.none() | st.integers(0, 500)


@given(lengths_of_texts, budgets, paddings)
def test_every_sequence_is_in_exactly_one_batch(lengths, max_tokens, max_padding):
    batches = plan_batches(lengths, max_tokens=max_tokens, max_padding=max_padding)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)


@given(lengths_of_texts, budgets, paddings)
def test_no_batch_of_several_exceeds_the_budget(lengths, max_tokens, max_padding):
    for batch in plan_batches(lengths, max_tokens=max_tokens, max_padding=max_padding):
        padded = max(lengths[index] for index in batch) * len(batch)
        assert len(batch) == 1 or padded <= max_tokens


@given(lengths_of_texts, budgets, st.integers(0, 500))
def test_no_batch_has_more_padding_than_allowed(lengths, max_tokens, max_padding):
    for batch in plan_batches(lengths, max_tokens=max_tokens, max_padding=max_padding):
        sizes = [lengths[index] for index in batch]
        assert max(sizes) * len(sizes) - sum(sizes) <= max_padding


@given(lengths_of_texts, budgets)
def test_a_batch_ends_only_where_the_next_sequence_does_not_fit(lengths, max_tokens):
    batches = plan_batches(lengths, max_tokens=max_tokens)
    for batch, following in pairwise(batches):
        assert lengths[following[0]] * (len(batch) + 1) > max_tokens


@given(lengths_of_texts, budgets, paddings)
def test_batches_are_in_order_of_length(lengths, max_tokens, max_padding):
    batches = plan_batches(lengths, max_tokens=max_tokens, max_padding=max_padding)
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths)


def test_a_sequence_over_the_budget_goes_alone():
    assert plan_batches([9, 100, 2, 200], max_tokens=20) == [[2, 0], [1], [3]]


def test_padding_beyond_the_bound_splits_a_batch_that_would_fit():
    assert plan_batches([1, 1, 8, 9], max_tokens=100) == [[0, 1, 2, 3]]
    assert plan_batches([1, 1, 8, 9], max_tokens=100, max_padding=2) == [[0, 1], [2, 3]]


def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match="max_tokens is 0"):
        plan_batches([1], max_tokens=0)
    with pytest.raises(ValueError, match="max_padding is -1"):
        plan_batches([1], max_tokens=1, max_padding=-1)
    with pytest.raises(ValueError, match="a length is -3"):
        plan_batches([1, -3], max_tokens=1)


@given(lengths_of_texts, budgets)
def test_packs_are_full_in_order_of_length_and_hold_every_sequence_once(lengths, max_tokens):
    packs = plan_packs(lengths, max_tokens=max_tokens)
    in_order = [index for pack in packs for index in pack]
    assert sorted(in_order) == list(range(len(lengths)))
    assert [lengths[index] for index in in_order] == sorted(lengths)
    sizes = [sum(lengths[index] for index in pack) for pack in packs]
    assert all(size <= max_tokens or len(pack) == 1 for size, pack in zip(sizes, packs, strict=True))
    for size, following in zip(sizes, packs[1:], strict=False):
        assert size + lengths[following[0]] > max_tokens


def test_a_pack_needs_room():
    with pytest.raises(ValueError, match="max_tokens is 0"):
        plan_packs([1], max_tokens=0)
