import numpy as np
import pytest
import torch

from gating import last_token, mean_pooling
from gating.pooling import mean_over_chunks

MASKS = [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0]]


@pytest.fixture
def states():
    return torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("as_mask", [torch.tensor, lambda rows: torch.tensor(rows).bool()])
def test_the_mean_is_over_real_tokens_only(states, as_mask):
    pooled = mean_pooling((states, "ignored"), as_mask(MASKS))
    for row, mask in enumerate(MASKS):
        real = states.numpy()[row][np.array(mask) == 1]
        np.testing.assert_allclose(pooled[row].numpy(), real.mean(axis=0), rtol=1e-6)


def test_a_text_without_real_tokens_has_mean_zero(states):
    assert torch.equal(mean_pooling((states,), torch.zeros(4, 4)), torch.zeros(4, 3))


def test_the_mean_of_bf16_states_is_taken_in_fp32():
    states = torch.cat([torch.full((1, 1, 1), 256.0), torch.ones(1, 255, 1)], dim=1).bfloat16()
    pooled = mean_pooling((states,), torch.ones(1, 256, dtype=torch.long))
    assert pooled.dtype == torch.float32
    assert pooled.item() == pytest.approx(511 / 256)


def test_the_last_real_token_is_found_on_either_side_of_padding(states):
    last = last_token(states, torch.tensor(MASKS))
    expected = torch.stack([states[0, 3], states[1, 1], states[2, 3], states[3, 1]])
    assert torch.equal(last, expected)


def test_each_text_gets_the_mean_of_its_own_chunks():
    chunks = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0], [2.0, 0.0], [4.0, 6.0], [0.0, 0.0]])
    means = mean_over_chunks(chunks, [2, 1, 3])
    assert torch.equal(means, torch.tensor([[0.5, 0.5], [4.0, 4.0], [2.0, 2.0]]))
