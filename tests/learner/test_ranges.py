from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from learner.ranges import from_ranges, to_ranges

numbers = st.lists(st.integers(1, 60))


def test_runs_become_ranges_with_both_ends():
    assert to_ranges([7, 3, 1, 2, 9, 3]) == [[1, 3], [7, 7], [9, 9]]
    assert to_ranges([]) == []
    assert from_ranges([(1, 3), [9, 9]]) == [1, 2, 3, 9]


@given(numbers)
def test_ranges_stand_for_the_same_set_in_order(some):
    assert from_ranges(to_ranges(some)) == sorted(set(some))


@given(numbers)
def test_ranges_are_as_few_as_can_be(some):
    ranges = to_ranges(some)
    assert all(first <= last for first, last in ranges)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(ranges))
