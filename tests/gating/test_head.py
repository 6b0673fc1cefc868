import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gating import remap_rows, score, xavier_rows


def test_a_score_is_the_row_times_the_embedding_plus_the_bias():
    rng = np.random.default_rng(0)
    embedding, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 5), (3, 5), (3,)))
    scores = score(torch.from_numpy(embedding), torch.from_numpy(weight), torch.from_numpy(bias))
    np.testing.assert_allclose(scores.numpy(), embedding @ weight.T + bias, rtol=1e-5, atol=1e-6)


def test_fresh_rows_fill_the_xavier_interval_of_a_single_row():
    rows = xavier_rows(2000, 23, torch.Generator().manual_seed(0))
    bound = math.sqrt(6 / 24)
    assert rows.shape == (2000, 23)
    assert rows.abs().max() <= bound
    assert rows.abs().max() > 0.999 * bound
    assert rows.mean().abs() < 0.01
    assert rows.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_fresh_rows_are_those_that_the_seeds_initialiser_draws():
    torch.manual_seed(5)
    expected = torch.nn.init.xavier_uniform_(torch.empty(1, 23))
    assert torch.equal(xavier_rows(1, 23, torch.Generator().manual_seed(5)), expected)


@given(st.integers(0, 6).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(-1, n - 1), max_size=9))))
def test_every_row_comes_from_its_source_or_is_fresh(case):
    count, source = case
    rows = torch.arange(2.0 * count).reshape(count, 2)
    fresh = -1 - torch.arange(2.0 * len(source)).reshape(len(source), 2)
    remapped = remap_rows(rows, source, fresh)
    unused = iter(fresh)
    expected = [rows[row] if row >= 0 else next(unused) for row in source]
    assert remapped.shape == (len(source), 2)
    assert all(torch.equal(row, wanted) for row, wanted in zip(remapped, expected, strict=True))


def test_remapping_leaves_the_old_rows_alone():
    rows = torch.ones(2, 2)
    remap_rows(rows, [1, -1], torch.zeros(1, 2)).fill_(7)
    assert torch.equal(rows, torch.ones(2, 2))


def test_a_row_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="row 2 was asked for, but there are only 2 rows"):
        remap_rows(torch.zeros(2, 1), [2], torch.zeros(0, 1))


def test_too_few_fresh_rows_are_refused():
    with pytest.raises(ValueError, match="2 fresh rows are needed, got 1"):
        remap_rows(torch.zeros(2, 1), [-1, -1], torch.zeros(1, 1))
